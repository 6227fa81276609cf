"""Fluid flows: transfers as streams that share the links max-min fairly, from event to event.

No flow's rate can rise without lowering one that is not faster: every flow stands at its cap, or has a bottleneck, a
full link on which none is faster. Such rates are unique. When flows start or end, only a few are solved again: those
that start and those whose bottleneck changes; the others' rates count as given. Then the condition above is checked
on the links of these flows: whoever no longer has a bottleneck joins them, until none does. What no flow of them
touches cannot have changed, so the rates are those of solving everything afresh.

What a flow has left is brought up to date only when its rate changes; ends wait in a heap.
"""

import math
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

import numpy as np

from parsim.errors import SpecError
from parsim.network.maxmin import Incidence, max_min_rates

__all__ = ["Fluid"]

_HUGE = 1e300  # bytes/s from which a link never is a bottleneck: sums of capacities stay finite
_ALIKE = 1e-10  # relative difference of rates that is rounding
_FULL = 1e-12  # a link is full if less than this part of it is free
_AT_ONCE = 1e-12  # ends so close, relative to the time, are one event
_ARRAYS_FROM = 400  # flows from which arrays are faster than lists
_RESUM_EVERY = 1 << 15  # events between two fresh sums of the loads: rounding does not pile up


class _Flow:
    """A flow on its way; `left` bytes at `since_s`."""

    __slots__ = (
        "bottleneck",
        "cap",
        "end_s",
        "left",
        "new_bottleneck",
        "new_rate",
        "number",
        "queued_s",
        "rate",
        "since_s",
        "uses",
    )

    def __init__(self, number: int, uses: tuple[tuple[int, float], ...], size: float, cap: float, now: float) -> None:
        self.number = number
        self.uses = uses
        self.left = size
        self.cap = cap
        self.since_s = now
        self.rate = 0.0
        self.new_rate = 0.0
        self.bottleneck = -1
        self.new_bottleneck = -1
        self.end_s = math.inf
        self.queued_s = math.inf


class _Waits(NamedTuple):
    """An end in the heap; it may have moved to later since."""

    end_s: float
    number: int
    flow: _Flow


class Fluid:
    """Flows over links of given capacities (bytes/s, one direction), at one moment of time (s, from 0)."""

    def __init__(self, capacities: Iterable[float]) -> None:
        """SpecError for a capacity that is not above 0."""
        self._capacity = [float(each) for each in capacities]
        for link, capacity in enumerate(self._capacity):
            if not capacity >= 1e-300:
                raise SpecError(f"link {link} carries {capacity:g} bytes/s: more than 0, or no flow over it ever ends")
        self._load = [0.0] * len(self._capacity)
        self._on: list[dict[_Flow, float]] = [{} for _ in self._capacity]  # flow -> its weight
        self._bound: list[dict[_Flow, None]] = [{} for _ in self._capacity]  # flows whose bottleneck it is
        self._flows: dict[int, _Flow] = {}
        self._heap: list[_Waits] = []
        self._unsolved: dict[_Flow, None] = {}  # flows that start now, or that may rise because others ended
        self._now = 0.0
        self._next = 0
        self._events = 0

    @property
    def now_s(self) -> float:
        """The time at which flows start."""
        return self._now

    @property
    def flows(self) -> int:
        """Number of flows on their way."""
        return len(self._flows)

    @property
    def next_end_s(self) -> float:
        """When the next flow ends, if none starts before; infinity if none is on its way."""
        self._solve()
        heap = self._heap
        while heap:
            end_s, _, flow = heap[0]
            if flow.end_s == end_s:
                return end_s
            heappop(heap)
            if flow.queued_s == end_s:
                flow.queued_s = math.inf
                self._queue(flow)
        return math.inf

    def rate(self, flow: int) -> float:
        """Bytes/s of a flow on its way. SpecError if it has ended or never started."""
        self._solve()
        return self._at(flow).rate

    def left_bytes(self, flow: int) -> float:
        """What a flow on its way has yet to carry, now."""
        self._solve()
        found = self._at(flow)
        return _left(found, self._now)

    def start(
        self, route: Sequence[int], size_bytes: float, cap: float | None = None, weights: Sequence[float] | None = None
    ) -> int:
        """Start a flow of a size over links, at `cap` bytes/s at most; the number it goes by.

        A flow takes its rate of every link of the route, or `weights` times its rate; twice of a link that is there
        twice. A flow without links has only its cap, if any; without bytes it ends at once. SpecError for a size that
        is negative or no number, a cap or weight that is not above 0, and a link that does not exist.
        """
        if not 0 <= size_bytes < _HUGE:
            raise SpecError(f"a flow of {size_bytes:g} bytes: 0 or more, below {_HUGE:g}")
        limit = math.inf if cap is None else float(cap)
        if not limit >= 1e-300:
            raise SpecError(f"a flow's cap is {limit:g} bytes/s: more than 0, or leave it out")
        uses = self._uses(route, weights)
        flow = _Flow(self._next, uses if size_bytes else (), float(size_bytes), limit, self._now)
        self._next += 1
        self._flows[flow.number] = flow
        if flow.uses:
            for link, weight in uses:
                self._on[link][flow] = weight
            self._unsolved[flow] = None
        else:
            flow.rate = limit
            flow.end_s = self._now + (size_bytes / limit if size_bytes else 0.0)
            self._queue(flow)
        return flow.number

    def advance(self, to_s: float) -> list[int]:
        """Let time pass up to and with `to_s`; the flows that end, in order. SpecError if `to_s` has passed.

        An infinite `to_s` ends all flows, and the time is the end of the last.
        """
        if not to_s >= self._now:
            raise SpecError(f"time {to_s:g} s: the flows are at {self._now:g} s already, and time only goes on")
        ended: list[int] = []
        while (end_s := self.next_end_s) <= to_s and end_s < math.inf:
            self._now = max(end_s, self._now)
            latest = min(end_s + _AT_ONCE * abs(end_s), to_s)
            while self._heap and self._heap[0].end_s <= latest:
                waited_s, _, flow = heappop(self._heap)
                if flow.end_s != waited_s:
                    if flow.queued_s == waited_s:
                        flow.queued_s = math.inf
                        self._queue(flow)
                elif flow.number in self._flows:
                    ended.append(flow.number)
                    self._end(flow)
        if to_s < math.inf:
            self._now = to_s
        return ended

    def _at(self, number: int) -> _Flow:
        if number not in self._flows:
            raise SpecError(f"flow {number} is not on its way; {len(self._flows)} flows are")
        return self._flows[number]

    def _uses(self, route: Sequence[int], weights: Sequence[float] | None) -> tuple[tuple[int, float], ...]:
        """Links with weights, each once, without those that never are a bottleneck."""
        links, capacity = len(self._capacity), self._capacity
        for link in route:
            if not 0 <= link < links:
                raise SpecError(f"a route takes link {link}; there are {links}, from 0")
        if weights is None:
            if len(set(route)) == len(route):
                return tuple([(link, 1.0) for link in route if capacity[link] < _HUGE])
            weights = [1.0] * len(route)
        total: dict[int, float] = {}
        for link, weight in zip(route, weights, strict=True):
            if not 1e-300 <= weight < _HUGE:
                raise SpecError(f"weight {weight:g} on link {link}: more than 0 and finite")
            if capacity[link] < _HUGE:
                total[link] = total.get(link, 0.0) + weight
        return tuple(total.items())

    def _queue(self, flow: _Flow) -> None:
        """See that the heap has the flow's end, or an earlier one of it."""
        if flow.end_s < flow.queued_s:
            flow.queued_s = flow.end_s
            heappush(self._heap, _Waits(flow.end_s, flow.number, flow))
            if len(self._heap) > 4 * len(self._flows) + 64:
                self._heap = [waits for waits in self._heap if waits.flow.queued_s == waits.end_s]
                heapify(self._heap)

    def _end(self, flow: _Flow) -> None:
        """Take a flow off its links; those whose bottleneck it was on may rise."""
        del self._flows[flow.number]
        self._unsolved.pop(flow, None)
        rate = flow.rate
        if flow.bottleneck >= 0:
            del self._bound[flow.bottleneck][flow]
        for link, weight in flow.uses:
            on = self._on[link]
            del on[flow]
            self._load[link] = self._load[link] - rate * weight if on else 0.0
            if self._bound[link]:
                self._unsolved.update(self._bound[link])

    def _solve(self) -> None:
        """Give all unsolved flows, and whoever loses its bottleneck by that, their rates."""
        if not self._unsolved:
            return
        chosen, self._unsolved = self._unsolved, {}
        self._events += len(chosen)
        if self._events > _RESUM_EVERY:
            self._sum_afresh()
        for flow in [flow for flow in chosen if not flow.rate]:
            chosen.update(self._rivals(flow))
        while True:
            touched = self._fill(chosen)
            joining: dict[_Flow, None] = {}
            for link, share in touched.items():
                self._losers(link, share, chosen, joining)
            if not joining:
                break
            chosen.update(joining)
        for link, share in touched.items():
            self._load[link] = self._capacity[link] - share.room
        for flow in chosen:
            self._set(flow)

    def _sum_afresh(self) -> None:
        self._events = 0
        for link, on in enumerate(self._on):
            self._load[link] = math.fsum(flow.rate * weight for flow, weight in on.items())

    def _rivals(self, flow: _Flow) -> Iterable[_Flow]:
        """A guess at whom a new flow slows: those bound by the link of its route that leaves it least."""
        least, rivals = flow.cap, ()
        for link, _ in flow.uses:
            bound = self._bound[link]
            room = self._capacity[link] - self._load[link]
            if bound:
                room += len(bound) * next(iter(bound)).rate
            if room < least * (len(bound) + 1):
                least, rivals = room / (len(bound) + 1), bound
        return rivals

    def _fill(self, chosen: dict[_Flow, None]) -> dict[int, "_Share"]:
        """New rates of the chosen flows beside the others, which keep theirs; the links they touch."""
        touched: dict[int, _Share] = {}
        for flow in chosen:
            for link, weight in flow.uses:
                share = touched.get(link)
                if share is None:
                    share = touched[link] = _Share(self._capacity[link] - self._load[link])
                share.room += flow.rate * weight
                share.weight += weight
                share.flows.append(flow)
        if len(chosen) == 1:
            _fill_one(next(iter(chosen)), touched)
        elif len(chosen) < _ARRAYS_FROM:
            _fill_lists(chosen, touched)
        else:
            _fill_arrays(chosen, touched)
        return touched

    def _losers(self, link: int, share: "_Share", chosen: dict[_Flow, None], joining: dict[_Flow, None]) -> None:
        """Add the flows on a link that are not chosen and are not as they should be beside the new rates."""
        bound = self._bound[link]
        others = [flow for flow in bound if flow not in chosen]
        top = max([flow.new_rate for flow in share.flows])
        if others:
            level = others[0].rate
            if share.room > _FULL * self._capacity[link] or top > level * (1 + _ALIKE):
                joining.update(dict.fromkeys(others))
        if len(share.flows) < len(self._on[link]) and any([flow.new_bottleneck == link for flow in share.flows]):
            fastest = top * (1 + _ALIKE)
            for flow in self._on[link]:
                if flow.rate > fastest and flow not in chosen:
                    joining[flow] = None

    def _set(self, flow: _Flow) -> None:
        """Make the new rate the rate from now on."""
        if flow.new_bottleneck != flow.bottleneck:
            if flow.bottleneck >= 0:
                del self._bound[flow.bottleneck][flow]
            if flow.new_bottleneck >= 0:
                self._bound[flow.new_bottleneck][flow] = None
            flow.bottleneck = flow.new_bottleneck
        if flow.new_rate != flow.rate:
            flow.left = _left(flow, self._now)
            flow.since_s = self._now
            flow.rate = flow.new_rate
            flow.end_s = self._now + flow.left / flow.rate if flow.rate else math.inf
            self._queue(flow)


class _Share:
    """What the chosen flows may share of a link, the sum of their weights, and the flows."""

    __slots__ = ("flows", "room", "weight")

    def __init__(self, room: float) -> None:
        self.room = room
        self.weight = 0.0
        self.flows: list[_Flow] = []


def _left(flow: _Flow, now_s: float) -> float:
    return max(flow.left - flow.rate * (now_s - flow.since_s), 0.0)


def _fill_one(flow: _Flow, touched: dict[int, _Share]) -> None:
    rate, bottleneck = flow.cap, -1
    for link, weight in flow.uses:
        room = touched[link].room / weight
        if room < rate:
            rate, bottleneck = room, link
    rate = max(rate, 0.0)
    for link, weight in flow.uses:
        touched[link].room -= rate * weight
    flow.new_rate, flow.new_bottleneck = rate, bottleneck


def _fill_lists(chosen: Iterable[_Flow], touched: dict[int, _Share]) -> None:
    """Progressive filling: the lowest level of a link, or the lowest cap, is next; levels only rise."""
    for flow in chosen:
        flow.new_rate = -1.0
    caps = sorted([(flow.cap, flow.number, flow) for flow in chosen if flow.cap < math.inf])
    rising = {link: len(share.flows) for link, share in touched.items()}
    levels = [(share.room / share.weight, link) for link, share in touched.items()]
    heapify(levels)
    next_cap = 0
    while levels:
        expected, link = levels[0]
        share = touched[link]
        if not rising[link]:
            heappop(levels)
            continue
        level = share.room / share.weight
        if level > expected:
            heapreplace(levels, (level, link))
            continue
        if next_cap < len(caps) and caps[next_cap][0] <= level:
            cap, _, flow = caps[next_cap]
            next_cap += 1
            stopped, rate, bottleneck = [flow] if flow.new_rate < 0 else [], cap, -1
        else:
            stopped, rate, bottleneck = [flow for flow in share.flows if flow.new_rate < 0], max(level, 0.0), link
        for flow in stopped:
            flow.new_rate, flow.new_bottleneck = rate, bottleneck
            for other, weight in flow.uses:
                taken = touched[other]
                taken.room -= rate * weight
                taken.weight -= weight
                rising[other] -= 1


def _fill_arrays(chosen: Iterable[_Flow], touched: dict[int, _Share]) -> None:
    flows = list(chosen)
    number = {link: index for index, link in enumerate(touched)}
    incidence = Incidence(
        np.repeat(np.arange(len(flows)), [len(flow.uses) for flow in flows]),
        np.array([number[link] for flow in flows for link, _ in flow.uses]),
        np.array([weight for flow in flows for _, weight in flow.uses]),
    )
    rooms = np.maximum([share.room for share in touched.values()], 0.0)
    rates, bottlenecks = max_min_rates(rooms, incidence, np.array([flow.cap for flow in flows]))
    links = [*touched, -1]
    for flow, rate, bottleneck in zip(flows, rates.tolist(), bottlenecks.tolist(), strict=True):
        flow.new_rate, flow.new_bottleneck = rate, links[bottleneck]
    given = np.bincount(incidence.link, incidence.weight * rates[incidence.flow], len(number))
    for share, room in zip(touched.values(), (rooms - given).tolist(), strict=True):
        share.room = room
