"""NCCL's own model, by what it finds and prints on machines that are known."""

import itertools
import math
from dataclasses import replace

import pytest

from parsim.errors import LayoutError, SpecError
from parsim.network.nccl import PROTOCOLS, Channels, Term, channels_used, choose, search, terms
from parsim.network.reach import Reach, reach_of_size
from parsim.spec import load_cluster
from parsim.spec.nccl import load_nccl

CONSTANTS = load_nccl()
GIB = 2**30


def reach(name: str, nodes: int, per_node: int | None = None) -> Reach:
    return reach_of_size(load_cluster(name), nodes, per_node)


@pytest.mark.parametrize(("name", "number", "speed"), [("dgx-h100", 8, 48), ("dgx-a100", 8, 24)])
def test_a_ring_takes_each_nic_at_a_speed_of_the_list(name: str, number: int, speed: float) -> None:
    for nodes in (2, 4, 64):
        assert search(reach(name, nodes), CONSTANTS).ring == Channels(number, speed, speed)


@pytest.mark.parametrize(
    ("name", "nodes", "bus"), [("dgx-h100", 1, 360), ("dgx-h100", 4, 384), ("dgx-a100", 1, 240), ("dgx-a100", 4, 192)]
)
def test_ring_bus_of_known_machines(name: str, nodes: int, bus: float) -> None:
    where = reach(name, nodes)
    term = terms("all_reduce", GIB, where, CONSTANTS)["ring", "Simple"]
    assert term.bytes_per_s * 2 * (where.ranks - 1) / where.ranks == pytest.approx(bus * 1e9)


def test_nvls_heads_of_a_hopper_node() -> None:
    found = search(reach("dgx-h100", 1), CONSTANTS).nvls
    assert found is not None
    assert (found.number, found.intra) == (8, 40)
    assert search(reach("dgx-a100", 1), CONSTANTS).nvls is None
    assert search(reach("dgx-h100", 1, 1 + 1), CONSTANTS).nvls is not None


def test_ll_and_ll128_are_bounded_by_the_caps() -> None:
    """LL at most its cap, half the bus; LL128 at most 0.92 of it."""
    for name, nodes in itertools.product(("dgx-h100", "dgx-a100", "dgx-b200"), (1, 2, 8)):
        where = reach(name, nodes)
        generation = CONSTANTS.generation(where.compute_capability or 0)
        found = terms("all_gather", GIB, where, CONSTANTS)
        bus = {p: found["ring", p].bytes_per_s * (where.ranks - 1) / where.ranks / 1e9 for p in PROTOCOLS}
        assert bus["LL"] == pytest.approx(min(generation.ll_max[min(nodes, 3) - 1], bus["Simple"] / 2))
        assert bus["LL128"] <= 0.92 * bus["Simple"] * (1 + 1e-12)


def test_ring_latency_is_counted_step_by_step() -> None:
    """One node of 8 A100: 14 steps of 0.6 us and 6.6 us of base for LL."""
    term = terms("all_reduce", 8, reach("dgx-a100", 1), CONSTANTS)["ring", "LL"]
    assert term.latency_s == pytest.approx((6.6 + 14 * 0.6) * 1e-6)
    gather = terms("all_gather", 8, reach("dgx-a100", 1), CONSTANTS)["ring", "LL"]
    assert gather.latency_s == pytest.approx((6.6 + 7 * 0.6) * 1e-6)
    tree = terms("all_reduce", 8, reach("dgx-a100", 4), CONSTANTS)["tree", "LL"]
    assert tree.latency_s == pytest.approx((6.8 + 2 * (7 * 0.6 + 2 * 5.0)) * 1e-6)


def test_two_nodes_ring_simple_has_the_plateau() -> None:
    where = reach("dgx-a100", 2)
    small = terms("all_reduce", 2**10, where, CONSTANTS)["ring", "Simple"].latency_s
    large = terms("all_reduce", 2**20, where, CONSTANTS)["ring", "Simple"].latency_s
    assert large == pytest.approx(small * 1.4)
    assert terms("all_gather", 2**20, where, CONSTANTS)["ring", "Simple"].latency_s == pytest.approx(
        terms("all_gather", 2**10, where, CONSTANTS)["ring", "Simple"].latency_s
    )


def test_algorithms_by_kind_and_machine() -> None:
    hopper, ampere, many = reach("dgx-h100", 1), reach("dgx-a100", 1), reach("dgx-h100", 4)
    algorithms = lambda kind, where, **more: {a for a, _ in terms(kind, GIB, where, CONSTANTS, **more)}  # noqa: E731
    assert algorithms("all_reduce", hopper) == {"ring", "tree", "nvls"}
    assert algorithms("all_gather", hopper) == {"ring", "nvls"}
    assert algorithms("broadcast", hopper) == {"ring"}
    assert algorithms("all_reduce", ampere) == {"ring", "tree"}
    assert algorithms("all_reduce", many) == {"ring", "tree", "nvls_tree"}
    assert algorithms("all_gather", many) == {"ring"}
    assert algorithms("all_reduce", many, collnet=True) == {"ring", "tree", "nvls_tree", "collnet"}
    assert algorithms("all_reduce", hopper, collnet=True) == {"ring", "tree", "nvls"}


def test_ll128_needs_nvlink_and_a_close_nic() -> None:
    pcie = Reach(4, 1, 0.0, 1, 25e9, "ib", 80, 32e9)
    far = Reach(16, 2, 300e9, 8, 25e9, "ib", 80, 32e9, nic_is_close=False)
    near = Reach(16, 2, 300e9, 8, 25e9, "ib", 80, 32e9)
    protocols = lambda where: {p for _, p in terms("all_reduce", GIB, where, CONSTANTS)}  # noqa: E731
    assert protocols(pcie) == {"LL", "Simple"}
    assert protocols(far) == {"LL", "Simple"}
    assert protocols(near) == {"LL", "LL128", "Simple"}


def test_the_choice_is_the_fastest_and_narrows() -> None:
    found = {
        ("ring", "LL"): Term(1e-6, 1e9, 1),
        ("ring", "Simple"): Term(10e-6, 1e11, 8),
        ("tree", "LL"): Term(2e-6, 2e9, 2),
    }
    assert choose(1, found) == ("ring", "LL")  # type: ignore[arg-type]
    assert choose(1e9, found) == ("ring", "Simple")  # type: ignore[arg-type]
    assert choose(1e9, found, protocol="LL") == ("tree", "LL")  # type: ignore[arg-type]
    assert choose(1, found, algorithm="tree") == ("tree", "LL")  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match=r"tree Simple: not possible .* ring LL, ring Simple, tree LL"):
        choose(1, found, "tree", "Simple")  # type: ignore[arg-type]


def test_channels_drop_for_few_bytes() -> None:
    term = Term(1e-6, 1e9, 24)
    pair = ("ring", "Simple")
    threads = CONSTANTS.threads[2] * CONSTANTS.thread_threshold_bytes[2]
    assert channels_used(1, pair, term, CONSTANTS) == 1  # type: ignore[arg-type]
    assert channels_used(threads * 5, pair, term, CONSTANTS) == 5  # type: ignore[arg-type]
    assert channels_used(threads * 24, pair, term, CONSTANTS) == 24  # type: ignore[arg-type]
    assert channels_used(2**40, pair, term, CONSTANTS) == 24  # type: ignore[arg-type]


def test_a_group_that_cannot_stand_is_refused() -> None:
    with pytest.raises(LayoutError, match="4 ranks cannot stand on 5"):
        Reach(4, 5, 1e9, 1, 1e9, "ib")
    with pytest.raises(LayoutError, match="no NIC"):
        Reach(4, 2, 1e9, 0, 1e9, "ib")
    with pytest.raises(LayoutError, match="no link between"):
        Reach(4, 1, 0.0, 1, 1e9, "ib")
    for rate in (-1.0, math.nan, math.inf):
        with pytest.raises(LayoutError, match="nvlink_bytes_per_s"):
            Reach(4, 1, rate, 1, 1e9, "ib")


def test_sizes_of_a_cluster_are_bounded() -> None:
    with pytest.raises(LayoutError, match="ranks per node 9: dgx-h100 has 8"):
        reach("dgx-h100", 1, 9)
    with pytest.raises(LayoutError, match="ranks per node 0"):
        reach("dgx-h100", 1, 0)
    with pytest.raises(LayoutError, match="nodes 5000: meta-h100-roce has 1 to"):
        reach("meta-h100-roce", 5000)
    rack = reach("gb200-nvl72", 36)
    assert (rack.ranks, rack.domains, rack.per_domain) == (144, 2, 72)
    assert reach("gb200-nvl72", 18).domains == 1


def test_constants_of_an_unknown_version_are_refused() -> None:
    with pytest.raises(SpecError, match=r"NCCL 9\.99: parsim has the constants of 2\.30"):
        load_nccl("9.99")


def test_what_nccl_itself_found_goes_before_the_rules() -> None:
    reach = reach_of_size(load_cluster("dgx-h100"), 1)
    told = replace(reach, searched=(("ring", 2, 12e9, 12e9),))
    found = search(told, load_nccl())
    assert found.ring == (2, 12.0, 12.0)
    assert found.tree == search(reach, load_nccl()).tree
    assert terms("all_gather", 1e9, told, load_nccl())["ring", "Simple"].bytes_per_s == pytest.approx(24e9 * 8 / 7)
