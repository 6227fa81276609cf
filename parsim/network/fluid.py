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
from heapq import heapify, heappop, heappush

from parsim.errors import SpecError
from parsim.network.filling import ALIKE, Flow, Link, add_losers, bound_by, fill, rivals
from parsim.network.ways import Ways

__all__ = ["Fluid", "limit_of"]

_LEAST_CAP, _MOST_BYTES = 1e-300, 1e300
_AT_ONCE = 1e-12  # ends so close, relative to the time, are one event
_RESUM_EVERY = 1 << 15  # events between two fresh sums of the loads: rounding does not pile up


class Fluid:
    """Flows over links of given capacities (bytes/s, one direction), at one moment of time (s, from 0)."""

    def __init__(self, capacities: Iterable[float]) -> None:
        """SpecError for a capacity that is not above 0."""
        self._ways = Ways(capacities)
        self._flows: dict[int, Flow] = {}
        self._heap: list[float] = []  # ends; a flow's may have moved to later since
        self._ending: dict[float, list[Flow]] = {}  # the flows of each of them
        self._unsolved: dict[Flow, None] = {}  # flows that start now, or that may rise because others ended
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
        if self._unsolved:
            self._solve()
        heap = self._heap
        while heap:
            end_s = heap[0]
            for flow in self._ending[end_s]:
                if flow.end_s == end_s:
                    return end_s
            heappop(heap)
            for flow in self._ending.pop(end_s):
                self._requeue(flow, end_s)
        return math.inf

    def rate(self, flow: int) -> float:
        """Bytes/s of a flow on its way. SpecError if it has ended or never started."""
        self._solve()
        return self._at(flow).rate

    def left_bytes(self, flow: int) -> float:
        """What a flow on its way has yet to carry, now. SpecError as `rate`."""
        return self._at(flow).left_at(self._now)

    def start(
        self,
        route: Sequence[int],
        size_bytes: float,
        cap: float | None = None,
        weights: Sequence[float] | None = None,
    ) -> int:
        """Start a flow of a size over links, at `cap` bytes/s at most; the number it goes by.

        A flow takes its rate of every link of the route, or `weights` times its rate; twice of a link that is there
        twice. A flow without links has only its cap, if any; without bytes it ends at once. SpecError for a size that
        is negative or no number, a cap or weight that is not above 0, and a link that does not exist.
        """
        limit = limit_of(size_bytes, cap)
        way = self._ways.way(route, weights)
        number = self._next
        self._next = number + 1
        flow = self._flows[number] = Flow(number, way, size_bytes, limit, self._now)
        if size_bytes and flow.uses:
            for link, _ in flow.uses:
                link.flows.append(flow)
            self._unsolved[flow] = None
        else:
            flow.uses = []
            flow.rate = limit
            flow.end_s = self._now + (size_bytes / limit if size_bytes else 0.0)
            self._queue(flow)
        return number

    def stop(self, flow: int) -> float:
        """Take a flow off before its end; the bytes it had left, now. SpecError as `rate`."""
        found = self._at(flow)
        left = found.left_at(self._now)
        self._end(found)
        return left

    def advance(self, to_s: float) -> list[int]:
        """Let time pass up to and with `to_s`; the flows that end, in order. SpecError if `to_s` has passed.

        An infinite `to_s` ends all flows, and the time is the end of the last.
        """
        if not to_s >= self._now:
            raise SpecError(f"time {to_s:g} s: the flows are at {self._now:g} s already, and time only goes on")
        ended: list[int] = []
        end_s = self.next_end_s
        heap = self._heap
        while end_s <= to_s and end_s < math.inf:
            self._now = end_s = max(end_s, self._now)
            latest = min(end_s + _AT_ONCE * end_s, to_s)
            while heap and heap[0] <= latest:
                waited_s = heappop(heap)
                for flow in self._ending.pop(waited_s):
                    if flow.end_s == waited_s:
                        ended.append(flow.number)
                        self._end(flow)
                    else:
                        self._requeue(flow, waited_s)
            if end_s == to_s:  # what rises now is solved together with what starts now
                break
            end_s = self.next_end_s
        if to_s < math.inf:
            self._now = to_s
        return ended

    def _at(self, number: int) -> Flow:
        if number not in self._flows:
            raise SpecError(f"flow {number} is not on its way; {len(self._flows)} flows are")
        return self._flows[number]

    def _queue(self, flow: Flow) -> None:
        """See that the heap has the flow's end, or an earlier one of it."""
        end_s = flow.end_s
        if end_s < flow.queued_s:
            flow.queued_s = end_s
            together = self._ending.get(end_s)
            if together is not None:
                together.append(flow)
                return
            self._ending[end_s] = [flow]
            heappush(self._heap, end_s)
            if len(self._heap) > 4 * len(self._flows) + 64:
                self._ending.clear()
                for each in self._flows.values():
                    if each.queued_s < math.inf:
                        self._ending.setdefault(each.queued_s, []).append(each)
                self._heap[:] = self._ending
                heapify(self._heap)

    def _requeue(self, flow: Flow, waited_s: float) -> None:
        """An entry that is not the flow's end was taken from the heap."""
        if flow.queued_s == waited_s:
            flow.queued_s = math.inf
            if flow.number in self._flows:
                self._queue(flow)

    def _end(self, flow: Flow) -> None:
        """Take a flow off its links; those whose bottleneck is on them may rise."""
        del self._flows[flow.number]
        flow.end_s = math.inf
        if flow.bottleneck is not None:
            flow.bottleneck.bound -= 1
        rate = flow.rate
        for link, weight in flow.uses:
            flows = link.flows
            if len(flows) > 1:
                flows.remove(flow)
                link.load -= rate * weight
                if link.bound:
                    self._unsolved.update(dict.fromkeys(bound_by(link)))
            else:
                flows.pop()
                link.load = 0.0
        self._unsolved.pop(flow, None)

    def _solve(self) -> None:
        """Give all unsolved flows, and whoever loses its bottleneck by that, their rates."""
        if not self._unsolved:
            return
        unsolved, self._unsolved = self._unsolved, {}
        self._events += len(unsolved)
        if self._events > _RESUM_EVERY:
            self._events = 0
            for link in self._ways.links:
                link.load = 0.0
            for flow in self._flows.values():
                for link, weight in flow.uses:
                    link.load += flow.rate * weight
        chosen = dict.fromkeys([flow for flow in unsolved if not self._solve_one(flow)])
        if not chosen:
            return
        for flow in list(chosen):
            if not flow.rate:
                chosen.update(dict.fromkeys(rivals(flow)))
        while chosen:
            touched = fill(chosen)
            joining: dict[Flow, None] = {}
            for link in touched:
                add_losers(link, chosen, joining)
                link.chosen = None
            if not joining:
                for link in touched:
                    link.load = link.capacity - link.room
                for flow in chosen:
                    self._set(flow, flow.new_rate, flow.new_bottleneck)
                return
            chosen.update(joining)

    def _solve_one(self, flow: Flow) -> bool:
        """Solve a flow by itself, if that is right: no other flow is bound on its way, and none must make room."""
        had, best, bottleneck = flow.rate, flow.cap, None
        for link, weight in flow.uses:
            bound = link.bound
            if bound > 1 or (bound and flow.bottleneck is not link):
                return False
            room = (link.capacity - link.load) / weight + had
            if room < best:
                best, bottleneck = room, link
        if best <= 0:
            return False
        if bottleneck is not None and len(bottleneck.flows) > 1:
            fastest = best * ALIKE
            for other in bottleneck.flows:
                if other.rate > fastest and other is not flow:
                    return False
        for link, weight in flow.uses:
            link.load += (best - had) * weight
        self._set(flow, best, bottleneck)
        return True

    def _set(self, flow: Flow, rate: float, bottleneck: Link | None) -> None:
        """Make the new rate the rate from now on."""
        if bottleneck is not flow.bottleneck:
            if flow.bottleneck is not None:
                flow.bottleneck.bound -= 1
            if bottleneck is not None:
                bottleneck.bound += 1
            flow.bottleneck = bottleneck
        if rate != flow.rate:
            now = self._now
            left = flow.left
            if flow.rate:
                left -= flow.rate * (now - flow.since_s)
                flow.left = left = left if left > 0.0 else 0.0
            flow.since_s = now
            flow.rate = rate
            flow.end_s = now + left / rate if rate else math.inf
            self._queue(flow)


def limit_of(size_bytes: float, cap: float | None) -> float:
    """The most bytes/s that a flow may have. SpecError for a size or cap that is none."""
    if not 0 <= size_bytes < _MOST_BYTES:
        raise SpecError(f"a flow of {size_bytes:g} bytes: 0 or more, below {_MOST_BYTES:g}")
    if cap is None:
        return math.inf
    if not cap >= _LEAST_CAP:
        raise SpecError(f"a flow's cap is {cap:g} bytes/s: more than 0, or leave it out")
    return cap
