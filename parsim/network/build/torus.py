"""torus: a direct network, a router at each node linked to its neighbours in every dimension and around the edge.

Node n is at (n % d0, n // d0 % d1, ...). Where nodes do not fill the last dimension the routers of its row are there
all the same, so that dimension-ordered routes exist; a ring of two routers is one link, of one router none.
"""

from itertools import product
from math import prod

from parsim.network.build.node import Nodes
from parsim.network.build.parts import Parts, switch_latency_s
from parsim.spec.cluster import FabricSpec

__all__ = ["torus"]


def torus(parts: Parts, inside: Nodes, fabric: FabricSpec) -> tuple[int, ...]:
    """Adds the fabric over the NICs of these nodes; its dimensions."""
    spec = fabric.torus
    assert spec is not None
    sizes = _sizes(spec.dimensions, inside.count)
    latency = switch_latency_s(fabric)
    # product() turns its last factor fastest, nodes their first.
    places = [spot[::-1] for spot in product(*(range(size) for size in reversed(sizes)))]
    names = {spot: parts.add(f"router{'.'.join(map(str, spot))}", "router", at=spot) for spot in places}
    for node, spot in enumerate(places[: inside.count]):
        for place in range(inside.nics):
            parts.join(inside.nic(node, place), names[spot], inside.nic_bytes_per_s, inside.nic_latency_s, "nic")
    for spot in places:
        for dimension, size in enumerate(sizes):
            following = (spot[dimension] + 1) % size
            if size == 1 or (size == 2 and following == 0):
                continue
            other = (*spot[:dimension], following, *spot[dimension + 1 :])
            parts.join(names[spot], names[other], spec.link_bytes_per_s, latency, "torus")
    return sizes


def _sizes(dimensions: tuple[int, ...], nodes: int) -> tuple[int, ...]:
    """The dimensions that hold `nodes`: none larger than said but the last, none larger than needed."""
    sizes: list[int] = []
    for size in dimensions[:-1]:
        sizes.append(min(size, -(-nodes // prod(sizes))))
    return (*sizes, -(-nodes // prod(sizes)))
