"""Filling: flows and links as they stand, and new rates for a few flows beside others that keep theirs.

Progressive filling: the rates of the chosen flows rise together from 0; each stops where a link of its route is full
(its bottleneck) or at its cap. With few flows this is a heap of the links' levels, with many it is done on arrays.
Rates are bytes/s, times seconds.
"""

import math
from collections.abc import Collection
from heapq import heapify, heappop, heapreplace

import numpy as np

from parsim.network.maxmin import Incidence, max_min_rates

__all__ = ["ALIKE", "Flow", "Link", "Way", "add_losers", "bound_by", "fill", "rivals"]

ALIKE = 1 + 1e-10  # a ratio of rates that may be rounding
_FULL = 1e-12  # a link is full if less than this part of it is free
_ARRAYS_FROM = 400  # flows from which arrays are faster than lists


class Link:
    """A link: the flows on it, of how many it is the bottleneck, and what a filling notes on it."""

    __slots__ = (
        "bound",
        "capacity",
        "chosen",
        "entered",
        "flows",
        "guard",
        "guards",
        "index",
        "load",
        "once",
        "rising",
        "room",
        "weight",
    )

    def __init__(self, index: int, capacity: float) -> None:
        self.index = index
        self.capacity = capacity
        self.load = 0.0
        self.flows: list[Flow] = []
        self.bound = 0
        self.once = (self, 1.0)  # how most routes use it
        self.entered = False  # flows are entered on it; `Ways` decides by the guards
        self.guard: Link | None = None
        self.guards: list[Link] | None = None
        self.room = 0.0  # what the chosen flows have not taken of what the others leave them
        self.weight = 0.0  # sum over the chosen flows that rise
        self.rising = 0
        self.chosen: list[Flow] | None = None  # the chosen flows on it, while it is filled


class Way:
    """What a route takes: weights by link, and those of the links on which its flows are entered."""

    __slots__ = ("changes", "uses", "weights")

    def __init__(self, weights: dict[Link, float], uses: list[tuple[Link, float]], changes: int) -> None:
        self.weights = weights
        self.uses = uses
        self.changes = changes  # of the ways, when `uses` was made


class Flow:
    """A flow on its way; `left` bytes at `since_s`. `queued_s` is the earliest end of it in the heap."""

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
        "way",
    )

    def __init__(self, number: int, way: Way, size: float, cap: float, now: float) -> None:
        self.number = number
        self.way = way
        self.uses = way.uses
        self.left = size
        self.cap = cap
        self.since_s = now
        self.rate = self.new_rate = 0.0
        self.bottleneck: Link | None = None
        self.new_bottleneck: Link | None = None
        self.end_s = math.inf
        self.queued_s = math.inf

    def left_at(self, now_s: float) -> float:
        """Bytes left at a time at which the rate is still this one."""
        return max(self.left - self.rate * (now_s - self.since_s), 0.0) if self.rate < math.inf else 0.0


def fill(chosen: Collection[Flow]) -> list[Link]:
    """Set `new_rate` and `new_bottleneck` of the chosen flows, and `room` of all their links, which it returns."""
    touched: list[Link] = []
    for flow in chosen:
        rate = flow.rate
        for link, weight in flow.uses:
            if link.chosen is None:
                touched.append(link)
                link.room = link.capacity - link.load + rate * weight
                link.weight = weight
                link.chosen = [flow]
            else:
                link.room += rate * weight
                link.weight += weight
                link.chosen.append(flow)
    if len(chosen) < _ARRAYS_FROM:
        _with_lists(chosen, touched)
    else:
        _with_arrays(chosen, touched)
    return touched


def _with_lists(chosen: Collection[Flow], touched: list[Link]) -> None:
    """The lowest level of a link, or the lowest cap, is next; levels only rise."""
    caps = []
    for flow in chosen:
        flow.new_rate = -1.0
        if flow.cap < math.inf:
            caps.append((flow.cap, flow.number, flow))
    caps.sort(reverse=True)
    levels = []
    for link in touched:
        link.rising = len(link.chosen or ())
        levels.append((link.room / link.weight, link.index, link))
    heapify(levels)
    left = len(chosen)
    while left:
        expected, index, link = levels[0]
        if not link.rising:
            heappop(levels)
            continue
        level = link.room / link.weight
        if level > expected:
            heapreplace(levels, (level, index, link))
            continue
        level = max(level, 0.0)
        bottleneck: Link | None = link
        stopped = link.chosen or []
        if caps and caps[-1][0] <= level:
            level, bottleneck, stopped = caps[-1][0], None, [caps.pop()[2]]
        for flow in stopped:
            if flow.new_rate < 0:
                left -= 1
                flow.new_rate, flow.new_bottleneck = level, bottleneck
                for other, weight in flow.uses:
                    other.room -= level * weight
                    other.weight -= weight
                    other.rising -= 1


def _with_arrays(chosen: Collection[Flow], touched: list[Link]) -> None:
    place = {link: index for index, link in enumerate(touched)}
    incidence = Incidence(
        np.repeat(np.arange(len(chosen)), [len(flow.uses) for flow in chosen]),
        np.array([place[link] for flow in chosen for link, _ in flow.uses]),
        np.array([weight for flow in chosen for _, weight in flow.uses]),
    )
    rooms = np.maximum([link.room for link in touched], 0.0)
    rates, bottlenecks = max_min_rates(rooms, incidence, np.array([flow.cap for flow in chosen]))
    for flow, rate, bottleneck in zip(chosen, rates.tolist(), bottlenecks.tolist(), strict=True):
        flow.new_rate, flow.new_bottleneck = rate, touched[bottleneck] if bottleneck >= 0 else None
    given = np.bincount(incidence.link, incidence.weight * rates[incidence.flow], len(touched))
    for link, room in zip(touched, (rooms - given).tolist(), strict=True):
        link.room = room


def bound_by(link: Link) -> list[Flow]:
    """The flows whose bottleneck a link is."""
    return [flow for flow in link.flows if flow.bottleneck is link]


def rivals(flow: Flow) -> list[Flow]:
    """A guess at whom a new flow slows: those bound by the link of its route that leaves it least."""
    least = flow.cap
    tightest = None
    for link, weight in flow.uses:
        bound = link.bound
        share = link.capacity - link.load
        if bound:
            rate = next(other.rate for other in link.flows if other.bottleneck is link)
            share = (share + bound * rate) / (bound + weight)
        if share < least:
            least, tightest = share, link
    return bound_by(tightest) if tightest is not None and tightest.bound else []


def add_losers(link: Link, chosen: dict[Flow, None], joining: dict[Flow, None]) -> None:
    """Add the flows on a link that are not chosen and are not as they should be beside the new rates."""
    filled = link.chosen or []
    if len(link.flows) == len(filled):
        return
    top = 0.0
    is_bottleneck = False
    for flow in filled:
        if flow.new_rate > top:
            top = flow.new_rate
        if flow.new_bottleneck is link:
            is_bottleneck = True
    top *= ALIKE
    others = [flow for flow in bound_by(link) if flow not in chosen] if link.bound else []
    if others and (link.room > _FULL * link.capacity or top > others[0].rate * ALIKE * ALIKE):
        joining.update(dict.fromkeys(others))
    if is_bottleneck:
        for flow in link.flows:
            if flow.rate > top and flow not in chosen:
                joining[flow] = None
