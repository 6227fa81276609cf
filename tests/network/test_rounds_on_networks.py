"""Rounds on the links of whole clusters: what a fabric does to a collective, at L2."""

import numpy as np
import pytest

from parsim.errors import LayoutError
from parsim.network.build import build
from parsim.network.chunked import ChunkedResult, play_chunked
from parsim.network.collectives import Group, rounds_of
from parsim.network.graph import Network
from parsim.network.members import member_routes
from parsim.network.routes import Router
from parsim.spec import ClusterSpec, Tier, load_cluster

NODES, GPUS = 8, 64
SIZE = 1e9
GROUP = Group(GPUS, 8)


def cluster(topology: str = "rail_optimised", oversubscription: float = 1.0) -> ClusterSpec:
    """DGX H100, two nodes on each leaf."""
    base = load_cluster("dgx-h100")
    tiers = (Tier(name="rack", nodes=2, oversubscription=oversubscription),)
    rails = 1 if topology == "fat_tree" else 8
    fabric = base.fabric.model_copy(update={"topology": topology, "rails": rails, "tiers": tiers})
    return base.model_copy(update={"fabric": fabric})


def played(
    network: Network,
    kind: str,
    name: str,
    group: Group = GROUP,
    *,
    size: object = SIZE,
    pxn: bool = True,
    chunks: int = 8,
    members: list[int] | None = None,
    **options: int,
) -> ChunkedResult:
    rounds = rounds_of(kind, name, group, size, **options)
    routes = member_routes(Router(network, pxn), group, members)
    return play_chunked(rounds, group.ranks, routes, network.capacities, network.latencies, chunks)


@pytest.mark.parametrize("topology", ["rail_optimised", "fat_tree"])
@pytest.mark.parametrize("name", ["pairwise", "pxn"])
def test_oversubscription_slows_an_all_to_all_by_what_it_takes(topology: str, name: str) -> None:
    even, blocking = (
        played(build(cluster(topology, ratio), NODES), "all_to_all", name).seconds for ratio in (1.0, 4.0)
    )
    # 48 of 56 blocks that leave a node leave its leaf, over a quarter of the bandwidth.
    assert 4 * 48 / 56 * 0.75 < blocking / even < 4


@pytest.mark.parametrize("topology", ["rail_optimised", "fat_tree"])
def test_oversubscription_does_not_slow_what_stays_below_a_leaf(topology: str) -> None:
    group = Group(16, 8)
    even, blocking = (
        played(build(cluster(topology, ratio), NODES), "all_reduce", "hierarchical", group).seconds
        for ratio in (1.0, 4.0)
    )
    assert blocking == even


def test_rails_keep_a_ring_off_the_spines() -> None:
    """Of eight rings, each on a rail of its own, none meets another; on one leaf for all they meet in the spines."""
    rails = played(build(cluster("rail_optimised"), NODES), "all_reduce", "ring", channels=8)
    plain = played(build(cluster("fat_tree"), NODES), "all_reduce", "ring", channels=8)
    assert rails.seconds < 0.7 * plain.seconds
    # Every rail's NIC carries 2S(n-1)/n of an eighth of the data.
    assert rails.seconds == pytest.approx(2 * SIZE * 63 / 64 / 8 / 50e9, rel=0.01)


def test_without_pxn_a_rail_optimised_fabric_carries_other_rails_through_spines() -> None:
    network = build(cluster("rail_optimised", 4.0), NODES)
    group = Group(16, 8)  # two nodes below the same leaves: with PXN nothing has to leave them
    with_pxn, without = (played(network, "all_to_all", "pairwise", group, pxn=pxn) for pxn in (True, False))
    assert with_pxn.seconds < 0.5 * without.seconds
    spines = [index for index, name in enumerate(network.link_names) if "spine" in name]
    assert with_pxn.link_bytes[spines].sum() == 0
    assert without.link_bytes[spines].sum() > 0


def test_pxn_by_the_rounds_moves_what_pxn_by_the_routes_moves() -> None:
    network = build(cluster("rail_optimised"), NODES)
    by_rounds = played(network, "all_to_all", "pxn", pxn=False)
    by_routes = played(network, "all_to_all", "pairwise", pxn=True)
    nics = [index for index, ends in enumerate(network.ends) if "leaf" in ends[1] and "nic" in ends[0]]
    assert by_rounds.link_bytes[nics] == pytest.approx(by_routes.link_bytes[nics])
    assert by_rounds.link_bytes[nics] == pytest.approx(np.full(GPUS, SIZE * 56 / 64))


def test_more_channels_use_more_nics() -> None:
    network = build(cluster(), NODES)
    one, four, eight = (played(network, "all_reduce", "ring", channels=channels).seconds for channels in (1, 4, 8))
    assert one / four == pytest.approx(4, rel=0.05)
    assert one / eight == pytest.approx(8, rel=0.05)


def test_inside_a_node_the_switch_beats_the_ring() -> None:
    network, group = build(load_cluster("dgx-h100"), 1), Group(8, 8)
    ring, nvls = (played(network, "all_reduce", name, group, chunks=128).seconds for name in ("ring", "nvls"))
    rate = network.capacities[network.places["n0.gpu0", "nvswitch0"]]
    assert ring == pytest.approx(2 * SIZE * 7 / 8 / rate, rel=0.05)
    assert nvls == pytest.approx(SIZE * 9 / 8 / rate, rel=0.05)


def test_a_bigger_domain_helps_an_all_to_all() -> None:
    """64 ranks in one rack of NVLink, against 64 in nodes of eight."""
    rack = played(build(load_cluster("gb200-nvl72"), 18), "all_to_all", "pairwise", Group(64, 64))
    nodes = played(build(load_cluster("dgx-h100"), 8), "all_to_all", "pairwise")
    assert rack.seconds < 0.2 * nodes.seconds


def test_members_may_be_any_ranks() -> None:
    """Eight ranks of one node against one of each node; and two data-parallel groups of the same rail are alike."""
    network = build(cluster(), NODES)
    near = played(network, "all_reduce", "ring", Group(8, 8), members=list(range(8))).seconds
    far = played(network, "all_reduce", "ring", Group(8), members=list(range(0, 64, 8))).seconds
    other = played(network, "all_reduce", "ring", Group(8), members=list(range(5, 64, 8))).seconds
    assert far == pytest.approx(2 * SIZE * 7 / 8 / 50e9, rel=0.01)
    assert far == pytest.approx(other, rel=1e-9)
    assert near < far / 5


def test_a_switch_reduces_for_members_of_any_domain() -> None:
    network = build(cluster(), NODES)
    group = Group(8, 4)
    members = [8, 10, 12, 14, 40, 41, 42, 43]
    result = played(network, "all_reduce", "nvls_tree", group, members=members)
    used = {network.link_names[index] for index in np.flatnonzero(result.link_bytes)}
    assert {"n1.gpu0 -> nvswitch1", "nvswitch5 -> n5.gpu3"} <= used
    assert not any("nvswitch0" in name for name in used)


def test_a_thousand_gpus_in_one_ring() -> None:
    network = build(load_cluster("dgx-h100"), 128)
    result = played(network, "all_reduce", "ring", Group(1024, 8), size=64 * 2.0**20, chunks=4, channels=1)
    assert result.transfers == 2046 * 1024 * 4
    # Each shard goes round the ring twice, but for two hops; on top of the latencies come at most its bytes by one NIC.
    router = Router(network)
    hops = [router.latency_s(router.route(rank, (rank + 1) % 1024)) for rank in range(1024)]
    latency = 2 * sum(hops) - 2 * max(hops)
    assert latency < result.seconds < latency + 2 * max(hops) + 2 * 64 * 2.0**20 / 50e9


def test_members_that_do_not_fit_are_refused() -> None:
    network = build(load_cluster("dgx-h100"), 1)
    router = Router(network)
    with pytest.raises(LayoutError, match="3 different members for a group of 4 ranks"):
        member_routes(router, Group(4), [0, 1, 2, 2])
    with pytest.raises(LayoutError, match=r"member 8: network .* has ranks 0 to 7"):
        member_routes(router, Group(9))
    with pytest.raises(LayoutError, match="member -1"):
        member_routes(router, Group(2), [-1, 0])


def test_a_switch_that_is_not_there_is_said() -> None:
    alone = build(load_cluster("local-cpu"), 2)
    routes = member_routes(Router(alone), Group(2, 2), [0, 1])
    rounds = rounds_of("all_reduce", "nvls", Group(2, 2), SIZE)
    with pytest.raises(LayoutError, match=r"reaches no NVSwitch"):
        play_chunked(rounds, 2, routes, alone.capacities, alone.latencies)
    network = build(load_cluster("dgx-h100"), 2)
    across = member_routes(Router(network), Group(2, 2), [0, 8])
    with pytest.raises(LayoutError, match=r"no link n1.gpu0 -> nvswitch0, of a domain that reduces there"):
        play_chunked(rounds, 2, across, network.capacities, network.latencies)
