"""Prices of collectives: how much travels, over what, how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.axes.axis import CollectiveKind
from parsim.errors import LayoutError
from parsim.network.estimate import estimate
from parsim.network.price import (
    Links,
    Path,
    collective_seconds,
    path_between,
    ring_bytes,
    ring_steps,
    spread,
)
from parsim.network.reach import reach_of_size
from parsim.spec import load_cluster

LINKS = Links(nvlink_bytes_per_s=400e9, nic_bytes_per_s=50e9, domain=8)
CALL_S = 1e-6
kinds = st.sampled_from(["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "send"])
paths = st.tuples(st.integers(2, 64), st.just(1), st.floats(1e9, 1e12)).map(lambda given: Path(*given))


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75), (1024, 1.998046875)])
def test_ring_all_reduce_sends_two_shares_of_all_but_one_rank(ranks: int, factor: float) -> None:
    assert ring_bytes("all_reduce", 1.0, ranks) == factor
    assert ring_steps("all_reduce", ranks) == 2 * (ranks - 1)


def test_a_million_fp32_on_four_ranks_are_six_megabytes() -> None:
    assert ring_bytes("all_reduce", 4e6, 4) == 6_000_000
    assert ring_bytes("all_gather", 4e6, 4) == ring_bytes("reduce_scatter", 4e6, 4) == 3_000_000
    assert ring_steps("all_gather", 4) == 3
    assert ring_steps("send", 2) == 1


def test_where_the_ranks_stand_decides_the_link() -> None:
    assert path_between(range(8), LINKS) == Path(8, 1, 400e9)  # a node
    assert path_between(range(0, 64, 8), LINKS) == Path(8, 8, 50e9)  # one rank of each node: one NIC
    assert path_between(range(16), LINKS) == Path(16, 2, 400e9)  # two whole nodes: all 8 NICs, NVLink is as fast
    assert path_between(range(0, 16, 4), LINKS) == Path(4, 2, 100e9)  # two ranks a node
    assert path_between(range(7, 10), LINKS).bytes_per_s == 50e9  # the domain with one rank is the narrow place


def test_a_message_is_a_call_and_its_bytes() -> None:
    assert collective_seconds("send", 4e9, path_between([0, 8], LINKS), CALL_S) == pytest.approx(CALL_S + 4e9 / 50e9)
    assert collective_seconds("all_reduce", 1e9, Path(1, 1, 1.0)) == 0.0
    assert collective_seconds("send", 0.0, path_between([0, 8], LINKS), CALL_S) == 0.0


@pytest.mark.parametrize("kind", ["all_reduce", "reduce_scatter", "all_gather"])
def test_what_nccl_plays_takes_what_level_0_says(kind: CollectiveKind) -> None:
    reach = reach_of_size(load_cluster("dgx-h100"), 4)
    path = Path(32, 4, 400e9, reach=reach)
    assert collective_seconds(kind, 1e8, path) == estimate(kind, 1e8, reach).seconds
    assert collective_seconds(kind, 1e8, path._replace(crossing_s=1e-6)) == pytest.approx(
        estimate(kind, 1e8, reach).seconds + 3e-6
    )


def test_an_exchange_takes_the_longer_of_what_stays_and_what_leaves() -> None:
    """Eight ranks, four a node: of 8 GB each sends 3 GB inside and 4 GB across; or what it is said to send across."""
    path = Path(8, 2, 400e9, inside_bytes_per_s=300e9, across_bytes_per_s=50e9)
    assert collective_seconds("all_to_all", 8e9, path) == pytest.approx(4e9 / 50e9)
    assert collective_seconds("all_to_all", 8e9, path, CALL_S, across_bytes=1e8) == pytest.approx(1e-6 + 0.01)
    assert collective_seconds("all_to_all", 8e9, Path(8, 1, 400e9)) == pytest.approx(7e9 / 400e9)
    assert ring_bytes("all_to_all", 8e9, 8) == 7e9


def test_links_that_are_missing_are_refused() -> None:
    with pytest.raises(LayoutError, match="on 2 nodes that have no NIC"):
        path_between([0, 8], Links(400e9, 0.0, 8))
    with pytest.raises(LayoutError, match="no link between its GPUs"):
        path_between([0, 1], Links(0.0, 50e9, 8))
    assert path_between([0, 8], Links(0.0, 50e9, 8)).bytes_per_s == 50e9


@given(st.sampled_from(["send", "all_to_all"]), st.floats(1, 1e12), paths, st.floats(1, 10))
def test_more_bytes_or_a_slower_link_never_take_less_time(
    kind: CollectiveKind, size: float, path: Path, factor: float
) -> None:
    time = collective_seconds(kind, size, path, CALL_S)
    assert time > 0
    assert collective_seconds(kind, size * factor, path, CALL_S) >= time
    faster = path._replace(bytes_per_s=path.bytes_per_s * factor)
    assert collective_seconds(kind, size, faster, CALL_S) <= time


@pytest.mark.parametrize(
    ("ranks", "domain", "node", "share"), [(256, 72, 4, 64), (64, 72, 4, 72), (144, 72, 4, 72), (128, 8, 8, 8)]
)
def test_a_job_is_spread_evenly_over_domains(ranks: int, domain: int, node: int, share: int) -> None:
    assert spread(ranks, domain, node) == share
