"""build: the network of a cluster, from its specification.

Rank r is GPU r % gpus of node r // gpus. The inside of a node is parsim.network.build.node; the fabric is one of
parsim.network.build.{tree,dragonfly,torus}.
"""

from typing import Any

from parsim.errors import LayoutError
from parsim.network.build.dragonfly import dragonfly
from parsim.network.build.node import Nodes
from parsim.network.build.parts import Parts
from parsim.network.build.torus import torus
from parsim.network.build.tree import tree
from parsim.network.graph import Network
from parsim.spec.cluster import ClusterSpec

__all__ = ["build"]


def build(cluster: ClusterSpec, nodes: int | None = None) -> Network:
    """The network of `nodes` nodes of a cluster; None: of all. SpecError for an elastic cluster without a number."""
    count = cluster.gpus // cluster.node.gpus if nodes is None else nodes
    if count < 1:
        raise LayoutError(f"nodes {count}: cluster {cluster.name} is built from 1 node on")
    if cluster.nodes is not None and count > cluster.nodes and cluster.fabric.kind != "loopback":
        raise LayoutError(f"nodes {count}: cluster {cluster.name} has {cluster.nodes}; {cluster.nodes} would do")
    most = cluster.fabric.most_nodes
    if most is not None and count > most:
        raise LayoutError(f"nodes {count}: the global links of {cluster.name} reach {most} nodes; {most} would do")
    parts = Parts()
    inside = Nodes(cluster.node, count)
    inside.add_to(parts)
    about: dict[str, Any] = {"topology": cluster.fabric.topology}
    match cluster.fabric.topology:
        case "dragonfly":
            dragonfly(parts, inside, cluster.fabric)
        case "torus":
            about["dimensions"] = torus(parts, inside, cluster.fabric)
        case _:
            tree(parts, inside, cluster.fabric)
    return Network.of(cluster.name, parts.devices, parts.links, tuple(parts.notes), **about)
