"""ASTRA-sim's analytical networks: read, written back, built, with rates and hops as its definition says."""

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import SpecError
from parsim.network.importers.astra import AstraDimension, astra_network, astra_text, is_astra, read_astra

TEXT = """# a comment
topology: [ Switch, Ring ]  # Ring, Switch, FullyConnected
npus_count: [ 8, 4 ]
bandwidth: [400, 50 ]  # GB/s
latency: [ 936.25, 1000 ]  # ns
"""


def test_dimensions_are_read() -> None:
    assert is_astra(TEXT)
    first, second = read_astra(TEXT)
    assert (first.shape, first.gpus, first.bytes_per_s) == ("Switch", 8, 400e9)
    assert first.latency_s == pytest.approx(936.25e-9)
    assert (second.shape, second.gpus, second.bytes_per_s) == ("Ring", 4, 50e9)


def test_the_network_of_a_switch_and_a_ring() -> None:
    network = astra_network(read_astra(TEXT))
    assert len(network.gpus) == 32
    kinds = [kind for _, kind in network.graph.nodes(data="kind")]
    assert kinds.count("nvswitch") == 4
    assert len(network.ends) == 2 * (32 + 32)
    assert network.graph.edges["gpu0", "gpu8"]["bytes_per_s"] == 50e9
    assert network.graph.edges["gpu24", "gpu0"]["latency_s"] == pytest.approx(1e-6)
    assert network.node_of(9) == 1
    assert network.domain_of(0) == network.domain_of(7) != network.domain_of(8)


@pytest.mark.parametrize(
    ("shape", "gpus", "links", "hops"),
    [
        ("Ring", 1, 0, 0),
        ("Ring", 2, 1, 1),
        ("Ring", 3, 3, 1),
        ("Ring", 8, 8, 4),
        ("FullyConnected", 2, 1, 1),
        ("FullyConnected", 8, 28, 1),
        ("Switch", 2, 2, 2),
        ("Switch", 8, 8, 2),
    ],
)
def test_one_dimension(shape: str, gpus: int, links: int, hops: int) -> None:
    dimension = AstraDimension(shape, gpus, 100e9, 1e-6)
    network = astra_network([dimension])
    assert dimension.links == links
    assert len(network.ends) == 2 * links
    longest = max((nx.shortest_path_length(network.graph, network.gpus[0], other) for other in network.gpus), default=0)
    assert longest == hops


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Ring ]", "Torus ]", "dimension 2: topology 'Torus' is not one of Ring, Switch, FullyConnected"),
        ("[ 8, 4 ]", "[ 8 ]", "npus_count has 1 values, topology 2"),
        ("[ 8, 4 ]", "[ 8, 0 ]", "npus_count 0 must be a whole number from 1"),
        ("[ 8, 4 ]", "[ 8, 4.5 ]", "npus_count 4.5 must be"),
        ("[ 8, 4 ]", "[ 8, true ]", "npus_count True must be"),
        ("[ 8, 4 ]", "[ 65536, 65536 ]", "at most 65536 GPUs"),
        ("[400, 50 ]", "[400, 0 ]", "bandwidth 0 must be a finite number above 0"),
        ("[400, 50 ]", "[400, .inf ]", "bandwidth inf must be"),
        ("[400, 50 ]", "[400, .nan ]", "bandwidth nan must be"),
        ("[400, 50 ]", "[400, fast ]", "bandwidth fast must be"),
        ("[ 936.25, 1000 ]", "[ -1, 1000 ]", "latency -1 must be"),
        ("latency:", "delay:", "latency is missing"),
        ("[ Switch, Ring ]", "[ Switch, Ring", "not YAML"),
    ],
)
def test_what_is_wrong_is_one_clear_line(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read_astra(TEXT.replace(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "[1]", "topology: !!python/object:os.system {}"])
def test_what_is_no_such_file(text: str) -> None:
    with pytest.raises(SpecError):
        read_astra(text)


def test_single_values_are_one_dimension() -> None:
    assert read_astra("topology: Ring\nnpus_count: 4\nbandwidth: 50\nlatency: 500\n")[0].gpus == 4


def test_too_many_links_say_so() -> None:
    with pytest.raises(SpecError, match="a Switch instead of FullyConnected has fewer"):
        astra_network([AstraDimension("FullyConnected", 4096, 1e9, 0.0)])


DIMENSIONS = st.lists(
    st.builds(
        AstraDimension,
        st.sampled_from(["Ring", "Switch", "FullyConnected"]),
        st.integers(1, 6),
        st.floats(1e6, 1e13),
        st.floats(0, 1e-3),
    ),
    min_size=1,
    max_size=3,
)


@given(DIMENSIONS)
def test_write_and_read_are_inverse(dimensions: list[AstraDimension]) -> None:
    text = astra_text(dimensions)
    assert is_astra(text)
    for one, other in zip(read_astra(text), dimensions, strict=True):
        assert (one.shape, one.gpus) == (other.shape, other.gpus)
        assert one.bytes_per_s == pytest.approx(other.bytes_per_s, rel=1e-12)
        assert one.latency_s == pytest.approx(other.latency_s, rel=1e-12, abs=1e-20)


@given(DIMENSIONS)
def test_links_are_as_many_as_the_dimensions_say(dimensions: list[AstraDimension]) -> None:
    network = astra_network(dimensions)
    total = len(network.gpus)
    assert len(network.ends) == 2 * sum(each.links * (total // each.gpus) for each in dimensions)
    assert nx.is_strongly_connected(network.graph)
