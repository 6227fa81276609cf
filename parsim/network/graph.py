"""Network: a cluster as a directed graph of devices and links, each direction with a latency and a bandwidth.

Devices are GPUs, NVSwitches, PCIe switches, host bridges, NICs and the switches of the fabric; a link has an index,
its place in `capacities` and `latencies`, that no change takes away: breaking a link removes its edge from the graph
and keeps its place. Units: bytes/s and seconds, one direction.

Node attributes: `kind` (gpu nvswitch pcie host nic leaf spine core router ...), where known `rank`, `node`, `domain`
(GPUs), `node`, `rail` (NICs). Edge attributes: index, bytes_per_s, latency_s, kind (nvlink pcie cpu nic fabric ...).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from math import isfinite
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt

from parsim.errors import LayoutError
from parsim.network.link import INSIDE, Link, both_ways
from parsim.network.soundness import check, check_connected, near_names, reached, short

__all__ = ["INSIDE", "Link", "Network", "both_ways"]


@dataclass(frozen=True, eq=False)
class Network:
    """Devices and links; `Network.of` and `Network.from_graph` check what they are given."""

    name: str
    graph: "nx.DiGraph[str]"
    """Frozen; without what is broken."""
    devices: Mapping[str, Mapping[str, Any]]
    """Attributes by name, also of what is broken."""
    gpus: tuple[str, ...]
    """Names in the order of ranks."""
    ends: tuple[tuple[str, str], ...]
    """Source and target of each link, by index, also of broken ones."""
    capacities: npt.NDArray[np.float64]
    """bytes/s by index; a broken link keeps what it had."""
    latencies: npt.NDArray[np.float64]
    """Seconds by index."""
    broken: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the graph simplifies, for people."""

    @classmethod
    def of(
        cls,
        name: str,
        devices: Mapping[str, Mapping[str, Any]],
        links: Iterable[Link],
        notes: tuple[str, ...] = (),
        **about: Any,
    ) -> "Network":
        """The network of these devices (attributes by name) and links; `about` becomes the graph's attributes."""
        held = list(links)
        check(name, devices, held)
        graph: nx.DiGraph[str] = nx.DiGraph(**about)
        graph.add_nodes_from((device, dict(attributes)) for device, attributes in devices.items())
        graph.add_edges_from(
            (
                source,
                target,
                {"index": index, "bytes_per_s": float(rate), "latency_s": float(latency), "kind": kind},
            )
            for index, (source, target, rate, latency, kind) in enumerate(held)
        )
        check_connected(name, graph)
        gpus = [device for device, attributes in devices.items() if attributes["kind"] == "gpu"]
        if all("rank" in devices[gpu] for gpu in gpus):
            gpus.sort(key=lambda gpu: devices[gpu]["rank"])
        return cls(
            name=name,
            graph=nx.freeze(graph),
            devices={device: dict(attributes) for device, attributes in devices.items()},
            gpus=tuple(gpus),
            ends=tuple((link.source, link.target) for link in held),
            capacities=_frozen([link.bytes_per_s for link in held]),
            latencies=_frozen([link.latency_s for link in held]),
            notes=notes,
        )

    @classmethod
    def from_graph(cls, graph: "nx.DiGraph[str]", name: str = "network", notes: tuple[str, ...] = ()) -> "Network":
        """The network of a graph whose nodes have a `kind` and whose edges have bytes_per_s, latency_s and kind."""
        links = [
            Link(source, target, edge.get("bytes_per_s", 0.0), edge.get("latency_s", 0.0), edge.get("kind", "fabric"))
            for source, target, edge in graph.edges(data=True)
        ]
        return cls.of(name, {device: graph.nodes[device] for device in graph}, links, notes, **graph.graph)

    @cached_property
    def link_names(self) -> tuple[str, ...]:
        """`source -> target` by index."""
        return tuple(f"{source} -> {target}" for source, target in self.ends)

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Index of a link by its ends, also of broken ones."""
        return {ends: index for index, ends in enumerate(self.ends)}

    def node_of(self, rank: int) -> int:
        """The server that a rank is in; 0 where the graph does not say."""
        return int(self.devices[self.gpu(rank)].get("node", 0))

    def domain_of(self, rank: int) -> Hashable:
        """The NVLink domain that a rank is in: what reaches each other over links of kind nvlink."""
        return self.domains[rank] if self.gpu(rank) else None

    @cached_property
    def domains(self) -> tuple[Hashable, ...]:
        """NVLink domain by rank: as the devices say, else the smallest rank that NVLink reaches."""
        said = [self.devices[gpu].get("domain") for gpu in self.gpus]
        if None not in said:
            return tuple(said)
        seen: dict[str, int] = {}
        for rank, gpu in enumerate(self.gpus):
            if gpu not in seen and gpu in self.graph:
                for device in reached(
                    gpu, lambda a: (b for b, e in self.graph.adj[a].items() if e["kind"] == "nvlink")
                ):
                    seen.setdefault(device, rank)
        return tuple(seen.get(gpu, rank) for rank, gpu in enumerate(self.gpus))

    @cached_property
    def nics(self) -> tuple[tuple[str, ...], ...]:
        """NICs by rank: the nearest over PCIe. GPUs that have the same NICs nearest share them out in order."""
        nics = [device for device in self.graph if self.graph.nodes[device]["kind"] == "nic"]
        # A NIC whose switch is broken is of no use, unless the graph ends at its NICs.
        leading = {nic for nic in nics if any(self.graph.nodes[d]["kind"] not in INSIDE for d in self.graph.adj[nic])}
        nearest = [_nearest_nics(self.graph, gpu, leading or set(nics)) for gpu in self.gpus]
        sharing: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for rank, found in enumerate(nearest):
            sharing[found].append(rank)
        for found, ranks in sharing.items():
            for place, rank in enumerate(ranks):
                first = place * len(found) // len(ranks)
                nearest[rank] = found[first : max((place + 1) * len(found) // len(ranks), first + 1)]
        return tuple(nearest)

    def leaf_of(self, rank: int) -> tuple[str, ...]:
        """The switches that a rank's NICs reach; none for a graph that ends at its node."""
        self.gpu(rank)
        kinds = self.graph.nodes
        return tuple(
            dict.fromkeys(
                leaf for nic in self.nics[rank] for leaf in self.graph.adj[nic] if kinds[leaf]["kind"] not in INSIDE
            )
        )

    def gpu(self, rank: int) -> str:
        """The name of a rank's GPU."""
        if not 0 <= rank < len(self.gpus):
            raise LayoutError(f"rank {rank}: network {self.name} has ranks 0 to {len(self.gpus) - 1}")
        return self.gpus[rank]

    def without(self, *names: str) -> "Network":
        """The network with these broken: devices, links `a -> b`, or both directions `a - b`. Indices stay."""
        graph = nx.DiGraph(self.graph)
        for name in names:
            device, links = self._meant(name)
            graph.remove_edges_from([self.ends[index] for index in links])
            if device is not None and device in graph:
                graph.remove_node(device)
        return replace(self, graph=nx.freeze(graph), broken=tuple(dict.fromkeys([*self.broken, *names])))

    def degraded(self, name: str, share: float) -> "Network":
        """The network in which a link, or all links of a device, have `share` of their bandwidth."""
        if not (isfinite(share) and 0 < share <= 1):
            raise LayoutError(f"share {share} of {name}: above 0 and at most 1; without({name!r}) breaks it")
        graph, capacities = nx.DiGraph(self.graph), self.capacities.copy()
        for index in self._meant(name)[1]:
            capacities[index] *= share
            source, target = self.ends[index]
            if graph.has_edge(source, target):
                graph.edges[source, target]["bytes_per_s"] = float(capacities[index])
        capacities.flags.writeable = False
        return replace(self, graph=nx.freeze(graph), capacities=capacities)

    def document(self) -> dict[str, Any]:
        """The network as JSON holds it: devices with their attributes, links with their ends and rates."""
        return {
            "name": self.name,
            "gpus": len(self.gpus),
            "devices": [{"name": device, **held} for device, held in self.graph.nodes(data=True)],
            "links": [
                {"name": f"{source} -> {target}", "source": source, "target": target, **edge}
                for source, target, edge in self.graph.edges(data=True)
            ],
            "broken": list(self.broken),
            "notes": list(self.notes),
        }

    def _meant(self, name: str) -> tuple[str | None, list[int]]:
        """The device of that name, if it is one, and the links that are meant."""
        if name in self._links_of:
            return name, self._links_of[name]
        for mark, turned in ((" -> ", False), (" - ", True)):
            source, found, target = name.partition(mark)
            if found:
                for end in (source, target):
                    if end not in self._links_of:
                        near = near_names(end, self._links_of)
                        raise LayoutError(f"link {short(name)}: network {self.name} has no {short(end)}{near}")
                pairs = [(source, target), (target, source)][: 1 + turned]
                links = [self.places[pair] for pair in pairs if pair in self.places]
                if not links:
                    others = sorted({b for i in self._links_of[source] for b in self.ends[i]} - {source})
                    near = ", ".join(get_close_matches(target, others, 3, 0) or others[:3])
                    raise LayoutError(f"link {name!r}: {source} has links to {near}, none to {target}")
                return None, links
        raise LayoutError(f"network {self.name} has no device or link {short(name)}{near_names(name, self._links_of)}")

    @cached_property
    def _links_of(self) -> dict[str, list[int]]:
        """Indices of the links into and out of each device, also of broken ones."""
        held: dict[str, list[int]] = {device: [] for device in self.devices}
        for index, ends in enumerate(self.ends):
            for device in ends:
                held[device].append(index)
        return held


def _frozen(values: list[float]) -> npt.NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


def _nearest_nics(graph: "nx.DiGraph[str]", gpu: str, usable: set[str]) -> tuple[str, ...]:
    """The NICs fewest links away, over PCIe switches and host bridges alone; none where a GPU has no way to one."""
    if gpu not in graph:
        return ()
    seen, layer = {gpu}, [gpu]
    while layer:
        following = list(_outward(graph, layer, seen))
        found = tuple(sorted((device for device in following if device in usable), key=_natural))
        if found:
            return found
        layer = [device for device in following if graph.nodes[device]["kind"] != "nic"]
    return ()


def _outward(graph: "nx.DiGraph[str]", layer: Iterable[str], seen: set[str]) -> Iterator[str]:
    for device in layer:
        for other in graph.adj[device]:
            if other not in seen and graph.nodes[other]["kind"] in ("pcie", "host", "nic"):
                seen.add(other)
                yield other


def _natural(name: str) -> tuple[int, str]:
    """Sorts nic2 before nic10."""
    return len(name), name
