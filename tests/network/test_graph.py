"""Networks as values: what is built, what is refused, what breaking and slowing does."""

import json
from collections import Counter
from collections.abc import Callable
from math import inf, nan
from typing import Any

import networkx as nx
import pytest

from parsim.errors import LayoutError, SpecError
from parsim.network.build import build
from parsim.network.graph import Link, Network, both_ways
from parsim.network.routes import Router
from parsim.spec import load_cluster

DEVICES = {"a": {"kind": "gpu", "rank": 0}, "b": {"kind": "gpu", "rank": 1}, "s": {"kind": "nvswitch"}}
LINKS = [*both_ways("a", "s", 1e9, 1e-6, "nvlink"), *both_ways("b", "s", 1e9, 1e-6, "nvlink")]


def kinds(network: Network) -> Counter[str]:
    return Counter(network.graph.nodes[device]["kind"] for device in network.graph)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(LayoutError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_a_node_has_what_its_specification_says() -> None:
    assert kinds(build(load_cluster("dgx-h100"), 2)) == Counter(
        gpu=16, nvswitch=2, pcie=16, nic=16, host=4, leaf=8, spine=2
    )


@pytest.mark.parametrize(
    ("name", "nodes", "expected"),
    [
        ("dgx-h100", 1, {"leaf": 8, "spine": 1}),  # eight rails of one node are joined
        ("dgx-h100", 33, {"leaf": 16, "spine": 32}),  # two units of 32
        ("h800-deepseek", 64, {"leaf": 16, "spine": 256}),  # eight planes of two leaves and 32 spines
        ("gb200-nvl72", 36, {"nvswitch": 2, "leaf": 8, "spine": 18}),  # two racks of 18 trays
        ("meta-h100-roce", 2, {"leaf": 1}),  # one rack
        ("meta-h100-roce", 4, {"leaf": 2, "spine": 16}),  # two racks of one pod
        ("meta-h100-roce", 768, {"leaf": 384, "spine": 32, "core": 432}),  # 16 * (3072 / 7 / 16 = 27 links)
        ("alcf-polaris", 560, {"router": 70}),
        ("h100-torus", 64, {"router": 64}),
        ("h100-torus", 1, {"router": 1}),
        ("h100-torus", 17, {"router": 32}),
        ("local-cpu", 5, {"leaf": 1}),
    ],
)
def test_switches_of_a_fabric(name: str, nodes: int, expected: dict[str, int]) -> None:
    found = kinds(build(load_cluster(name), nodes))
    switches = {kind: n for kind, n in found.items() if kind not in ("gpu", "nic", "pcie", "host", "nvswitch")}
    assert switches == {kind: n for kind, n in expected.items() if kind != "nvswitch"}
    assert found["nvswitch"] == expected.get("nvswitch", found["nvswitch"])


def test_more_nics_than_gpus_are_one_device_and_the_network_says_so() -> None:
    network = build(load_cluster("aws-p5"), 1)
    assert kinds(network)["nic"] == 8
    assert network.graph.edges["n0.nic0", "leaf0"]["bytes_per_s"] == 50e9
    assert any("32 NICs" in note for note in network.notes)


def test_gpus_share_the_nics_of_a_node_that_has_fewer() -> None:
    network = build(load_cluster("aws-p4d"), 1)
    assert [nics for nics in network.nics] == [(f"n0.nic{rank // 2}",) for rank in range(8)]


def test_a_pcie_link_is_not_slower_than_the_nic_behind_it() -> None:
    network = build(load_cluster("dgx-b300"), 1)
    assert network.graph.edges["n0.gpu0", "n0.pcie0"]["bytes_per_s"] == 100e9


def test_places_of_ranks() -> None:
    network = build(load_cluster("gb200-nvl72"), 20)
    assert [network.node_of(rank) for rank in (0, 3, 4, 79)] == [0, 0, 1, 19]
    assert network.domain_of(0) == network.domain_of(71) != network.domain_of(72) == network.domain_of(79)
    assert network.leaf_of(5) == ("leaf0.1",)
    assert network.leaf_of(73) == ("leaf1.1",)
    assert "ranks 0 to 79" in refused(lambda: network.node_of(80))
    assert "ranks 0 to 79" in refused(lambda: network.leaf_of(-1))


def test_links_have_indices_names_and_both_directions() -> None:
    network = build(load_cluster("alcf-polaris"), 30)
    assert network.graph.number_of_edges() == len(network.link_names) == len(network.capacities)
    for source, target, edge in network.graph.edges(data=True):
        assert network.link_names[edge["index"]] == f"{source} -> {target}"
        assert network.capacities[edge["index"]] == edge["bytes_per_s"]
        assert network.latencies[edge["index"]] == edge["latency_s"]
        assert network.graph.has_edge(target, source)


def test_a_hop_takes_what_the_node_says() -> None:
    node = load_cluster("dgx-h100").node
    router = Router(build(load_cluster("dgx-h100"), 2))
    assert router.latency_s(router.route(0, 1)) == pytest.approx(node.nvlink_latency_s)
    assert router.latency_s(router.route(0, 8)) == pytest.approx(node.nic_latency_s)


@pytest.mark.parametrize("rate", [0, 0.0, -1e9, nan, inf, None, "fast"])
def test_impossible_bandwidth(rate: Any) -> None:
    message = refused(lambda: Network.of("x", DEVICES, [*LINKS, Link("a", "b", rate, 0.0, "nvlink")]))
    assert "a -> b" in message


@pytest.mark.parametrize("latency", [-1e-6, nan, inf, None])
def test_impossible_latency(latency: Any) -> None:
    assert "latency" in refused(lambda: Network.of("x", DEVICES, [*LINKS, Link("a", "b", 1.0, latency, "nvlink")]))


def test_what_is_no_network() -> None:
    def of(devices: dict[str, Any], *links: Link) -> str:
        return refused(lambda: Network.of("x", devices, links))

    assert "did you mean 'leaf12'" in of({**DEVICES, "leaf12": {"kind": "leaf"}}, Link("a", "leaf21", 1.0, 0.0, "nic"))
    assert "twice" in of(DEVICES, *LINKS, LINKS[0])
    assert "itself" in of(DEVICES, *LINKS, Link("a", "a", 1.0, 0.0, "nvlink"))
    assert "no GPU" in of({"s": {"kind": "leaf"}})
    assert "no kind" in of({**DEVICES, "z": {}}, *LINKS)
    assert "both rank 0" in of({**DEVICES, "c": {"kind": "gpu", "rank": 0}}, *LINKS)


def test_a_network_in_pieces_says_what_is_apart() -> None:
    assert "a cannot reach b" in refused(lambda: Network.of("x", DEVICES, LINKS[:2]))
    one_way = [link for link in LINKS if str(link) != "b -> s"]
    assert "b cannot reach a" in refused(lambda: Network.of("x", DEVICES, one_way))


def test_a_graph_of_ones_own() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name in ("one", "two"):
        graph.add_node(name, kind="gpu")
    for ends in (("one", "two"), ("two", "one")):
        graph.add_edge(*ends, bytes_per_s=25e9, latency_s=1e-6, kind="nvlink")
    network = Network.from_graph(graph)
    assert network.gpus == ("one", "two")
    assert network.domain_of(0) == network.domain_of(1)
    assert network.leaf_of(0) == ()
    assert [network.link_names[link] for link in Router(network).route(1, 0)] == ["two -> one"]
    graph.edges["one", "two"]["bytes_per_s"] = 0
    assert "one -> two" in refused(lambda: Network.from_graph(graph))


def test_a_round_trip_through_the_graph_changes_nothing() -> None:
    network = build(load_cluster("h100-torus"), 5)
    again = Network.from_graph(network.graph, network.name)
    assert again.gpus == network.gpus
    assert sorted(again.link_names) == sorted(network.link_names)
    names = [[held.link_names[link] for link in Router(held).route(3, 33)] for held in (network, again)]
    assert names[0] == names[1]


def test_a_network_is_a_value() -> None:
    network = build(load_cluster("dgx-h100"), 2)
    with pytest.raises(nx.NetworkXError):
        network.graph.remove_node("leaf0.0")
    with pytest.raises(ValueError, match="read-only"):
        network.capacities[0] = 1.0
    before = network.document()
    network.without("leaf0.0", "n0.gpu1 - nvswitch0")
    network.degraded("leaf0.1", 0.5)
    assert network.document() == before


def test_breaking_keeps_the_indices() -> None:
    network = build(load_cluster("dgx-h100"), 2)
    broken = network.without("leaf0.0 -> n0.nic0", "n1.gpu3 - nvswitch1", "spine1")
    assert broken.link_names == network.link_names
    assert broken.broken == ("leaf0.0 -> n0.nic0", "n1.gpu3 - nvswitch1", "spine1")
    gone = {str(name) for name in network.link_names} - {f"{a} -> {b}" for a, b in broken.graph.edges}
    spine = {name for name in network.link_names if "spine1" in name}
    assert gone == {"leaf0.0 -> n0.nic0", "n1.gpu3 -> nvswitch1", "nvswitch1 -> n1.gpu3"} | spine
    assert "spine1" not in broken.graph
    assert broken.without("spine1").broken == broken.broken  # again is nothing new
    assert network.broken == ()


def test_a_broken_gpu_keeps_its_place() -> None:
    network = build(load_cluster("dgx-h100"), 2).without("n1.gpu2")
    assert network.node_of(10) == 1
    assert network.gpus[10] == "n1.gpu2"
    assert network.leaf_of(10) == ()


def test_slowing_a_link_and_a_device() -> None:
    network = build(load_cluster("dgx-h100"), 2)
    slow = network.degraded("n0.nic0 -> leaf0.0", 0.25)
    index = network.places["n0.nic0", "leaf0.0"]
    assert (
        slow.capacities[index] == network.capacities[index] / 4 == slow.graph.edges["n0.nic0", "leaf0.0"]["bytes_per_s"]
    )
    assert (slow.capacities == network.capacities).sum() == len(network.capacities) - 1
    device = network.degraded("n0.nic0", 0.5)
    changed = [
        name for name, a, b in zip(network.link_names, network.capacities, device.capacities, strict=True) if a != b
    ]
    assert sorted(changed) == sorted(name for name in network.link_names if "n0.nic0" in name)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, nan, inf])
def test_impossible_shares(share: float) -> None:
    assert "share" in refused(lambda: build(load_cluster("dgx-h100"), 1).degraded("leaf0.0", share))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("leaf0.00", "leaf0.0"),
        ("n0.gpu9 -> nvswitch0", "n0.gpu"),
        ("n0.gpu1 - nvswitch7", "nvswitch0"),
        ("n0.gpu1 -> leaf0.1", "has links to"),
        ("", "no device or link"),
        (" -> ", "no device or link|has no"),
        ("x" * 5000, "no device or link"),
    ],
)
def test_unknown_names_have_neighbours(name: str, says: str) -> None:
    network = build(load_cluster("dgx-h100"), 1)
    with pytest.raises(LayoutError, match=says) as caught:
        network.without(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_document_is_json() -> None:
    network = build(load_cluster("dgx-h100"), 2).without("spine0")
    document = json.loads(json.dumps(network.document()))
    assert document["gpus"] == 16
    assert document["broken"] == ["spine0"]
    assert {device["kind"] for device in document["devices"]} >= {"gpu", "nvswitch", "leaf", "spine"}
    names = {device["name"] for device in document["devices"]}
    assert all({link["source"], link["target"]} <= names for link in document["links"])
    torus = json.loads(json.dumps(build(load_cluster("h100-torus"), 8).document()))
    assert [0, 1, 0] in [device.get("at") for device in torus["devices"]]


def test_how_many_nodes() -> None:
    with pytest.raises(SpecError, match="elastic"):
        build(load_cluster("dgx-h100"))
    assert "1 node on" in refused(lambda: build(load_cluster("dgx-h100"), 0))
    assert "256 would do" in refused(lambda: build(load_cluster("h800-deepseek"), 257))
    assert len(build(load_cluster("h800-deepseek")).gpus) == 2048
