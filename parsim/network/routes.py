"""Router: the way that bytes take from rank to rank, as links of the network.

    same NVLink domain    GPU - NVSwitch - GPU
    same node without     GPU - PCIe - host bridges - PCIe - GPU
    same rail             GPU - PCIe - NIC - leaf (- spine ... - leaf) - NIC - PCIe - GPU
    across rails          with pxn: over NVLink to the GPU of the node on the target's rail, then on that rail;
                          without: through spines, where the fabric joins the rails (where it does not: as with pxn,
                          or over PCIe to the NIC of that rail)

What is nearest is tried first. Where that is broken, or a graph is not built that way, it is the way of fewest hops
over everything that is left, in which NICs of other nodes do not forward. LayoutError where nothing is left. Equal
ways are dealt out by a hash of source, target and flow, as ECMP deals them: the same flow always goes the same way.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import networkx as nx

from parsim.errors import LayoutError
from parsim.network.graph import Network
from parsim.network.hops import Fabric, mixed

__all__ = ["Router"]

_INNER: Mapping[str, int] = {"nvlink": 1, "pcie": 4, "cpu": 8}
_OUTER = 100
"""A link of the fabric costs more than any way inside a node."""


class Router:
    """Routes of a network; what it has worked out it keeps."""

    def __init__(self, network: Network, pxn: bool = True) -> None:
        self.network = network
        self.pxn = pxn
        self._graph = network.graph
        self._fabric = Fabric(network)
        self._nodes = [network.node_of(rank) for rank in range(len(network.gpus))]
        self._inner: dict[tuple[str, str], tuple[int, ...] | None] = {}
        self._peers: dict[tuple[int, Hashable, Hashable], list[int]] = defaultdict(list)
        self._ways: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        self._found: dict[tuple[int, int], tuple[int, ...]] = {}
        self._rails = {nic: held.get("rail", 0) for nic, held in self._graph.nodes(data=True) if held["kind"] == "nic"}
        self._node_nics: dict[int, list[str]] = defaultdict(list)
        for rank, nics in enumerate(network.nics):
            self._node_nics[self._nodes[rank]] += [nic for nic in nics if nic not in self._node_nics[self._nodes[rank]]]
            for nic in nics:
                self._peers[self._nodes[rank], network.domains[rank], self._rails[nic]].append(rank)

    def route(self, source: int, target: int, flow: int = 0) -> tuple[int, ...]:
        """Indices of the links from one rank's GPU to another's; none from a rank to itself."""
        here, there = self.network.gpu(source), self.network.gpu(target)
        if source == target:
            return ()
        domains, nodes = self.network.domains, self._nodes
        seed = mixed(mixed(mixed(source) ^ target) ^ flow)
        if domains[source] == domains[target] or nodes[source] == nodes[target]:
            inner = self._switched(here, there, seed)
            if inner is None and nodes[source] == nodes[target]:
                inner = self._inside(here, there)
            if inner is not None:
                return inner
        return self._across(source, target, seed) or self._any(source, target)

    def latency_s(self, links: tuple[int, ...]) -> float:
        """Seconds of a route, all of its links."""
        return float(self.network.latencies[list(links)].sum())

    def _switched(self, here: str, there: str, seed: int) -> tuple[int, ...] | None:
        """NVLink alone: a link of their own, or over one switch; which switches, is kept."""
        ways = self._ways.get((here, there))
        if ways is None:
            ways = self._ways[here, there] = self._nvlink_ways(here, there)
        if len(ways) > 1:
            return ways[seed % len(ways)]
        return ways[0] if ways else None

    def _nvlink_ways(self, here: str, there: str) -> list[tuple[int, ...]]:
        adjacent = self._graph.adj
        if here not in adjacent or there not in adjacent:
            return []
        direct = adjacent[here].get(there)
        if direct is not None:
            return [(direct["index"],)]
        return [
            (edge["index"], adjacent[device][there]["index"])
            for device, edge in adjacent[here].items()
            if edge["kind"] == "nvlink"
            and there in adjacent[device]
            and self._graph.nodes[device]["kind"] == "nvswitch"
        ]

    def _across(self, source: int, target: int, seed: int) -> tuple[int, ...] | None:
        """Through the fabric, the nearest way that is whole."""
        near, far, rails = self.network.nics[source], self.network.nics[target], self._rails
        if not near or not far:
            return None
        same = [(one, other) for one in near for other in far if rails[one] == rails[other]]
        if same:
            one, other = same[seed % len(same)]
            return self._leg(source, source, one, other, target, seed)
        other = far[seed % len(far)]
        own = source, near[seed % len(near)]
        peers = self._peers.get((self._nodes[source], self.network.domains[source], rails[other]), [])
        exits = [own]
        if peers:
            peer = peers[seed % len(peers)]
            proxy = peer, next(nic for nic in self.network.nics[peer] if rails[nic] == rails[other])
            # Without pxn a proxy is what is left where planes are not joined.
            exits = [proxy, own] if self.pxn else [own, proxy]
        exits += [(source, nic) for nic in self._node_nics[self._nodes[source]] if rails[nic] == rails[other]]
        for peer, one in exits:
            found = self._leg(source, peer, one, other, target, seed)
            if found is not None:
                return found
        return None

    def _leg(self, source: int, peer: int, out: str, into: str, target: int, seed: int) -> tuple[int, ...] | None:
        """GPU (- NVSwitch - peer) - NIC - fabric - NIC - GPU."""
        gpus = self.network.gpus
        first = self._switched(gpus[source], gpus[peer], seed) if peer != source else ()
        up, down = self._inside(gpus[peer], out), self._inside(into, gpus[target])
        if first is None or up is None or down is None:
            return None
        way = self._fabric.way(out, into, seed)
        return None if way is None else first + up + way + down

    def _inside(self, here: str, there: str) -> tuple[int, ...] | None:
        """The cheapest way over a node's own links, through no other NIC; kept."""
        key = here, there
        if key not in self._inner:
            self._inner[key] = self._cheapest(here, there)
        return self._inner[key]

    def _cheapest(self, here: str, there: str) -> tuple[int, ...] | None:
        kinds, adjacent = self._graph.nodes, self._graph.adj
        if here not in adjacent or there not in adjacent:
            return None
        # A NIC is reached over PCIe; NVLink on the way to one is the business of pxn.
        usable = _INNER if "nic" not in (kinds[here]["kind"], kinds[there]["kind"]) else {"pcie": 4, "cpu": 8}
        waiting: list[tuple[int, str, tuple[int, ...]]] = [(0, here, ())]
        done: set[str] = set()
        while waiting:
            cost, device, links = heappop(waiting)
            if device == there:
                return links
            if device in done:
                continue
            done.add(device)
            for other, edge in adjacent[device].items():
                if edge["kind"] in usable and (other == there or kinds[other]["kind"] != "nic"):
                    heappush(waiting, (cost + usable[edge["kind"]], other, (*links, edge["index"])))
        return None

    def _any(self, source: int, target: int) -> tuple[int, ...]:
        """The way of least cost over all that is left, kept. LayoutError where there is none."""
        if (source, target) not in self._found:
            self._found[source, target] = self._searched(source, target)
        return self._found[source, target]

    def _searched(self, source: int, target: int) -> tuple[int, ...]:
        here, there = self.network.gpu(source), self.network.gpu(target)
        try:
            if here not in self._graph or there not in self._graph:
                raise nx.NetworkXNoPath
            _, way = nx.bidirectional_dijkstra(self._graph, here, there, weight=self._cost(source, target))
        except nx.NetworkXNoPath:
            names = self.network.broken
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            why = (
                f"with {', '.join(map(repr, names[:8]))}{more} broken"
                if names
                else "the graph has no links that lead there"
            )
            raise LayoutError(f"no way from rank {source} ({here}) to rank {target} ({there}): {why}") from None
        return tuple(self._graph.adj[a][b]["index"] for a, b in pairwise(way))

    def _cost(self, source: int, target: int) -> Callable[[str, str, dict[str, Any]], int | None]:
        ends = {self.network.domains[source], self.network.domains[target]}
        ours = {self._nodes[rank] for rank, domain in enumerate(self.network.domains) if domain in ends}
        kinds = self._graph.nodes

        def cost(one: str, other: str, edge: dict[str, Any]) -> int | None:
            held = kinds[other]
            if held["kind"] == "nic" and "node" in held and held["node"] not in ours:
                return None
            return _INNER.get(edge["kind"], _OUTER)

        return cost
