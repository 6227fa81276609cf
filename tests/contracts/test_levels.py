"""Three levels of detail, one answer where they must agree: a large ring across nodes runs at its NICs.

L0 is NCCL's model, its search rounds a 400 Gb/s NIC down to 48 GB/s; L1 (fluid flows) and L2 (chunked rounds) have the
links' own 50.
"""

import numpy as np
import pytest

from parsim.network.build import build
from parsim.network.chunked import play_chunked
from parsim.network.collectives import Group, rounds_of
from parsim.network.fluid import Fluid
from parsim.network.members import member_routes
from parsim.network.nccl import choose, terms
from parsim.network.reach import reach_of_size
from parsim.network.routes import Router
from parsim.spec import load_cluster
from parsim.spec.nccl import load_nccl

SIZE, CHANNELS = 8e9, 8
ROUNDED = 48 / 50


@pytest.mark.parametrize("nodes", [2, 4])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
def test_a_large_ring_takes_the_same_at_every_level(nodes: int, kind: str) -> None:
    cluster = load_cluster("dgx-h100")
    reach = reach_of_size(cluster, nodes)
    ring = terms(kind, SIZE, reach, load_nccl())["ring", "Simple"]  # type: ignore[arg-type]
    level_0 = SIZE / ring.bytes_per_s

    network = build(cluster, nodes)
    router = Router(network)
    group = Group(reach.ranks, 8)
    rounds = rounds_of(kind, "ring", group, SIZE, channels=CHANNELS)
    routes = member_routes(router, group)
    level_2 = play_chunked(rounds, group.ranks, routes, network.capacities, network.latencies, chunks=16).seconds

    carried: dict[tuple[int, int, int], float] = {}
    for each in rounds:
        for transfer in each:
            key = transfer.src, transfer.dst, transfer.queue
            carried[key] = carried.get(key, 0.0) + transfer.size_bytes
    fluid = Fluid(network.capacities)
    for (source, target, queue), size in carried.items():
        fluid.start(routes(source, target, queue), size)
    level_1 = 0.0
    while (end := fluid.next_end_s) < np.inf:
        fluid.advance(end)
        level_1 = end

    assert level_1 == pytest.approx(level_0 * ROUNDED, rel=1e-6)
    assert level_2 == pytest.approx(level_0 * ROUNDED, rel=0.02)


def test_level_0_chooses_by_its_own_estimate() -> None:
    reach = reach_of_size(load_cluster("dgx-h100"), 2)
    for size in (1e3, 1e5, 1e7, 1e9):
        found = terms("all_reduce", size, reach, load_nccl())
        assert found[choose(size, found)].seconds(size) == min(term.seconds(size) for term in found.values())
