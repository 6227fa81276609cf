"""htsim's fat trees: as many switches and links as the radixes say, and what does not fit is refused."""

import networkx as nx
import pytest

from parsim.errors import SpecError
from parsim.network.importers.htsim import htsim_network, is_htsim, read_htsim
from parsim.network.importers.recognise import FORMATS, format_of, imported_node, network_of

TEXT = """# two pods
Nodes 8
Tiers 3
Podsize 4

Tier 0
Downlink_speed_Gbps 200
Radix_Down 2
Radix_Up 2
Downlink_Latency_ns 1000

Tier 1
Downlink_speed_Gbps 200
Radix_Down 2
Radix_Up 4
Downlink_Latency_ns 500
Bundle 1

Tier 2
Downlink_speed_Gbps 100
Radix_Down 4
Downlink_Latency_ns 1000
Bundle 2
"""


def test_a_tree_is_built() -> None:
    assert is_htsim(TEXT)
    network = htsim_network(read_htsim(TEXT))
    kinds = [kind for _, kind in network.graph.nodes(data="kind")]
    assert {kind: kinds.count(kind) for kind in kinds} == {"gpu": 8, "leaf": 4, "spine": 4, "core": 4}
    assert network.graph.edges["gpu0", "leaf0"]["bytes_per_s"] == pytest.approx(25e9)
    assert network.graph.edges["spine0.0", "core0"]["bytes_per_s"] == pytest.approx(2 * 12.5e9)
    assert network.graph.edges["leaf0", "spine0.0"]["latency_s"] == pytest.approx(0.5e-6)
    hops = [nx.shortest_path_length(network.graph, "gpu0", f"gpu{rank}") for rank in range(8)]
    assert hops == [0, 2, 4, 4, 6, 6, 6, 6]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Nodes 8", "Nodes 7", "Nodes 7 is no multiple of Podsize 4; 8 would do"),
        ("Nodes 8", "Nodes 0", "Nodes 0 must be a whole number from 1"),
        ("Nodes 8", "Nodes 8.5", "Nodes 8.5 must be a whole number"),
        ("Nodes 8", "Nodes -8", "is not a key and a number"),
        ("Nodes 8", "Nodes", "is not a key and a number"),
        ("Nodes 8\n", "", "Nodes is missing"),
        ("Podsize 4", "Podsize 4\nPodsize 4", "Podsize stands twice"),
        ("Podsize 4", "Bodsize 4", "Bodsize is not one of"),
        ("Tiers 3", "Tiers 2", "the file describes 3"),
        ("Tier 1", "Tier 2", "Tier 1 comes next"),
        ("Radix_Down 2\nRadix_Up 2", "Radix_Down 3\nRadix_Up 2", "no multiple of Radix_Down 3"),
        ("Bundle 1", "Bundle 4", "no multiple of Bundle 4 of tier 1"),
        ("Bundle 2", "Bundle 3", "no multiple of Bundle 3 of tier 2"),
        ("Downlink_speed_Gbps 100", "Downlink_speed_Gbps 0", "missing or 0"),
        ("Radix_Up 4\n", "", "tier 1: Radix_Up is missing"),
    ],
)
def test_what_is_wrong_is_one_clear_line(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read_htsim(TEXT.replace(old, new, 1))
    assert "\n" not in str(caught.value)


SAMPLES = {
    "nccl-xml": '<system version="1"><cpu numaid="0"><pci busid="0:1:0.0" class="0x030200"/></cpu></system>',
    "nccl-graph": '<graphs version="1"><graph id="0"/></graphs>',
    "smi": "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNV4\t X \n",
    "htsim": TEXT,
    "astra": "topology: [ Ring ]\nnpus_count: [ 4 ]\nbandwidth: [ 50 ]\nlatency: [ 500 ]\n",
    "nccl-tests": "#  size  count  type  redop  root  time  algbw  busbw  #wrong\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_and_only_itself(name: str) -> None:
    assert format_of(SAMPLES[name]) == name
    assert [other for other, (_, recognises) in FORMATS.items() if recognises(SAMPLES[name])] == [name]
    assert (imported_node(SAMPLES[name]) is not None) == (name in ("nccl-xml", "smi"))


@pytest.mark.parametrize(("name", "gpus"), [("nccl-xml", 1), ("smi", 2), ("htsim", 8), ("astra", 4)])
def test_a_topology_becomes_a_network(name: str, gpus: int) -> None:
    assert len(network_of(SAMPLES[name]).gpus) == gpus


def test_what_is_no_topology() -> None:
    with pytest.raises(SpecError, match="x is of no known kind; a topology is NCCL topology XML"):
        network_of("hello", name="x")
    with pytest.raises(SpecError, match="which describes no links"):
        network_of(SAMPLES["nccl-tests"])
    with pytest.raises(SpecError, match=r"nodes 3: .* says itself"):
        network_of(SAMPLES["astra"], nodes=3)
