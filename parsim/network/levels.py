"""Levels: the tiers of a cluster's fabric from the leaves up, stated ones and those that follow from ports.

A leaf has 32 ports down (half a switch of 64). On a rail-optimised fabric a unit's leaf k takes NIC k of each of its
nodes, so a leaf serves 32 nodes; on a plain one a node's NICs all go to one leaf, which serves 32 / NICs nodes. Where a
plain fabric's first stated tier is larger than that, leaves are a level of their own below it, which does not block.
"""

from typing import NamedTuple

from parsim.spec.cluster import FabricSpec

__all__ = ["Level", "levels_of"]

_PORTS_DOWN = 32


class Level(NamedTuple):
    """Groups of `nodes` nodes; `oversubscription` of their way up."""

    name: str
    nodes: int
    oversubscription: float


def levels_of(fabric: FabricSpec, nics: int) -> tuple[Level, ...]:
    """The levels of a tree (or of the planes of one) over nodes of so many NICs, from the leaves up; at least one."""
    rails = 1 if fabric.topology in ("fat_tree", "single") else min(fabric.rails, nics)
    leaf = Level("leaf", max(_PORTS_DOWN * rails // nics, 1), 1.0)
    stated = tuple(Level(tier.name, tier.nodes, tier.oversubscription) for tier in fabric.tiers)
    if not stated:
        return (leaf,)
    if fabric.topology != "fat_tree" or stated[0].nodes <= leaf.nodes:
        return stated
    fitting = max(nodes for nodes in range(1, leaf.nodes + 1) if stated[0].nodes % nodes == 0)
    return (leaf._replace(nodes=fitting), *stated)
