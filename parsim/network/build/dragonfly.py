"""dragonfly: groups of routers, linked all to all inside, and every group with every other by global links.

Router r of a group has a link to each other router of it. A group's routers_per_group * global_links_per_router global
links are dealt out evenly over the other groups, as many to each as all can have, starting from another router for each
peer. Links between the same two routers are one with the sum of the rates. Kim et al., Technology-Driven,
Highly-Scalable Dragonfly Topology, ISCA 2008.
"""

from collections import Counter

from parsim.network.build.node import Nodes
from parsim.network.build.parts import Parts, switch_latency_s
from parsim.spec.cluster import FabricSpec

__all__ = ["dragonfly"]


def dragonfly(parts: Parts, inside: Nodes, fabric: FabricSpec) -> None:
    """Adds the fabric over the NICs of these nodes. The groups are whole, also where nodes do not fill them."""
    spec = fabric.dragonfly
    assert spec is not None
    latency, rate, size = switch_latency_s(fabric), spec.link_bytes_per_s, spec.routers_per_group
    groups = -(-inside.count // (spec.nodes_per_router * size))
    if groups == 1:  # a part of a group has the routers that its nodes are on
        size = -(-inside.count // spec.nodes_per_router)
    names = [[parts.add(f"g{group}.router{r}", "router", group=group) for r in range(size)] for group in range(groups)]
    for node in range(inside.count):
        group, router = divmod(node // spec.nodes_per_router, size)
        for place in range(inside.nics):
            parts.join(
                inside.nic(node, place), names[group][router], inside.nic_bytes_per_s, inside.nic_latency_s, "nic"
            )
    for routers in names:
        for one in range(size):
            for other in range(one + 1, size):
                parts.join(routers[one], routers[other], rate, latency, "local")
    if groups == 1:
        return
    each = size * spec.global_links_per_router // (groups - 1)
    joined: Counter[tuple[str, str]] = Counter()
    for one in range(groups):
        for other in range(one + 1, groups):
            for link in range(each):
                ports = ((other - one - 1) * each + link, (one - other - 1) % groups * each + link)
                joined[names[one][ports[0] % size], names[other][ports[1] % size]] += 1
    for (one_router, other_router), links in joined.items():
        parts.join(one_router, other_router, links * rate, latency, "global")
