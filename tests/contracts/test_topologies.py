"""The contract of every bundled cluster as a network: whole, routable, and blocking where and as much as it says."""

import random
from collections import defaultdict
from itertools import pairwise

import networkx as nx
import pytest

from parsim.network.build import build
from parsim.network.graph import INSIDE, Network
from parsim.network.levels import levels_of
from parsim.network.routes import Router
from parsim.spec import catalogue, load_cluster
from parsim.spec.cluster import ClusterSpec

CLUSTERS = catalogue.names("clusters")


def sizes(cluster: ClusterSpec) -> list[int]:
    """One node, two, three, and one more than each unit that is not too large to test."""
    units = [tier.nodes for tier in cluster.fabric.tiers if tier.nodes <= 100]
    if cluster.fabric.dragonfly:
        units.append(cluster.fabric.dragonfly.nodes_per_router * cluster.fabric.dragonfly.routers_per_group)
    if cluster.fabric.torus:
        units.append(cluster.fabric.torus.dimensions[0] * cluster.fabric.torus.dimensions[1])
    wanted = sorted({1, 2, 3, 37, *(unit + 1 for unit in units)})
    return [nodes for nodes in wanted if cluster.nodes is None or nodes <= cluster.nodes]


TREES = [name for name in CLUSTERS if load_cluster(name).fabric.topology not in ("dragonfly", "torus")]
SPINED = [name for name in TREES if load_cluster(name).fabric.topology != "single"]
CASES = [(name, nodes) for name in CLUSTERS for nodes in sizes(load_cluster(name))]


@pytest.fixture(scope="module")
def built() -> dict[tuple[str, int], Network]:
    return {case: build(load_cluster(case[0]), case[1]) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_device_reaches_every_other(case: tuple[str, int], built: dict[tuple[str, int], Network]) -> None:
    network, cluster = built[case], load_cluster(case[0])
    assert nx.is_strongly_connected(network.graph)
    assert len(network.gpus) == case[1] * cluster.node.gpus
    for rank in range(0, len(network.gpus), 5):
        assert network.node_of(rank) == rank // cluster.node.gpus
        assert len(network.leaf_of(rank)) >= 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nics_of_a_node_have_the_rate_of_its_specification(
    case: tuple[str, int], built: dict[tuple[str, int], Network]
) -> None:
    network, node = built[case], load_cluster(case[0]).node
    out: dict[int, float] = defaultdict(float)
    for one, other, edge in network.graph.edges(data=True):
        if network.devices[one]["kind"] == "nic" and network.devices[other]["kind"] not in INSIDE:
            out[network.devices[one]["node"]] += edge["bytes_per_s"]
    assert len(out) == case[1]
    assert all(rate == pytest.approx(node.nics * node.nic_bytes_per_s) for rate in out.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sampled_pairs_have_routes(case: tuple[str, int], built: dict[tuple[str, int], Network]) -> None:
    network = built[case]
    router, draw = Router(network), random.Random(7)
    for _ in range(60):
        source, target = draw.randrange(len(network.gpus)), draw.randrange(len(network.gpus))
        ends = [network.ends[link] for link in router.route(source, target, draw.randrange(4))]
        if source == target:
            assert not ends
            continue
        assert (ends[0][0], ends[-1][1]) == (network.gpus[source], network.gpus[target])
        assert all(one[1] == other[0] for one, other in pairwise(ends))
        assert len(set(ends)) == len(ends)
        crossing = [pair for pair in ends if network.devices[pair[0]]["kind"] not in INSIDE]
        assert bool(crossing) == (network.domain_of(source) != network.domain_of(target))


@pytest.mark.parametrize("case", [case for case in CASES if case[0] in TREES], ids=str)
def test_a_tier_lets_out_what_its_oversubscription_leaves(
    case: tuple[str, int], built: dict[tuple[str, int], Network]
) -> None:
    network, cluster = built[case], load_cluster(case[0])
    into: dict[tuple[int, int], float] = defaultdict(float)
    out: dict[tuple[int, int], float] = defaultdict(float)
    for one, other, edge in network.graph.edges(data=True):
        below, above = network.devices[one], network.devices[other]
        if "tier" in above and below.get("tier", -1) == above["tier"] - 1:
            into[above["tier"], above["group"]] += edge["bytes_per_s"]
            if "tier" in below:
                out[below["tier"], below["group"]] += edge["bytes_per_s"]
        if "tier" in below and "tier" in above:
            assert network.graph.edges[other, one]["bytes_per_s"] == edge["bytes_per_s"]
    top = max(tier for tier, _ in into)
    assert [group for tier, group in into if tier == top] == [0]
    said = dict(enumerate(level.oversubscription for level in levels_of(cluster.fabric, cluster.node.nics)))
    for (tier, group), rate in into.items():
        if tier < top:
            assert out[tier, group] == pytest.approx(rate / said.get(tier, 1.0)), (tier, group)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_link_between_switches_is_slower_than_a_nic_unless_its_group_is(
    case: tuple[str, int], built: dict[tuple[str, int], Network]
) -> None:
    network = built[case]
    nic = network.graph.edges[network.nics[0][0], network.leaf_of(0)[0]]["bytes_per_s"]
    for one, other, edge in network.graph.edges(data=True):
        below, above = network.devices[one], network.devices[other]
        if edge["kind"] == "fabric" and below["tier"] < above["tier"] and edge["bytes_per_s"] < nic * (1 - 1e-9):
            ways = [
                way
                for way in network.graph.adj
                if (held := network.devices[way]).get("tier") == below["tier"]
                and held["group"] == below["group"]
                and any(network.devices[up].get("tier") == above["tier"] for up in network.graph.adj[way])
            ]
            assert len(ways) == 1 or below["tier"] == 0


@pytest.mark.parametrize("name", SPINED)
def test_losing_any_one_switch_above_the_leaves_loses_no_pair(name: str, built: dict[tuple[str, int], Network]) -> None:
    """A spine can be done without."""
    network = max((net for case, net in built.items() if case[0] == name), key=lambda net: len(net.gpus))
    spines = [device for device, held in network.devices.items() if held["kind"] == "spine"]
    planes = {spine.partition("spine")[0] for spine in spines}
    assert len(spines) >= 2 * len(planes)
    router = Router(network.without(spines[0]))
    for target in range(1, len(network.gpus), 17):
        assert router.route(0, target)
