"""Routes: connected, free of loops and as the fabric rules; spread over equal ways, around what is broken."""

from collections import Counter
from itertools import pairwise
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import LayoutError
from parsim.network.build import build
from parsim.network.graph import INSIDE, Link, Network, both_ways
from parsim.network.hops import mixed
from parsim.network.routes import Router
from parsim.spec import load_cluster
from parsim.spec.cluster import ClusterSpec, Dragonfly, FabricSpec, Tier, Torus


def named(router: Router, source: int, target: int, flow: int = 0) -> list[str]:
    """The devices that a route passes, ends included."""
    ends = [router.network.ends[link] for link in router.route(source, target, flow)]
    return [ends[0][0], *(end for _, end in ends)]


def check_route(network: Network, router: Router, source: int, target: int, flow: int = 0) -> None:
    links = router.route(source, target, flow)
    assert links == router.route(source, target, flow)
    if source == target:
        assert links == ()
        return
    ends = [network.ends[link] for link in links]
    assert ends[0][0] == network.gpus[source]
    assert ends[-1][1] == network.gpus[target]
    assert all(one[1] == other[0] for one, other in pairwise(ends))
    assert len(set(links)) == len(links)
    assert len({one for one, _ in ends}) == len(ends), "a device is passed twice"
    assert all(network.graph.has_edge(*pair) for pair in ends)


def cluster_of(
    fabric: FabricSpec, gpus: int = 8, nics: int = 8, domain: int | None = None, nvlink: bool = True
) -> ClusterSpec:
    base = load_cluster("dgx-h100")
    gpu = base.node.gpu if nvlink else base.node.gpu.model_copy(update={"nvlink_bytes_per_s": 0.0})
    node = base.node.model_copy(update={"gpu": gpu, "gpus": gpus, "nics": nics, "nvlink_domain": domain or gpus})
    return base.model_copy(update={"node": node, "fabric": fabric, "nodes": None})


@st.composite
def fabrics(draw: st.DrawFn) -> FabricSpec:
    topology = draw(st.sampled_from(["rail_optimised", "fat_tree", "multi_plane", "single", "dragonfly", "torus"]))
    about: dict[str, Any] = {"kind": "ib", "topology": topology, "rails": draw(st.integers(1, 9))}
    small = st.integers(1, 4)
    if topology == "dragonfly":
        about["dragonfly"] = Dragonfly(
            nodes_per_router=draw(small),
            routers_per_group=draw(small),
            global_links_per_router=draw(st.integers(2, 5)),
            link_bytes_per_s=25e9,
        )
    elif topology == "torus":
        about["torus"] = Torus(dimensions=tuple(draw(st.lists(small, min_size=1, max_size=3))), link_bytes_per_s=1e9)
    else:
        nodes, tiers = 1, []
        for name in draw(st.sampled_from(["", "a", "ab", "abc", "abcd"])):
            nodes *= draw(small)
            tiers.append(Tier(name=name, nodes=nodes, oversubscription=draw(st.sampled_from([1.0, 2.0, 7.0]))))
        about["tiers"] = tuple(tiers)
    return FabricSpec(**about)


@st.composite
def networks(draw: st.DrawFn) -> tuple[ClusterSpec, Network]:
    gpus = draw(st.integers(1, 6))
    fabric = draw(fabrics())
    cluster = cluster_of(
        fabric,
        gpus,
        nics=draw(st.integers(1, 9)),
        domain=draw(st.sampled_from([1, 2, gpus, 3 * gpus])),
        nvlink=draw(st.booleans()),
    )
    nodes = draw(st.integers(1, min(fabric.most_nodes or 14, 14)))
    return cluster, build(cluster, nodes)


@given(networks(), st.booleans(), st.data())
def test_routes_of_any_cluster_are_ways_from_gpu_to_gpu(
    built: tuple[ClusterSpec, Network], pxn: bool, data: st.DataObject
) -> None:
    network = built[1]
    router = Router(network, pxn=pxn)
    ranks = st.integers(0, len(network.gpus) - 1)
    for _ in range(8):
        source, target = data.draw(ranks), data.draw(ranks)
        check_route(network, router, source, target, data.draw(st.integers(0, 9)))
        if source != target and network.domain_of(source) == network.domain_of(target):
            assert [network.graph.edges[network.ends[i]]["kind"] for i in router.route(source, target)] == [
                "nvlink",
                "nvlink",
            ]


@given(networks(), st.data())
def test_around_what_is_broken_or_a_refusal_that_names_it(
    built: tuple[ClusterSpec, Network], data: st.DataObject
) -> None:
    _, network = built
    things = st.sampled_from([*network.devices, *network.link_names])
    broken = network.without(*data.draw(st.lists(things, min_size=1, max_size=4)))
    router = Router(broken)
    ranks = st.integers(0, len(network.gpus) - 1)
    for _ in range(6):
        source, target = data.draw(ranks), data.draw(ranks)
        if source == target or way_is_left(broken, source, target):
            check_route(broken, router, source, target)
            continue
        with pytest.raises(LayoutError) as caught:
            router.route(source, target)
        assert broken.broken[0] in str(caught.value)
        assert "\n" not in str(caught.value)


def way_is_left(network: Network, source: int, target: int) -> bool:
    """Whether the graph joins them when NICs of nodes that neither rank's NVLink domain is in do not forward."""
    ends = {network.domain_of(source), network.domain_of(target)}
    ours = {network.node_of(rank) for rank in range(len(network.gpus)) if network.domain_of(rank) in ends}
    others = {d for d, held in network.devices.items() if held["kind"] == "nic" and held["node"] not in ours}
    left = network.graph.subgraph(set(network.graph) - others)
    here, there = network.gpus[source], network.gpus[target]
    return here in left and there in left and nx.has_path(left, here, there)


def test_known_routes_of_rails() -> None:
    router = Router(build(load_cluster("dgx-h100"), 40))
    assert named(router, 0, 5) == ["n0.gpu0", "nvswitch0", "n0.gpu5"]
    same_rail = ["n0.gpu3", "n0.pcie3", "n0.nic3", "leaf0.3", "n9.nic3", "n9.pcie3", "n9.gpu3"]
    assert named(router, 3, 75) == same_rail
    assert named(router, 2, 75) == ["n0.gpu2", "nvswitch0", *same_rail]
    far = named(router, 3, 8 * 39 + 3)
    assert far[3] == "leaf0.3"
    assert far[4].startswith("spine")
    assert far[5] == "leaf1.3"
    assert len(far) == 9


def test_without_pxn_rails_meet_at_spines() -> None:
    router = Router(build(load_cluster("dgx-h100"), 2), pxn=False)
    way = named(router, 0, 13)
    assert way[:4] == ["n0.gpu0", "n0.pcie0", "n0.nic0", "leaf0.0"]
    assert way[4].startswith("spine")
    assert way[5:] == ["leaf0.5", "n1.nic5", "n1.pcie5", "n1.gpu5"]


@pytest.mark.parametrize("pxn", [True, False])
def test_planes_are_crossed_inside_the_node(pxn: bool) -> None:
    router = Router(build(load_cluster("h800-deepseek"), 64), pxn=pxn)
    way = named(router, 8 * 60 + 1, 6)
    assert way[:3] == ["n60.gpu1", "nvswitch60", "n60.gpu6"]
    assert {device.partition(".")[0] for device in way if "leaf" in device or "spine" in device} == {"p6"}


def test_planes_without_nvlink_are_crossed_over_pcie() -> None:
    fabric = FabricSpec(kind="ib", topology="multi_plane", rails=8)
    way = named(Router(build(cluster_of(fabric, nvlink=False), 2)), 1, 14)
    assert way[:6] == ["n0.gpu1", "n0.pcie1", "n0.host0", "n0.host1", "n0.pcie6", "n0.nic6"]


def test_an_nvlink_domain_spans_trays() -> None:
    router = Router(build(load_cluster("gb200-nvl72"), 36))
    assert named(router, 0, 71) == ["n0.gpu0", "nvswitch0", "n17.gpu3"]
    assert "leaf0.0" in named(router, 0, 72)


def test_gpus_without_nvlink_meet_at_the_hosts() -> None:
    fabric = FabricSpec(kind="ib", topology="fat_tree", rails=1)
    router = Router(build(cluster_of(fabric, nvlink=False), 1))
    assert named(router, 0, 1) == ["n0.gpu0", "n0.pcie0", "n0.host0", "n0.pcie1", "n0.gpu1"]
    assert named(router, 0, 7)[2:4] == ["n0.host0", "n0.host1"]


def test_a_route_to_oneself_and_ranks_that_are_not_there() -> None:
    router = Router(build(load_cluster("dgx-h100"), 1))
    assert router.route(4, 4) == ()
    for pair in ((0, 8), (-1, 3)):
        with pytest.raises(LayoutError, match="ranks 0 to 7"):
            router.route(*pair)


def test_flows_spread_over_spines() -> None:
    network = build(load_cluster("dgx-h100"), 64)
    router = Router(network)
    used = Counter(
        device for flow in range(3200) for device in named(router, 0, 8 * 40, flow) if device.startswith("spine")
    )
    assert len(used) == 32
    # 3,200 throws into 32 spines: 100 each, five standard deviations of a fair throw are 50.
    assert max(used.values()) < 150
    assert min(used.values()) > 50


def test_pairs_spread_over_cores_independently_of_the_spines() -> None:
    network = build(load_cluster("meta-h100-roce"), 800)
    router = Router(network)
    used = Counter(
        device
        for node in range(300)
        for place in range(8)
        for device in named(router, 8 * node + place, 8 * (node + 400) + place)
        if device.startswith("core")
    )
    # 2,400 throws into 432 cores: 5.6 each; a hash that repeats itself at each switch would leave most unused.
    assert len(used) > 400
    assert max(used.values()) < 20


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=50))
def test_the_hash_is_a_permutation(values: list[int]) -> None:
    assert len({mixed(value) for value in values}) == len(values)


@pytest.mark.parametrize("way", ["spine", "leaf"])
def test_one_broken_link_is_gone_around(way: str) -> None:
    network = build(load_cluster("dgx-h100"), 40)
    target = 8 * 39
    before = Router(network).route(0, target)
    name = next(network.link_names[link] for link in before if f"-> {way}" in network.link_names[link])
    broken = network.without(name)
    router = Router(broken)
    check_route(broken, router, 0, target)
    assert network.places[tuple(name.split(" -> "))] not in router.route(0, target)  # type: ignore[index]
    other = Router(broken).route(1, target + 1)
    assert other == Router(network).route(1, target + 1), "flows that did not use it stay where they were"


def test_a_broken_leaf_sends_its_gpus_to_another_nic() -> None:
    broken = build(load_cluster("dgx-h100"), 4).without("leaf0.2")
    router = Router(broken)
    for source, target in ((2, 10), (2, 9), (1, 10)):
        check_route(broken, router, source, target)
    assert "n0.nic2" not in named(router, 2, 9)


def test_what_cannot_be_gone_around_is_named() -> None:
    network = build(load_cluster("dgx-h100"), 2)
    alone = network.without("n1.gpu0 - nvswitch1", "n1.gpu0 - n1.pcie0")
    with pytest.raises(LayoutError, match=r"rank 0 .* rank 8 .*'n1.gpu0 - nvswitch1', 'n1.gpu0 - n1.pcie0' broken"):
        Router(alone).route(0, 8)
    with pytest.raises(LayoutError, match=r"'n1\.gpu0' broken"):
        Router(network.without("n1.gpu0")).route(8, 0)
    check_route(alone, Router(alone), 0, 9)


def test_other_nodes_do_not_forward() -> None:
    """With both planes cut between two nodes a third one could pass packets on; servers do not."""
    devices: dict[str, dict[str, Any]] = {}
    links: list[Link] = []
    for node in range(3):
        devices[f"g{node}"] = {"kind": "gpu", "rank": node, "node": node}
        devices[f"s{node}"] = {"kind": "pcie", "node": node}
        links += both_ways(f"g{node}", f"s{node}", 1e9, 0, "pcie")
    for name, node, leaf in (("a", 0, "p"), ("b", 1, "p"), ("c", 1, "q"), ("d", 2, "q")):
        devices[name] = {"kind": "nic", "node": node, "rail": "pq".index(leaf)}
        devices[leaf] = {"kind": "leaf"}
        links += both_ways(f"s{node}", name, 1e9, 0, "pcie")
        links += both_ways(name, leaf, 1e9, 0, "nic")
    router = Router(Network.of("relay", devices, links))
    check_route(router.network, router, 0, 1)
    with pytest.raises(LayoutError, match="no way from rank 0"):
        router.route(0, 2)


def switches(router: Router, source: int, target: int, flow: int = 0) -> list[str]:
    kinds = router.network.devices
    return [device for device in named(router, source, target, flow) if kinds[device]["kind"] not in INSIDE]


def test_torus_routes_go_dimension_by_dimension_the_short_way_round() -> None:
    fabric = FabricSpec(kind="ib", topology="torus", rails=1, torus=Torus(dimensions=(5, 4, 3), link_bytes_per_s=1e9))
    network = build(cluster_of(fabric, gpus=1, nics=1), 60)
    router = Router(network)
    assert switches(router, 0, 4 + 5 * 1 + 20 * 2) == ["router0.0.0", "router4.0.0", "router4.1.0", "router4.1.2"]
    for source in range(0, 60, 7):
        for target in range(60):
            if source == target:
                continue
            spots = [network.devices[device]["at"] for device in switches(router, source, target)]
            turned = [next(d for d in range(3) if one[d] != other[d]) for one, other in pairwise(spots)]
            assert turned == sorted(turned)
            short = sum(min((b - a) % n, (a - b) % n) for a, b, n in zip(spots[0], spots[-1], (5, 4, 3), strict=True))
            assert len(turned) == short


def test_a_torus_goes_around_a_broken_link() -> None:
    fabric = FabricSpec(kind="ib", topology="torus", rails=1, torus=Torus(dimensions=(4, 4), link_bytes_per_s=1e9))
    broken = build(cluster_of(fabric, gpus=1, nics=1), 16).without("router0.0 - router1.0")
    router = Router(broken)
    check_route(broken, router, 0, 1)
    assert len(switches(router, 0, 1)) == 4


def test_dragonfly_routes_are_minimal() -> None:
    network = build(load_cluster("alcf-polaris"))
    router = Router(network)
    for source in range(0, 2240, 97):
        for target in range(3, 2240, 89):
            kinds = [network.graph.edges[network.ends[link]]["kind"] for link in router.route(source, target)]
            hops = [kind for kind in kinds if kind in ("local", "global")]
            apart = source // 320 != target // 320
            assert hops.count("global") == apart
            assert len(hops) <= 3 if apart else len(hops) <= 1


def test_dragonfly_global_links_are_dealt_out_evenly() -> None:
    network = build(load_cluster("alcf-polaris"))
    out: Counter[tuple[int, int]] = Counter()
    ports: Counter[str] = Counter()
    for one, other, edge in network.graph.edges(data=True):
        if edge["kind"] == "global":
            links = round(edge["bytes_per_s"] / 25e9)
            out[network.devices[one]["group"], network.devices[other]["group"]] += links
            ports[one] += links
    assert set(out.values()) == {10}
    assert len(out) == 7 * 6
    assert set(ports.values()) == {6}


def test_an_imported_graph_is_routed_too() -> None:
    """Four GPUs in a ring of NVLinks, no NVSwitch, no fabric: two hops over a neighbour, or PCIe where that breaks."""
    devices: dict[str, dict[str, Any]] = {f"GPU{k}": {"kind": "gpu"} for k in range(4)}
    devices |= {"CPU": {"kind": "host"}}
    links = [link for k in range(4) for link in both_ways(f"GPU{k}", f"GPU{(k + 1) % 4}", 50e9, 1e-6, "nvlink")]
    links += [link for k in range(4) for link in both_ways(f"GPU{k}", "CPU", 12e9, 1e-6, "pcie")]
    network = Network.of("ring", devices, links)
    router = Router(network)
    assert named(router, 0, 1) == ["GPU0", "GPU1"]
    assert named(router, 0, 2)[1] in ("GPU1", "GPU3")
    assert len(named(router, 0, 2)) == 3
    cut = network.without("GPU0 - GPU1", "GPU0 - GPU3")
    assert named(Router(cut), 0, 1) == ["GPU0", "CPU", "GPU1"]
