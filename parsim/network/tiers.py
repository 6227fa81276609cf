"""Tiers: how much of a cluster's traffic its fabric lets through, in closed form.

A tier is a level of groups of consecutive nodes; what leaves a group shares the group's way up. For flows that all run
at once, each given by the node it leaves and the node it enters at its full rate,

    share = min over tiers and groups of   way up of the group / rate of the flows that leave it,   at most 1

and every flow that leaves a group of tier i passes 2 (i + 1) more switches than one that stays on its leaf. In a fat
tree a group's way up is its NICs' rate over the oversubscriptions below and including its tier. A dragonfly has two
tiers: routers (links to the routers of its group, and global ones) and groups (global links). A torus has no tiers:
there the flows' rates times their hops in a dimension share all links of that dimension alike, which is what shortest
ways leave them. These are the graph's own capacities (network/build): what a test holds them to.
"""

import math
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import numpy as np
import numpy.typing as npt

from parsim.network.levels import levels_of
from parsim.spec import ClusterSpec

__all__ = ["Crossing", "Flows", "crossing", "exchange"]

Integers = npt.NDArray[np.intp]
_SWITCH_S = 0.3e-6  # passing a switch, where a cluster does not say


@dataclass(frozen=True)
class Flows:
    """Flows that run at once: nodes they leave and enter, and their full rate, bytes/s of one flow."""

    source: Integers
    target: Integers
    bytes_per_s: float


@dataclass(frozen=True)
class Crossing:
    """What the fabric makes of flows: the share of their rate that is left, the tier that blocks, and the seconds of
    switches beyond its leaf that the farthest flow passes, and the mean flow.
    """

    share: float
    tier: str | None
    latency_s: float
    mean_latency_s: float


def exchange(cluster: ClusterSpec, nodes: int) -> Crossing:
    """What the fabric makes of every one of the first `nodes` nodes sending evenly to every other at its NICs' rate."""
    node = cluster.node
    if nodes < 2:
        return Crossing(1.0, None, 0.0, 0.0)
    others = np.arange(1, nodes)
    if cluster.fabric.torus is not None:  # alike from every node
        rate = node.nics * node.nic_bytes_per_s * nodes / (nodes - 1)
        return crossing(cluster, Flows(np.zeros(nodes - 1, np.intp), others, rate))
    share, blocking = 1.0, None
    rate = node.nics * node.nic_bytes_per_s
    for tier in _tiers(cluster):
        outside = (nodes - tier.nodes) / (nodes - 1)
        if outside <= 0:
            break
        if tier.up_bytes_per_s_per_node / (rate * outside) < share:
            share, blocking = tier.up_bytes_per_s_per_node / (rate * outside), tier.name
    first = crossing(cluster, Flows(np.zeros(nodes - 1, np.intp), others, 1.0))
    return Crossing(share, blocking, first.latency_s, first.mean_latency_s)


@dataclass(frozen=True)
class _Tier:
    name: str
    nodes: int
    up_bytes_per_s_per_node: float


def crossing(cluster: ClusterSpec, flows: Flows) -> Crossing:
    """What the cluster's fabric makes of these flows."""
    outside = flows.source != flows.target
    source, target = flows.source[outside], flows.target[outside]
    if not len(source) or flows.bytes_per_s <= 0:
        return Crossing(1.0, None, 0.0, 0.0)
    switch_s = cluster.fabric.switch_latency_s if cluster.fabric.switch_latency_s is not None else _SWITCH_S
    if cluster.fabric.torus is not None:
        return _torus(cluster, source, target, flows.bytes_per_s, switch_s)
    share, blocking, levels, passed = 1.0, None, 0, 0
    for level, tier in enumerate(_tiers(cluster), 1):
        here, there = source // tier.nodes, target // tier.nodes
        leaving = here[here != there]
        if not len(leaving):
            break
        levels, passed = level, passed + len(leaving)
        up = tier.up_bytes_per_s_per_node * tier.nodes
        worst = int(np.bincount(leaving).max()) * flows.bytes_per_s
        if worst > 0 and up / worst < share:
            share, blocking = up / worst, tier.name
    return Crossing(share, blocking, 2 * levels * switch_s, 2 * passed / len(source) * switch_s)


def _tiers(cluster: ClusterSpec) -> list[_Tier]:
    """From the leaves up; a tier that spans every node never matters, and need not be told apart."""
    node, fabric = cluster.node, cluster.fabric
    rate = node.nics * node.nic_bytes_per_s
    if fabric.dragonfly is not None:
        fly = fabric.dragonfly
        group = fly.nodes_per_router * fly.routers_per_group
        links = fly.routers_per_group - 1 + fly.global_links_per_router
        return [
            _Tier("router", fly.nodes_per_router, links * fly.link_bytes_per_s / fly.nodes_per_router),
            _Tier("group", group, fly.routers_per_group * fly.global_links_per_router * fly.link_bytes_per_s / group),
        ]
    if fabric.topology == "single":
        return []
    levels = levels_of(fabric, node.nics)
    blocking = accumulate((level.oversubscription for level in levels), mul)
    return [_Tier(level.name, level.nodes, rate / by) for level, by in zip(levels, blocking, strict=True)]


def _torus(cluster: ClusterSpec, source: Integers, target: Integers, bytes_per_s: float, switch_s: float) -> Crossing:
    torus = cluster.fabric.torus
    assert torus is not None
    nodes = int(max(source.max(), target.max())) + 1
    inner = math.prod(torus.dimensions[:-1])
    sizes = [*torus.dimensions[:-1], max(-(-nodes // inner), 1)]
    hops, stride, share = np.zeros(len(source)), 1, 1.0
    links = 2 * math.prod(sizes)  # of each dimension, one for each direction
    for size in sizes:
        apart = np.abs(source // stride % size - target // stride % size)
        along = np.minimum(apart, size - apart)
        if taken := float(along.sum()) * bytes_per_s:
            share = min(share, links * torus.link_bytes_per_s / taken)
        hops += along
        stride *= size
    return Crossing(share, "torus" if share < 1 else None, float(hops.max()) * switch_s, float(hops.mean()) * switch_s)
