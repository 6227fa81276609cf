"""Fabric: the switches of a network, and the equal-cost ways between their ports.

Ways are fewest links, as switches with ECMP take them, where a global link of a dragonfly counts as three: a way over
one of them and two inside groups is minimal, one over two of them is not. On a torus they go dimension by dimension,
the shorter way round. Which of equal ways is taken is a hash of a seed at each switch; nothing is random.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parsim.network.graph import INSIDE, Network

__all__ = ["Fabric", "mixed"]

_WEIGHT: Mapping[str, int] = {"global": 3}
_FAR = 1 << 30
_MASK = (1 << 64) - 1

Hops = list[tuple[int, int, int]]
"""(switch, link, weight) for each link out of a switch."""


def mixed(value: int) -> int:
    """A hash of 64 bits (the finaliser of splitmix64): neighbouring values land far apart."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Fabric:
    """Ways from NIC to NIC, worked out when first asked for. Of what is not broken."""

    def __init__(self, network: Network) -> None:
        graph = network.graph
        self._names = [device for device in graph if graph.nodes[device]["kind"] not in INSIDE]
        self._number = {device: number for number, device in enumerate(self._names)}
        self._out: list[Hops] = [[] for _ in self._names]
        for device, number in self._number.items():
            for other, edge in graph.adj[device].items():
                if other in self._number:
                    weight = _WEIGHT.get(edge["kind"], 1)
                    self._out[number].append((self._number[other], edge["index"], weight))
        self._graph = graph
        self._ports: dict[str, Hops] = {}
        self._ends: dict[str, dict[int, int]] = {}
        self._distances: dict[tuple[int, ...], list[int]] = {}
        self._nearer: dict[tuple[int, tuple[int, ...]], Hops] = {}
        self._shared: dict[tuple[tuple[int, int, int], ...], Hops] = {}
        self._dimensions: tuple[int, ...] = tuple(graph.graph.get("dimensions", ()))
        self._at = {tuple(held["at"]): device for device, held in network.devices.items() if "at" in held}
        self._flatten()

    def way(self, source: str, target: str, seed: int) -> tuple[int, ...] | None:
        """Links from one NIC to another through switches; None where there is no way."""
        ports, ends = self._ports_of(source), self._ends_of(target)
        if not ports or not ends:
            return None
        goal = tuple(ends)
        far = self._far(goal)
        nearest = min(far[switch] for switch, _, _ in ports)
        if nearest >= _FAR:
            return None
        if len(ports) > 1:
            ports = [port for port in ports if far[port[0]] == nearest]
        at, link, _ = ports[seed % len(ports)] if len(ports) > 1 else ports[0]
        if self._dimensions and len(goal) == 1:
            ordered = self._ordered(at, goal[0], seed)
            if ordered is not None:
                return (link, *ordered, ends[goal[0]])
        links = [link]
        while far[at]:
            nearer = self._nearer.get((at, goal)) or self._nearer_of(at, goal, far)
            if len(nearer) > 1:
                seed = mixed(seed)
                at, link, _ = nearer[seed % len(nearer)]
            else:
                at, link, _ = nearer[0]
            links.append(link)
        links.append(ends[at])
        return tuple(links)

    def _ports_of(self, nic: str) -> Hops:
        found = self._ports.get(nic)
        if found is None:
            found = [
                (self._number[other], edge["index"], 1)
                for other, edge in (self._graph.adj[nic].items() if nic in self._graph else ())
                if other in self._number
            ]
            self._ports[nic] = found
        return found

    def _ends_of(self, nic: str) -> dict[int, int]:
        """Link into a NIC by the switch that it comes from."""
        found = self._ends.get(nic)
        if found is None:
            found = {
                self._number[other]: edge["index"]
                for other, edge in (self._graph.pred[nic].items() if nic in self._graph else ())
                if other in self._number
            }
            self._ends[nic] = found
        return found

    def _nearer_of(self, at: int, goal: tuple[int, ...], far: list[int]) -> Hops:
        found = [hop for hop in self._out[at] if far[hop[0]] + hop[2] == far[at]]
        # Most switches have the same few sets of ways: one list for all of them.
        kept = self._shared.setdefault(tuple(found), found)
        self._nearer[at, goal] = kept
        return kept

    def _flatten(self) -> None:
        """The links as arrays, in order of the switch that they leave."""
        leaving = [number for number, hops in enumerate(self._out) if hops]
        self._leaving = np.array(leaving, dtype=np.int64)
        self._targets = np.array([hop[0] for number in leaving for hop in self._out[number]], dtype=np.int64)
        self._weights = np.array([hop[2] for number in leaving for hop in self._out[number]], dtype=np.int64)
        self._starts = np.cumsum([0, *(len(self._out[number]) for number in leaving)])[:-1]

    def _far(self, goal: tuple[int, ...]) -> list[int]:
        """Distance of every switch to the nearest of `goal`."""
        kept = self._distances.get(goal)
        if kept is not None:
            return kept
        far: Any = np.full(len(self._names), _FAR, dtype=np.int64)
        far[list(goal)] = 0
        while len(self._leaving):
            through = np.minimum.reduceat(far[self._targets] + self._weights, self._starts)
            better = np.minimum(far[self._leaving], through)
            if np.array_equal(better, far[self._leaving]):
                break
            far[self._leaving] = better
        found: list[int] = far.tolist()
        self._distances[goal] = found
        return found

    def _ordered(self, at: int, goal: int, seed: int) -> list[int] | None:
        """The dimension-ordered way on a torus; None where a link of it is missing."""
        spots = self._graph.nodes
        here, there = list(spots[self._names[at]]["at"]), spots[self._names[goal]]["at"]
        links = []
        for dimension, size in enumerate(self._dimensions):
            ahead = (there[dimension] - here[dimension]) % size
            step = 1 if 2 * ahead < size or (2 * ahead == size and seed >> dimension & 1) else -1
            while here[dimension] != there[dimension]:
                before = self._at[tuple(here)]
                here[dimension] = (here[dimension] + step) % size
                edge = self._graph.adj[before].get(self._at[tuple(here)]) if before in self._graph else None
                if edge is None:
                    return None
                links.append(int(edge["index"]))
        return links
