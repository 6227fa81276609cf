"""Process groups on a cluster: where they stand, and what one has when all of its axis talk at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.axes.mesh import AXES, groups
from parsim.network.build import build
from parsim.network.estimate import estimate
from parsim.network.groups import axis_groups, groups_at_once, members_of
from parsim.network.reach import reach_of_size
from parsim.network.routes import Router
from parsim.network.tiers import Flows, crossing, exchange
from parsim.spec import ClusterSpec, Mesh, load_cluster

OVERSUBSCRIBED = 4.0


def mesh(tp: int = 1, cp: int = 1, dp: int = 1, pp: int = 1) -> Mesh:
    return Mesh(tp=tp, cp=cp, dp=dp, pp=pp)


def cluster_with(oversubscription: float, nodes: int = 4, topology: str = "rail_optimised") -> ClusterSpec:
    cluster = load_cluster("dgx-h100")
    document = cluster.model_dump()
    document["fabric"] |= {
        "topology": topology,
        "tiers": [{"name": "unit", "nodes": nodes, "oversubscription": oversubscription}],
    }
    return ClusterSpec.model_validate(document)


def test_a_tensor_group_fills_a_node_and_a_data_group_has_one_rank_in_each() -> None:
    cluster, layout = load_cluster("dgx-h100"), mesh(tp=8, dp=16, pp=4)
    tensor, data = axis_groups(cluster, layout, "tp"), axis_groups(cluster, layout, "dp")
    assert (tensor.count, tensor.ranks, tensor.nodes, tensor.domains, tensor.in_domain, tensor.rails) == (
        64,
        8,
        1,
        1,
        8,
        8,
    )
    assert (data.count, data.ranks, data.nodes, data.domains, data.in_domain, data.rails) == (32, 16, 16, 16, 1, 1)
    assert data.reach.across_bytes_per_s == 50e9  # eight rings of a node have one of its eight NICs each


@given(st.tuples(*[st.integers(1, 4)] * 4), st.lists(st.sampled_from(AXES), min_size=1, unique=True))
def test_members_are_the_groups_of_the_mesh(degrees: tuple[int, int, int, int], axes: list[str]) -> None:
    layout = mesh(*degrees)
    assert members_of(layout, *axes).tolist() == [list(group) for group in groups(layout, *axes)]


def test_groups_of_a_rack_share_one_domain() -> None:
    layout = mesh(tp=4, dp=16)
    assert axis_groups(load_cluster("gb200-nvl72"), layout, "dp").domains == 1
    assert axis_groups(load_cluster("dgx-h100"), layout, "dp").domains == 8


def test_two_gpus_that_share_a_nic_have_half_of_it_each() -> None:
    data = axis_groups(load_cluster("aws-p4d"), mesh(tp=8, dp=4), "dp")
    assert data.reach.across_bytes_per_s == pytest.approx(100e9 / 8 / 2)


def test_rings_that_leave_a_group_of_nodes_share_its_way_up() -> None:
    layout = mesh(tp=8, dp=2, pp=8)  # pipeline neighbours are 2 nodes apart, units have 4 nodes
    open_ = axis_groups(cluster_with(1.0), layout, "pp")
    blocked = axis_groups(cluster_with(OVERSUBSCRIBED), layout, "pp")
    assert open_.fabric_share == 1.0
    assert blocked.blocking_tier == "unit"
    # Of a unit's 4 nodes 2 hold ranks whose next stage is outside; the way up is 4 nodes' NICs over 4.
    assert blocked.fabric_share == pytest.approx(4 / OVERSUBSCRIBED / 2)
    # Rings of 2 neighbouring nodes never leave their unit.
    assert axis_groups(cluster_with(OVERSUBSCRIBED), layout, "dp").fabric_share == 1.0


def test_eight_rings_through_one_leaf_are_not_one_ring() -> None:
    cluster = cluster_with(8.0, nodes=1)
    one = groups_at_once(cluster, [[0, 8]], ("dp",), 16)
    eight = groups_at_once(cluster, [[k, 8 + k] for k in range(8)], ("dp",), 16)
    assert one.reach.across_bytes_per_s == pytest.approx(8 * eight.reach.across_bytes_per_s)


@pytest.mark.parametrize(
    "name", ["alcf-polaris", "h100-torus", "h100-oversubscribed", "meta-h100-roce", "h800-deepseek"]
)
def test_every_fabric_answers_for_every_axis(name: str) -> None:
    cluster = load_cluster(name)
    gpus = cluster.node.gpus
    layout = mesh(tp=gpus, dp=4, pp=8)
    for axis in ("tp", "dp", "pp"):
        found = axis_groups(cluster, layout, axis)
        assert 0 < found.fabric_share <= 1
        assert (found.blocking_tier is None) == (found.fabric_share == 1)
        assert found.reach.ranks == found.ranks
        assert found.document()["groups"] == found.count


def _greedy_share(cluster: ClusterSpec, nodes: int, pairs: list[tuple[int, int]], rate: float) -> float:
    """The least share of its rate that a flow is left on the real graph, by the fullest link of its route."""
    network = build(cluster, nodes)
    router = Router(network)
    used = np.zeros(len(network.capacities))
    routes = [router.route(a, b, flow) for flow, (a, b) in enumerate(pairs)]
    for route in routes:
        used[list(route)] += rate
    shares = [min(1.0, *(network.capacities[link] / used[link] for link in route)) for route in routes if route]
    return float(min(shares))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_graph_never_carries_more_than_the_closed_form(data: st.DataObject) -> None:
    topology = data.draw(st.sampled_from(["rail_optimised", "fat_tree"]))
    over = data.draw(st.sampled_from([1.0, 2.0, 4.0]))
    units, in_unit = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    cluster, nodes = cluster_with(over, in_unit, topology), units * in_unit
    shift = data.draw(st.integers(0, nodes - 1))
    pairs = [(8 * a + k, 8 * ((a + shift) % nodes) + k) for a in range(nodes) for k in range(8)]
    rate = cluster.node.nic_bytes_per_s
    flows = Flows(np.array([a // 8 for a, _ in pairs]), np.array([b // 8 for _, b in pairs]), rate)
    closed = crossing(cluster, flows).share
    if shift == 0:
        assert closed == 1.0
        return
    assert _greedy_share(cluster, nodes, pairs, rate) <= closed * (1 + 1e-9)
    if topology == "fat_tree" and over == 1.0:
        assert closed == 1.0


def test_passing_more_tiers_takes_longer() -> None:
    cluster = load_cluster("meta-h100-roce")
    near, pod, far = (
        crossing(cluster, Flows(np.array([0]), np.array([target]), 50e9)).latency_s for target in (1, 100, 1000)
    )
    assert near == 0 < pod < far


@pytest.mark.parametrize("oversubscription", [1.0, 2.0, 4.0])
def test_what_everyone_sends_to_everyone_feels_what_a_ring_does_not(oversubscription: float) -> None:
    cluster = cluster_with(oversubscription)
    whole = reach_of_size(cluster, 16)
    assert whole.share == 1.0
    # Of 15 other nodes 12 are outside a unit of 4.
    assert whole.exchange_share == pytest.approx(min(1.0, 15 / 12 / oversubscription))
    times = [estimate("all_to_all", 1e9, reach_of_size(cluster_with(o), 16)).seconds for o in (1.0, oversubscription)]
    assert times[0] <= times[1]


def test_groups_that_stay_in_their_unit_do_not_feel_it() -> None:
    blocked = cluster_with(8.0)
    inside = axis_groups(blocked, mesh(tp=8, dp=4, pp=4), "dp").reach
    outside = axis_groups(blocked, mesh(tp=8, dp=4, pp=4), "pp").reach
    assert inside.exchange_share == 1.0
    assert outside.exchange_share < 0.5


@given(st.integers(2, 40), st.sampled_from(["alcf-polaris", "h100-torus", "h100-oversubscribed", "dgx-h100"]))
@settings(max_examples=40, deadline=None)
def test_the_closed_form_of_an_exchange_is_that_of_its_flows(nodes: int, name: str) -> None:
    cluster = load_cluster(name)
    pairs = np.array([(a, b) for a in range(nodes) for b in range(nodes) if a != b])
    rate = cluster.node.nics * cluster.node.nic_bytes_per_s
    flows = crossing(cluster, Flows(pairs[:, 0], pairs[:, 1], rate / (nodes - 1)))
    closed = exchange(cluster, nodes).share
    if cluster.fabric.torus is None:
        assert closed == pytest.approx(flows.share, rel=1e-6)
    assert 0 < closed <= 1
