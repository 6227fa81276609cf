"""Drain: many flows of known sizes and starts, played to their ends.

Exactly, event by event (`Fluid`); or with a tolerance, in which everything that starts or ends within that part of
the time since the first start is one event: rates are solved for all flows afresh, on arrays, a few hundred times
instead of once for each flow. Each flow of a batch ends where the rate that it has brings it; what the others gain by
that they gain at the mean of these ends.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from parsim.errors import SpecError
from parsim.network.fluid import Fluid, limit_of
from parsim.network.maxmin import Floats, Incidence, Integers, max_min_rates
from parsim.network.ways import Ways

__all__ = ["drain"]

_EARLY = 0.1  # of the mean time to the end: before it batches get no shorter, or the first ends would be most of them


def drain(
    capacities: Iterable[float],
    routes: Sequence[Sequence[int]],
    sizes: Iterable[float],
    starts: Iterable[float] | None = None,
    tolerance: float = 0.0,
    caps: Sequence[float | None] | None = None,
) -> Floats:
    """End times (s) of flows of `sizes` bytes over `routes`, links by index, that start at `starts` s (0 if left out).

    Links carry `capacities` bytes/s, `caps` are the most a flow may have. SpecError for sizes, starts and caps that
    are no such thing, as `Fluid`, and for a tolerance that is not between 0 and 1.
    """
    if not 0 <= tolerance < 1:
        raise SpecError(f"tolerance {tolerance:g}: a part of the time, from 0 (exact) to below 1; 0.01 is usual")
    rates = [float(capacity) for capacity in capacities]
    volumes = np.array([float(size) for size in sizes])
    begins = np.zeros(len(volumes)) if starts is None else np.array([float(start) for start in starts])
    limits = [None] * len(volumes) if caps is None else list(caps)
    for what, found in (("sizes", len(volumes)), ("starts", len(begins)), ("caps", len(limits))):
        if found != len(routes):
            raise SpecError(f"{len(routes)} routes and {found} {what}: one for each route")
    if len(begins) and not (begins.min() >= 0 and begins.max() < math.inf):
        raise SpecError("flows start at 0 s or later, at a finite time")
    if not tolerance:
        return _exactly(rates, routes, volumes, begins, limits)
    return _Batches(rates, routes, volumes, begins, limits).ends(tolerance)


def _exactly(
    capacities: list[float],
    routes: Sequence[Sequence[int]],
    sizes: Floats,
    starts: Floats,
    caps: Sequence[float | None],
) -> Floats:
    fluid = Fluid(capacities)
    ends = np.full(len(sizes), math.inf)
    flow_of: dict[int, int] = {}
    order = np.argsort(starts, kind="stable").tolist()
    position = 0
    while True:
        start_s = float(starts[order[position]]) if position < len(order) else math.inf
        now = min(start_s, fluid.next_end_s)
        if now == math.inf:
            return ends
        for number in fluid.advance(now):
            ends[flow_of.pop(number)] = fluid.now_s
        while position < len(order) and starts[order[position]] <= now:
            flow = order[position]
            flow_of[fluid.start(routes[flow], float(sizes[flow]), caps[flow])] = flow
            position += 1


class _Batches:
    """The flows as arrays; those that are under way have something left."""

    def __init__(
        self,
        capacities: list[float],
        routes: Sequence[Sequence[int]],
        sizes: Floats,
        starts: Floats,
        caps: Sequence[float | None],
    ) -> None:
        ways = Ways(capacities)
        for route in routes:
            ways.way(route)
        # Once all routes are known it is known which links can be bottlenecks.
        uses = [ways.way(route).uses for route in routes]
        links = [link.index for each in uses for link, _ in each]
        index, place = np.unique(np.array(links, np.int64), return_inverse=True)
        self.capacities = np.array(capacities)[index]
        self.incidence = Incidence(
            np.repeat(np.arange(len(uses)), [len(each) for each in uses]),
            place.astype(np.int64),
            np.array([weight for each in uses for _, weight in each], np.float64),
        )
        self.caps = np.array([limit_of(size, cap) for size, cap in zip(sizes.tolist(), caps, strict=True)], np.float64)
        self.left, self.starts = sizes.copy(), starts
        self.shares = np.array([bool(each) for each in uses], bool) & (sizes > 0)

    def ends(self, tolerance: float) -> Floats:
        """End times; all that happens within `tolerance` of the time since the first start is one event."""
        begins, left = self.starts, self.left
        ends = np.full(len(left), math.inf)
        alone = ~self.shares
        ends[alone] = begins[alone] + left[alone] / np.where(left[alone] > 0, self.caps[alone], 1.0)
        order = np.flatnonzero(self.shares)
        order = order[np.argsort(begins[order], kind="stable")]
        if not len(order):
            return ends
        first = now = float(begins[order[0]])
        started, active = 0, np.zeros(len(left), bool)
        known: tuple[Integers, Incidence] | None = None
        while True:
            arrived = int(np.searchsorted(begins[order], now, side="right"))
            active[order[started:arrived]] = True
            started = arrived
            index = np.flatnonzero(active)
            next_start = float(begins[order[started]]) if started < len(order) else math.inf
            if not len(index):
                if next_start == math.inf:
                    return ends
                now = next_start
                continue
            known = self._part(index, known)
            rates, _ = max_min_rates(self.capacities, known[1], self.caps[index])
            until = now + left[index] / rates
            event = min(float(until.min()), next_start)
            window = event + tolerance * max(event - first, _EARLY * float(until.mean() - first))
            over = until <= window
            late = begins[order[started : int(np.searchsorted(begins[order], window, side="right"))]]
            # In the mean, what ends early in the batch leaves its links idle for as long as they are given away too
            # early by what ends late. What starts in it starts late, never early.
            last = float(np.average(until[over], weights=rates[over])) if over.any() else event
            last = max(last, float(late[-1])) if len(late) else last
            ends[index[over]] = until[over]
            active[index[over]] = False
            left[index] = np.maximum(left[index] - rates * (last - now), 0.0)
            now = last

    def _part(self, index: Integers, known: tuple[Integers, Incidence] | None) -> tuple[Integers, Incidence]:
        """Which flow takes which link, of the flows of `index` alone: cut from what was `known` if it holds them."""
        if known is not None and len(index) == len(known[0]) and (index == known[0]).all():
            return known
        flows, incidence = (np.arange(len(self.left)), self.incidence)
        if known is not None and np.isin(index, known[0], assume_unique=True).all():
            flows, incidence = known
        return index, incidence.of(np.isin(flows, index, assume_unique=True))
