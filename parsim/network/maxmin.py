"""Max-min fair rates of many flows at once: progressive filling on arrays.

All rates rise together until a link is full; the flows on it keep their rate and the others rise on. With room C - sum
of what has been given and the weights w of the flows that still rise, a link's level is room / sum of w. A link whose
level is the least along all the routes of its rising flows is full before any of them: so all such links are filled in
one round, not only the lowest. A flow stops at its cap where that is not above any level of its route.

A flow with weight w on a link takes w times its rate there: a route that takes a link twice has weight 2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Incidence", "Integers", "max_min_rates"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Incidence:
    """Which flow takes which link: `flow` rises and every flow is in it at least once.

    - `flow[m]`, `link[m]`, `weight[m]`: flow f takes `weight` times its rate of link l.
    """

    flow: Integers
    link: Integers
    weight: Floats

    def of(self, kept: npt.NDArray[np.bool_]) -> "Incidence":
        """The part of the kept flows, numbered anew."""
        inside = np.flatnonzero(kept[self.flow])
        number = np.cumsum(kept) - 1
        return Incidence(number[self.flow[inside]], self.link[inside], self.weight[inside])


def max_min_rates(capacities: Floats, flows: Incidence, caps: Floats) -> tuple[Floats, Integers]:
    """Rates of all flows, and the link that is each one's bottleneck (-1: its own cap).

    `capacities` are finite and at least 0, `caps` may be infinite. A flow in no link has no place here.
    """
    total = len(caps)
    rates, bottlenecks = np.zeros(total), np.full(total, -1, np.int64)
    room, rising, limit = capacities.astype(np.float64), np.arange(total), caps
    links = len(room)
    while len(rising):
        flow, link, weight = flows.flow, flows.link, flows.weight
        counts = np.bincount(flow)
        begins = np.cumsum(counts) - counts
        level = np.full(links, np.inf)
        loads = np.bincount(link, weight, links)
        np.divide(room, loads, out=level, where=loads > 0)
        along = level[link]
        lowest = np.minimum.reduceat(along, begins)
        capped = limit <= lowest
        # A link that is not the lowest of all its flows, or loses one to a cap, fills later.
        reach = np.where(capped, -1.0, lowest * (1 + 1e-14))
        later = along > np.repeat(reach, counts)
        held_back = np.bincount(link, later, links) > 0
        level[held_back] = -1.0
        stops_at = np.flatnonzero(level[link] >= 0)
        done = capped.copy()
        done[flow[stops_at]] = True
        bottlenecks[rising[flow[stops_at]]] = link[stops_at]
        rate = np.minimum(lowest, limit)
        rates[rising[done]] = rate[done]
        given = np.flatnonzero(done[flow])
        used = np.bincount(link[given], weight[given] * rate[flow[given]], links)
        room = np.maximum(room - used, 0.0)
        flows, rising, limit = flows.of(~done), rising[~done], limit[~done]
    return rates, bottlenecks
