"""Level 0 on every bundled cluster, for every kind of collective: what must hold whatever the numbers are."""

import itertools
import math
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import LayoutError
from parsim.network.estimate import KINDS, Estimate, bus_factor, estimate, kind_named, options
from parsim.network.nccl import Kind, choose, terms
from parsim.network.reach import Reach, reach_of_size
from parsim.spec import catalogue, load_cluster
from parsim.spec.fabric_times import load_fabric_times
from parsim.spec.nccl import load_nccl

CLUSTERS = catalogue.names("clusters")
NODES = (1, 2, 4, 16, 64)
SIZES = tuple(2**power for power in range(35))
KIB, MIB, GIB = 2**10, 2**20, 2**30


def reaches(name: str) -> list[Reach]:
    """What nodes of a cluster have, as far as it has so many."""
    cluster = load_cluster(name)
    counts = [nodes for nodes in NODES if cluster.nodes is None or nodes <= cluster.nodes]
    return [reach for nodes in counts if (reach := reach_of_size(cluster, nodes)).ranks > 1]


def limit_bytes_per_s(kind: str, reach: Reach) -> float:
    """What the links let through as bus bandwidth: rings twice over in an NVSwitch that reduces."""
    inside = reach.inside_bytes_per_s if reach.ranks > reach.domains else math.inf
    across = reach.across_bytes_per_s if reach.domains > 1 else math.inf
    if kind in ("all_to_all", "send"):
        across /= reach.per_domain
        if kind == "all_to_all" and reach.domains > 1:  # only the share that leaves the domain passes the NICs
            across /= 1 - reach.per_domain / reach.ranks
        inside /= (reach.per_domain - 1) / reach.ranks if kind == "all_to_all" and reach.per_domain > 1 else 1
    return min(inside, across)


def each_estimate(name: str) -> "itertools.chain[tuple[Reach, Estimate]]":
    return itertools.chain.from_iterable(
        ((reach, estimate(kind, size, reach)) for kind in KINDS for size in SIZES) for reach in reaches(name)
    )


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_estimate_is_finite_and_says_what_it_is(name: str) -> None:
    for reach, one in each_estimate(name):
        assert 0 < one.seconds < math.inf
        assert (one.ranks, one.nodes) == (reach.ranks, reach.domains)
        assert one.evidence in ("fitted", "assumed")
        assert 1 <= one.channels <= 64
        assert one.algbw_bytes_per_s == pytest.approx(one.size_bytes / one.seconds)
        assert one.busbw_bytes_per_s == pytest.approx(one.algbw_bytes_per_s * bus_factor(one.kind, one.ranks))


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_bus_is_twice_as_fast_as_its_links(name: str) -> None:
    for reach, one in each_estimate(name):
        most = 2 * limit_bytes_per_s(one.kind, reach)
        assert one.busbw_bytes_per_s <= most, f"{one}: {one.busbw_bytes_per_s / 1e9:.0f} of {most / 1e9:.0f} GB/s"


@pytest.mark.parametrize("name", CLUSTERS)
def test_more_bytes_take_longer_where_bytes_are_what_takes_time(name: str) -> None:
    """By a factor of four, from 1 MiB a rank on; smaller sizes may lie in a dip of a measured curve."""
    for reach in reaches(name):
        for kind in KINDS:
            times = [estimate(kind, MIB * reach.ranks * 4**step, reach).seconds for step in range(6)]
            assert times == sorted(times), (kind, reach, times)


# A torus has more links the more nodes it has, and wraps where its last dimension is full.
@pytest.mark.parametrize("name", [name for name in CLUSTERS if load_cluster(name).fabric.torus is None])
def test_more_nodes_are_not_faster(name: str) -> None:
    """At the rates that the links set, 1 GiB a rank; across domains only, for one node has other links."""
    across = [reach for reach in reaches(name) if reach.domains > 1]
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        rates = [estimate(kind, GIB * reach.ranks, reach).busbw_bytes_per_s for reach in across]
        assert all(later <= earlier * 1.02 for earlier, later in itertools.pairwise(rates)), (kind, rates)
        small = [estimate(kind, 8, reach).seconds for reach in across]
        assert small == sorted(small), (kind, small)


@pytest.mark.parametrize("name", CLUSTERS)
def test_few_bytes_take_the_latency(name: str) -> None:
    for reach in reaches(name):
        for kind in KINDS:
            one, eight = estimate(kind, 1, reach).seconds, estimate(kind, 8, reach).seconds
            assert one == pytest.approx(eight, rel=1e-2)
            assert 1e-7 < one < 1


@pytest.mark.parametrize("name", [name for name in CLUSTERS if name != "local-cpu"])
def test_what_is_chosen_is_nccls_own_fastest(name: str) -> None:
    constants = load_nccl()
    for reach in reaches(name):
        ll128 = load_fabric_times(reach.kind).ll128
        for kind, size in itertools.product(get_args(Kind), SIZES[::4]):
            found = terms(kind, size, reach, constants)
            allowed = {pair: term for pair, term in found.items() if ll128 or pair[1] != "LL128"}
            fastest = min(term.seconds(size) for term in allowed.values())
            one = estimate(kind, size, reach)
            assert allowed[one.algorithm, one.protocol].seconds(size) == fastest  # type: ignore[index]
            assert choose(size, allowed) == (one.algorithm, one.protocol)


def test_gloo_plays_rings() -> None:
    for reach in reaches("local-cpu"):
        for kind, size in itertools.product(get_args(Kind), SIZES):
            one = estimate(kind, size, reach)
            assert (one.algorithm, one.protocol, one.evidence) == ("ring", "Simple", "assumed")


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_forced_option_is_what_options_list(name: str) -> None:
    for reach in reaches(name)[:2]:
        for kind in get_args(Kind):
            listed = list(options(kind, 4 * MIB, reach))
            assert len({(one.algorithm, one.protocol) for one in listed}) == len(listed)
            for one in listed:
                again = estimate(kind, 4 * MIB, reach, algorithm=one.algorithm, protocol=one.protocol)
                assert again == one
            chosen = estimate(kind, 4 * MIB, reach)
            assert chosen in listed


def test_a_forced_algorithm_that_is_impossible_names_those_that_are_not() -> None:
    node = reach_of_size(load_cluster("dgx-a100"), 1)
    for algorithm in ("nvls", "nvls_tree", "collnet", "nonsense"):
        with pytest.raises(LayoutError, match=r"not possible .* possible are ring LL, tree LL"):
            estimate("all_reduce", MIB, node, algorithm=algorithm)
    with pytest.raises(LayoutError, match="possible are ring LL"):
        estimate("all_gather", MIB, node, algorithm="tree")
    with pytest.raises(LayoutError, match="nvls LL"):
        estimate("all_reduce", MIB, reach_of_size(load_cluster("dgx-h100"), 1), algorithm="nvls", protocol="LL")


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_takes_nothing(kind: str) -> None:
    one = estimate(kind, GIB, reach_of_size(load_cluster("dgx-h100"), 1, 1))
    assert (one.seconds, one.algorithm, one.busbw_bytes_per_s) == (0.0, "none", 0.0)
    assert list(options(kind, GIB, reach_of_size(load_cluster("dgx-h100"), 1, 1))) == [one]


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, -math.inf, 2.0**60 * 1.001])
def test_a_size_that_is_none_is_refused(size: float) -> None:
    with pytest.raises(LayoutError, match="more than 0 and at most 1 EiB"):
        estimate("all_reduce", size, reach_of_size(load_cluster("dgx-h100"), 1))


def test_kinds_by_the_words_of_nccl_tests() -> None:
    words = {"alltoall": "all_to_all", "sendrecv": "send", "allreduce": "all_reduce", "all-gather": "all_gather"}
    assert {word: kind_named(word) for word in words} == words
    with pytest.raises(LayoutError, match="all_reduce, reduce_scatter"):
        kind_named("reduce")


@pytest.mark.parametrize(
    ("kind", "ranks", "factor"),
    [
        ("all_reduce", 8, 1.75),
        ("all_gather", 8, 0.875),
        ("reduce_scatter", 8, 0.875),
        ("all_to_all", 4, 0.75),
        ("broadcast", 8, 1.0),
        ("send", 2, 1.0),
    ],
)
def test_bus_factors_are_nccl_tests(kind: str, ranks: int, factor: float) -> None:
    assert bus_factor(kind, ranks) == factor


def test_document_has_the_public_names() -> None:
    document = estimate("all_reduce", GIB, reach_of_size(load_cluster("dgx-h100"), 2)).document()
    assert {"kind", "bytes", "ranks", "nodes", "time_us", "algbw_gbps", "busbw_gbps"} <= set(document)
    assert {"algorithm", "protocol", "evidence"} <= set(document)
    assert document["algbw_gbps"] == pytest.approx(GIB / (document["time_us"] * 1e-6) / 1e9)  # type: ignore[operator]


groups = st.builds(
    lambda domains, per_domain, nvlink, nics, nic, cc: Reach(
        ranks=domains * per_domain,
        domains=domains,
        nvlink_bytes_per_s=nvlink,
        nics=nics,
        nic_bytes_per_s=nic,
        fabric="ib",
        compute_capability=cc,
        pcie_bytes_per_s=32e9,
    ),
    domains=st.integers(1, 4096),
    per_domain=st.integers(1, 72),
    nvlink=st.sampled_from([0.0, 150e9, 300e9, 450e9, 900e9]),
    nics=st.integers(1, 72),
    nic=st.floats(1e9, 200e9),
    cc=st.sampled_from([70, 80, 90, 100, 103]),
)


@settings(deadline=None, max_examples=150)
@given(reach=groups, kind=st.sampled_from(KINDS), size=st.floats(1, 2.0**40))
def test_any_group_has_an_estimate(reach: Reach, kind: str, size: float) -> None:
    for one in (estimate(kind, size, reach), *options(kind, size, reach)):
        assert 0 <= one.seconds < math.inf
        assert (one.seconds == 0) == (reach.ranks == 1)


@settings(deadline=None, max_examples=60)
@given(reach=groups, share=st.floats(0.01, 1.0), kind=st.sampled_from(["all_reduce", "all_gather", "all_to_all"]))
def test_a_fabric_that_lets_less_through_is_not_faster(reach: Reach, share: float, kind: str) -> None:
    shared = replace(reach, share=share)
    for algorithm in (None, "ring") if kind != "all_to_all" else (None,):
        plain = estimate(kind, GIB, reach, algorithm=algorithm).seconds
        assert estimate(kind, GIB, shared, algorithm=algorithm).seconds >= plain * (1 - 1e-12)
