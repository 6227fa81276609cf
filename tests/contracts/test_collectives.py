"""What holds for every collective algorithm: its rounds, replayed on symbolic shards, do what its kind says.

A new algorithm gets these tests by existing. The checker has tests of its own: rounds that are wrong in one way each.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import LayoutError, ScheduleError
from parsim.network.collectives import (
    ALGORITHMS,
    KINDS,
    Algorithm,
    Group,
    Round,
    Transfer,
    prove,
    received_bytes,
    round_of,
    rounds_of,
    sent_bytes,
)

EVERY = [(kind, name) for kind, by_name in ALGORITHMS.items() for name in by_name]
ROOTED = [(kind, name) for kind, name in EVERY if kind in {"broadcast", "reduce"}]
SIZE = 1e6
RANKS = [*range(1, 18), 24, 31, 32, 33, 48]
DOMAINS = [1, 2, 3, 4, 8, 64]


def taken(algorithm: Algorithm, group: Group, size_bytes: object = SIZE) -> list[Round] | None:
    """The rounds; None where the algorithm refuses the group, which only those that need even domains may."""
    try:
        return list(algorithm(group, size_bytes))
    except LayoutError as error:
        if "would do" in str(error) and group.ranks > group.domain:
            return None
        raise


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_does_what_its_kind_says(kind: str, name: str) -> None:
    done = 0
    for ranks in RANKS:
        for domain in DOMAINS:
            group = Group(ranks, domain)
            rounds = taken(ALGORITHMS[kind][name], group)
            if rounds is not None:
                prove(kind, rounds, group, SIZE)
                done += 1
    assert done >= len(RANKS)  # whatever an algorithm refuses, one domain of 64 holds them all


@pytest.mark.parametrize(("kind", "name"), EVERY)
@given(ranks=st.integers(1, 40), domain=st.integers(1, 40), size=st.floats(1e-3, 2.0**70))
@settings(max_examples=25, deadline=None)
def test_does_so_at_any_size(kind: str, name: str, ranks: int, domain: int, size: float) -> None:
    group = Group(ranks, domain)
    rounds = taken(ALGORITHMS[kind][name], group, size)
    if rounds is not None:
        prove(kind, rounds, group, size)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("domain", [1, 4, 16])
def test_everything_sent_is_received(kind: str, name: str, domain: int) -> None:
    rounds = taken(ALGORITHMS[kind][name], Group(16, domain))
    if rounds is None:
        return
    endpoints = 32
    assert sent_bytes(rounds, endpoints).sum() == pytest.approx(received_bytes(rounds, endpoints).sum())
    assert all(len(each) > 0 for each in rounds)
    assert [transfer.size_bytes for each in rounds for transfer in each] == pytest.approx(
        np.concatenate([each.size_bytes for each in rounds]).tolist()
    )


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_one_rank_alone_sends_nothing(kind: str, name: str) -> None:
    assert list(ALGORITHMS[kind][name](Group(1), SIZE)) == []


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_no_bytes_are_no_error(kind: str, name: str) -> None:
    rounds = list(ALGORITHMS[kind][name](Group(8, 8), 0))
    assert sent_bytes(rounds, 8).sum() == 0


@pytest.mark.parametrize(("kind", "name"), ROOTED)
@pytest.mark.parametrize("ranks", [1, 2, 5, 8])
def test_any_rank_can_be_the_root(kind: str, name: str, ranks: int) -> None:
    for root in range(ranks):
        prove(kind, ALGORITHMS[kind][name](Group(ranks), SIZE, root=root), Group(ranks), SIZE, root=root)
    with pytest.raises(LayoutError, match=f"root {ranks}: the group's ranks are 0 to {ranks - 1}"):
        list(ALGORITHMS[kind][name](Group(ranks), SIZE, root=ranks))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("all_reduce", "ring"), ("reduce_scatter", "ring"), ("all_gather", "ring"), ("all_reduce", "tree")],
)
@given(ranks=st.integers(1, 20), domain=st.integers(1, 20), channels=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_channels_share_the_data(kind: str, name: str, ranks: int, domain: int, channels: int) -> None:
    group = Group(ranks, domain)
    rounds = rounds_of(kind, name, group, SIZE, channels=channels)
    prove(kind, rounds, group, SIZE)
    alone = rounds_of(kind, name, group, SIZE)
    assert len(rounds) == len(alone)
    assert sent_bytes(rounds, ranks).sum() == pytest.approx(sent_bytes(alone, ranks).sum())


@pytest.mark.parametrize("kind", ["broadcast", "reduce"])
@pytest.mark.parametrize("pieces", [1, 2, 5, 40])
def test_a_chain_takes_any_number_of_pieces(kind: str, pieces: int) -> None:
    rounds = rounds_of(kind, "ring", Group(6), SIZE, pieces=pieces)
    prove(kind, rounds, Group(6), SIZE)
    assert len(rounds) == 6 - 2 + pieces


def test_a_message_goes_where_it_should() -> None:
    rounds = rounds_of("send", "direct", Group(9), SIZE, source=7, target=2)
    prove("send", rounds, Group(9), SIZE, source=7, target=2)
    with pytest.raises(ScheduleError, match="rank 8 ends with nothing"):
        prove("send", rounds, Group(9), SIZE, source=7)
    assert rounds_of("send", "direct", Group(9), SIZE, source=3, target=3) == []


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    ranks = draw(st.integers(1, 14))
    block = st.one_of(st.just(0.0), st.floats(1, 1e9))
    return np.array(draw(st.lists(st.lists(block, min_size=ranks, max_size=ranks), min_size=ranks, max_size=ranks)))


@pytest.mark.parametrize("name", ALGORITHMS["all_to_all"])
@given(blocks=matrices(), domain=st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_uneven_blocks_all_arrive(name: str, blocks: np.ndarray, domain: int) -> None:
    group = Group(len(blocks), domain)
    rounds = rounds_of("all_to_all", name, group, blocks)
    prove("all_to_all", rounds, group, blocks)
    away = blocks.sum(axis=1) - blocks.diagonal()
    if name == "pairwise":
        assert sent_bytes(rounds, group.ranks) == pytest.approx(away)
    # What arrives from others beyond one's own blocks is handed on.
    handed_on = sent_bytes(rounds, group.ranks) - away
    own = blocks.sum(axis=0) - blocks.diagonal()
    assert received_bytes(rounds, group.ranks) - own == pytest.approx(handed_on, abs=1e-3)


@pytest.mark.parametrize(("ranks", "domain"), [(16, 4), (12, 4), (11, 4), (9, 9)])
def test_pxn_never_leaves_a_rail_where_it_can_be_kept(ranks: int, domain: int) -> None:
    for each in rounds_of("all_to_all", "pxn", Group(ranks, domain), SIZE):
        for transfer in each:
            inside = transfer.src // domain == transfer.dst // domain
            lacks = transfer.src // domain * domain + transfer.dst % domain >= ranks
            assert inside or lacks or transfer.src % domain == transfer.dst % domain


def wrong_rounds() -> Iterator[tuple[str, str, list[Round]]]:
    """A kind, what the checker should say, and rounds of four ranks that are wrong in that way."""
    ring = rounds_of("all_reduce", "ring", Group(4), SIZE)
    gather = rounds_of("all_gather", "ring", Group(4), SIZE)
    yield "all_reduce", "ends with", ring[:-1]
    yield "all_reduce", "a second time", [*ring[:3], ring[2], *ring[3:]]
    yield "all_reduce", "a second time", [replace(each, reduces=np.ones(4, bool)) for each in ring]
    yield "all_reduce", "ends with", [replace(each, reduces=np.zeros(4, bool)) for each in ring]
    yield "all_reduce", "ends with", [ring[1], ring[0], *ring[2:]]
    yield "all_reduce", "ends with", [replace(each, dst=(each.src - 1) % 4) for each in ring]
    yield "all_reduce", "not between two", [replace(ring[0], dst=ring[0].src), *ring[1:]]
    yield "all_reduce", "not between two", [replace(ring[0], dst=ring[0].dst + 8), *ring[1:]]
    yield "all_reduce", "bytes before", [*ring[:-1], replace(ring[-1], size_bytes=ring[-1].size_bytes * 2)]
    yield "all_reduce", "shards are sent, of 2e", [replace(each, size_bytes=each.size_bytes * 2) for each in ring]
    yield "all_gather", "does not hold", gather[1:]
    yield "all_gather", "ends with nothing", gather[:-1]
    yield "all_gather", "as many for each rank", [replace(each, shard=each.shard + 1) for each in gather]
    yield "reduce_scatter", "a second time", [*gather, replace(gather[0], reduces=np.ones(4, bool)), *gather]
    yield "reduce_scatter", "rank 0 ends with the contributions of 0 of shard 0", []
    nvls = rounds_of("all_reduce", "nvls", Group(4, 4), SIZE)
    yield "all_reduce", "does not hold", [*nvls[:1], *ring[:1], *nvls[1:]]
    yield "broadcast", "both write shard 0", [round_of([0, 0], [1, 1], 0, SIZE, False)]
    yield "all_to_all", "rank 1 ends with nothing", rounds_of("all_to_all", "pairwise", Group(4), SIZE)[1:]
    yield "all_to_all", "is sent with 1 bytes", [round_of(0, 1, 1, 1.0, False)]
    yield "gossip", "nothing is known", ring


@pytest.mark.parametrize(("kind", "says", "rounds"), list(wrong_rounds()))
def test_the_checker_finds_what_is_wrong(kind: str, says: str, rounds: list[Round]) -> None:
    with pytest.raises(ScheduleError, match=says):
        prove(kind, rounds, Group(4), SIZE)


def test_any_single_transfer_left_out_is_found() -> None:
    for kind, name in EVERY:
        group = Group(6, 6 if name == "nvls" else 3)
        rounds = rounds_of(kind, name, group, SIZE)
        for number, each in enumerate(rounds):
            for left_out in range(len(each)):
                keep = np.arange(len(each)) != left_out
                columns = [column[keep] for column in (each.src, each.dst, each.shard, each.size_bytes, each.reduces)]
                cut = [*rounds[:number], Round(*columns, width=each.width), *rounds[number + 1 :]]
                with pytest.raises(ScheduleError):
                    prove(kind, cut, group, SIZE)


@pytest.mark.parametrize("ranks", [0, -1, 2.0, True, "4", None])
def test_groups_that_are_none_are_refused(ranks: object) -> None:
    with pytest.raises(LayoutError, match=r"ranks .*whole number of at least 1"):
        Group(ranks)  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match=r"domain .*whole number of at least 1"):
        Group(4, ranks)  # type: ignore[arg-type]


def test_groups_beyond_a_million_are_refused() -> None:
    with pytest.raises(LayoutError, match="ranks 10000000000: at most 1048576"):
        Group(10**10)
    assert Group(4, 10**10).domains == 1


@pytest.mark.parametrize("size", [-1, float("nan"), float("inf"), -float("inf"), 2**81, 10**400, "much", None])
@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_sizes_that_are_none_are_refused(kind: str, name: str, size: object) -> None:
    with pytest.raises(LayoutError, match=r"size .*bytes") as error:
        list(ALGORITHMS[kind][name](Group(4, 4), size))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ALGORITHMS["all_to_all"])
def test_matrices_that_do_not_fit_are_refused(name: str) -> None:
    blocks = np.ones((4, 4))
    for wrong, says in [
        (np.ones((3, 4)), "blocks of 3 by 4: an all-to-all of 4 ranks needs 4 by 4"),
        (np.ones(4), "blocks of 4: an all-to-all"),
        ([[1, 2], [3]], "not a matrix of 4 by 4"),
        (np.where(np.eye(4) > 0, np.nan, blocks), "block from rank 0 to rank 0: nan bytes"),
        (-blocks, "block from rank 0 to rank 0: -1 bytes: must be from 0"),
    ]:
        with pytest.raises(LayoutError, match=says):
            rounds_of("all_to_all", name, Group(4), wrong)


@pytest.mark.parametrize(
    ("says", "columns"),
    [
        ("sources of a round: float64 where int64", (1.5, 0, 0, 1, False)),
        ("sources of a round: not numbers that fit int64", (2**70, 0, 0, 1, False)),
        ("targets of a round: not numbers", (0, "one", 0, 1, False)),
        ("shards of a round: shape", ([0, 1, 2], [1, 2, 0], [0, 0], 1, False)),
        ("sizes of a round: not numbers", (0, 1, 0, 10**400, False)),
        ("sizes of a round: not numbers", (0, 1, 0, "much", False)),
    ],
)
def test_rounds_that_are_none_are_refused(says: str, columns: tuple[object, ...]) -> None:
    with pytest.raises(LayoutError, match=says):
        round_of(*columns)  # type: ignore[arg-type]


def test_a_round_lists_its_transfers() -> None:
    shown = list(round_of([0, 1], [1, 2], 5, [8, 16.0], [True, False], width=2, queue=3))
    assert round_of(0, 1, 0, 2**70, False).size_bytes[0] == 2.0**70
    assert shown == [Transfer(0, 1, 5, 8.0, True, 2, 3), Transfer(1, 2, 5, 16.0, False, 2, 3)]


def test_options_that_there_are_not_are_refused() -> None:
    with pytest.raises(LayoutError, match="all_reduce by nvls has no option 'channels'; it has none"):
        rounds_of("all_reduce", "nvls", Group(4, 4), SIZE, channels=2)
    with pytest.raises(LayoutError, match="broadcast by ring has no option 'rot'; it has root, pieces"):
        rounds_of("broadcast", "ring", Group(4), SIZE, rot=2)


@pytest.mark.parametrize("pieces", [0, -3, 1.5])
def test_a_chain_of_no_pieces_is_refused(pieces: object) -> None:
    with pytest.raises(LayoutError, match=f"pieces {pieces}: a whole number of at least 1"):
        list(ALGORITHMS["broadcast"]["ring"](Group(4), SIZE, pieces=pieces))


def test_names_that_there_are_not_get_the_nearest() -> None:
    with pytest.raises(LayoutError, match="no collective is called 'all-reduc'; did you mean 'all_reduce'"):
        rounds_of("all-reduc", "ring", Group(4), SIZE)
    with pytest.raises(LayoutError, match="no algorithm for all_gather is called 'quux'; there are nvls, ring"):
        rounds_of("all_gather", "quux", Group(4), SIZE)
    assert tuple(ALGORITHMS) == KINDS
    assert all(ALGORITHMS.values())
