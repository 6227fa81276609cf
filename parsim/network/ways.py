"""Ways: routes reduced to the links that can be a bottleneck.

On the way from a GPU to the fabric, bytes take a PCIe link, a NIC's link, a leaf's: all of them are taken by the same
flows, and only the narrowest can ever be full. A link l is guarded by a link g if every route so far that takes l
takes g too, with w_l / C_l <= w_g / C_g (w: how often the route takes the link, C: bytes/s). Then l holds whatever g
holds, and flows need not be entered on it. Where a new route takes l without g, another guard is found, or l is from
then on a link like any other, and the flows that are on it are entered.
"""

from collections.abc import Iterable, Sequence

from parsim.errors import SpecError
from parsim.network.filling import Flow, Link, Way

__all__ = ["Ways"]

_LEAST, _HUGE = 1e-300, 1e300  # bytes/s; from _HUGE a link never is a bottleneck: sums of capacities stay finite
_KEPT = 1 << 16
_LONG = 16  # links from which a route is taken as it is: finding guards takes the square of it


class Ways:
    """The links of given capacities (bytes/s, one direction), and the ways over them."""

    def __init__(self, capacities: Iterable[float]) -> None:
        """SpecError for a capacity that is not above 0."""
        self.links = [Link(index, float(capacity)) for index, capacity in enumerate(capacities)]
        for link in self.links:
            if not link.capacity >= _LEAST:
                raise SpecError(
                    f"link {link.index} carries {link.capacity:g} bytes/s: more than 0, or no flow over it ever ends"
                )
        self._known: dict[tuple[int, ...], Way] = {}
        self._changes = 0

    def way(self, route: Sequence[int], weights: Sequence[float] | None = None) -> Way:
        """The way of a route. SpecError for links that do not exist and weights that are not above 0."""
        if weights is not None:
            return self._enter(self.weights(route, weights))
        key = tuple(route)
        way = self._known.get(key)
        if way is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            way = self._known[key] = self._enter(self.weights(route, (1.0,) * len(key)))
        elif way.changes != self._changes:
            way.uses[:] = [_pair(link, weight) for link, weight in way.weights.items() if link.guard is None]
            way.changes = self._changes
        return way

    def weights(self, route: Sequence[int], weights: Sequence[float]) -> dict[Link, float]:
        """How often the route takes each link, without links that are never full. SpecError as `way`."""
        if len(route) != len(weights):
            raise SpecError(f"a route over {len(route)} links has {len(weights)} weights: one for each link")
        total: dict[Link, float] = {}
        links = self.links
        for index, weight in zip(route, weights, strict=True):
            if not 0 <= index < len(links):
                raise SpecError(f"a route takes link {index}; there are {len(links)}, from 0")
            if not _LEAST <= weight < _HUGE:
                raise SpecError(f"weight {weight:g} on link {index}: more than 0 and finite")
            link = links[index]
            if link.capacity < _HUGE:
                total[link] = total.get(link, 0.0) + weight
        return total

    def _enter(self, total: dict[Link, float]) -> Way:
        """A way that may be new: guards that it does not take are guards no more."""
        unguarded: list[Link] = []
        for link, weight in total.items():
            if link.guards is None:
                link.guards = _guards(link, total) if len(total) < _LONG else []
                unguarded.append(link)
            elif link.guard is not None:
                scale = weight / link.capacity
                for guard in link.guards:
                    if guard not in total or total[guard] / guard.capacity < scale:
                        link.guards = [
                            each for each in link.guards if each in total and total[each] / each.capacity >= scale
                        ]
                        break
                if link.guard not in link.guards:
                    unguarded.append(link)
        unguarded.sort(key=lambda link: link.capacity / total[link])
        for link in unguarded:
            self._guard(link)
        uses = [_pair(link, weight) for link, weight in total.items() if link.guard is None]
        return Way(total, uses, self._changes)

    def _guard(self, link: Link) -> None:
        """Find a guard for a link that has none; without one, enter on it the flows that take it."""
        before, link.guard = link.guard, None
        assert link.guards is not None
        for guard in link.guards:
            if guard.guard is None and guard.entered:
                link.guard = guard
                return
        link.entered = True
        if before is None:
            return
        self._changes += 1
        flows: list[Flow] = before.flows
        for flow in flows:
            weight = flow.way.weights.get(link)
            if weight is not None:
                link.flows.append(flow)
                link.load += flow.rate * weight
                if all(each is not link for each, _ in flow.way.uses):
                    flow.way.uses.append(_pair(link, weight))


def _guards(link: Link, total: dict[Link, float]) -> list[Link]:
    """All links of a way that could guard a link of it."""
    scale = total[link] / link.capacity
    return [other for other, weight in total.items() if other is not link and weight / other.capacity >= scale]


def _pair(link: Link, weight: float) -> tuple[Link, float]:
    return link.once if weight == 1.0 else (link, weight)
