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
        inside = kept[self.flow]
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
        loads = np.bincount(link, weight, links)
        level = np.divide(room, loads, out=np.full(links, np.inf), where=loads > 0)
        along = level[link]
        begins = np.flatnonzero(np.diff(flow, prepend=-1))
        lowest = np.minimum.reduceat(along, begins)
        capped = limit <= lowest
        is_lowest = along <= lowest[flow] * (1 + 1e-14)
        held_back = np.bincount(link[~is_lowest | capped[flow]], minlength=links) > 0
        stops_at = is_lowest & ~held_back[link]
        full = np.zeros(len(rising), bool)
        full[flow[stops_at]] = True
        full &= ~capped
        where = np.full(len(rising), -1, np.int64)
        where[flow[stops_at]] = link[stops_at]
        where[capped] = -1
        rate = np.where(capped, limit, lowest)
        done = full | capped
        rates[rising[done]] = rate[done]
        bottlenecks[rising[done]] = where[done]
        given = done[flow]
        room = np.maximum(room - np.bincount(link[given], weight[given] * rate[flow[given]], links), 0.0)
        flows, rising, limit = flows.of(~done), rising[~done], limit[~done]
    return rates, bottlenecks
