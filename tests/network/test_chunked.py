"""L2: chunked rounds on links, against closed forms, a plain player of one transfer at a time, and bounds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import LayoutError
from parsim.network import chunked
from parsim.network.chunked import ChunkedResult, Ports, play_chunked, uniform_ports
from parsim.network.collectives import ALGORITHMS, Group, Round, round_of, rounds_of, sent_bytes
from parsim.network.wires import origin_of

EVERY = [(kind, name) for kind, by_name in ALGORITHMS.items() for name in by_name]
SIZE, RATE, LATENCY = 64e6, 50e9, 5e-6


def plain(
    rounds: Sequence[Round], ranks: int, ports: Ports, chunks: int = 1, start: float = 0.0, holds: bool = False
) -> float:
    """The rules of the docstring, one chunk after the other, with dictionaries."""
    routes, capacities, latencies = ports
    carried: dict[tuple[int, int, int], float] = {}
    for each in rounds:
        for transfer in each:
            line = transfer.src, transfer.dst, transfer.queue
            carried[line] = carried.get(line, 0.0) + transfer.size_bytes
    over = [0.0] * len(capacities)
    for (src, dst, _), size in carried.items():
        for link in routes(src, dst, 0):
            over[link] += size
    arrived: dict[tuple[int, int, int], float] = {}
    free: dict[tuple[int, int, int], float] = {}
    last = start
    for each in rounds:
        new: list[tuple[tuple[int, int, int], float]] = []
        for src, dst, first, size, _, width, queue in each:
            way = routes(src, dst, 0)
            line = src, dst, queue
            rate = min(capacities[link] * carried[line] / over[link] for link in way) if size else 1.0
            flight = sum(latencies[link] for link in way)
            shards = range(first, first + width)
            for chunk in range(chunks):
                own = start if src < ranks else 0.0
                there = max(arrived.get((src, shard, chunk), own) for shard in shards)
                end = max(there, free.get(line, 0.0)) + size / chunks / rate
                free[line] = end + flight if holds else end
                new.extend(((dst, shard, chunk), end + flight) for shard in shards)
                last = max(last, end + flight)
        for key, end in new:
            arrived[key] = max(end, arrived.get(key, 0.0))
    return last


def ring(ranks: int, size: float = SIZE) -> list[Round]:
    return rounds_of("all_reduce", "ring", Group(ranks), size)


@pytest.mark.parametrize("ranks", [2, 3, 4, 7, 16, 64])
@pytest.mark.parametrize("chunks", [1, 2, 4, 9])
@pytest.mark.parametrize("latency", [0.0, 1e-6, 2e-4, 1e-2])
def test_a_ring_is_its_closed_form(ranks: int, chunks: int, latency: float) -> None:
    ports = uniform_ports(ranks, RATE, latency)
    held, steps = SIZE / (ranks * chunks * RATE), 2 * (ranks - 1)
    result = play_chunked(ring(ranks), ranks, *ports, chunks)
    expected = (steps - 1) * max(chunks * held, latency + held) + chunks * held + latency
    assert result.seconds == pytest.approx(expected, rel=1e-9)
    assert result.rank_ends_s == pytest.approx(np.full(ranks, expected), rel=1e-9)
    assert result.transfers == steps * ranks * chunks
    acknowledged = play_chunked(ring(ranks), ranks, *ports, chunks, latency_holds=True)
    assert acknowledged.seconds == pytest.approx(steps * chunks * (latency + held), rel=1e-9)
    if chunks == 1:
        assert result.seconds == pytest.approx(steps * (latency + SIZE / (ranks * RATE)), rel=1e-9)


def test_a_ring_of_unlike_latencies_takes_their_sum() -> None:
    """A shard's way is what counts, as in NCCL's model: the slow hop is passed twice, not waited for in every round."""
    ports = uniform_ports(8, RATE)
    latencies = np.where(np.arange(16) == 7, 1e-3, np.where(np.arange(16) < 8, 1e-5, 0.0))
    gather = rounds_of("all_gather", "ring", Group(8), 0.0)
    assert play_chunked(gather, 8, ports.routes, ports.capacities, latencies).seconds == pytest.approx(1e-3 + 6e-5)


@pytest.mark.parametrize("kind", ["broadcast", "reduce"])
@pytest.mark.parametrize(("ranks", "pieces"), [(2, 1), (5, 1), (5, 8), (16, 3)])
def test_a_chain_is_its_closed_form(kind: str, ranks: int, pieces: int) -> None:
    ports = uniform_ports(ranks, RATE, LATENCY)
    piece = SIZE / (pieces * RATE)
    in_rounds = rounds_of(kind, "ring", Group(ranks), SIZE, pieces=pieces)
    in_chunks = rounds_of(kind, "ring", Group(ranks), SIZE, pieces=1)
    for rounds, chunks in ((in_rounds, 1), (in_chunks, pieces)):
        expected = (ranks - 1) * (LATENCY + piece) + (pieces - 1) * piece
        assert play_chunked(rounds, ranks, *ports, chunks).seconds == pytest.approx(expected, rel=1e-9)
        held = play_chunked(rounds, ranks, *ports, chunks, latency_holds=True)
        assert held.seconds == pytest.approx((ranks - 2 + pieces) * (LATENCY + piece), rel=1e-9)


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize(("ranks", "domain"), [(2, 2), (8, 8), (12, 12), (12, 4), (15, 5), (16, 1)])
@pytest.mark.parametrize("holds", [False, True])
def test_every_algorithm_plays_by_the_rules(kind: str, name: str, ranks: int, domain: int, holds: bool) -> None:
    if name == "nvls" and ranks > domain:
        ranks = domain
    rounds = rounds_of(kind, name, Group(ranks, domain), SIZE)
    ports = uniform_ports(ranks, RATE, LATENCY)
    for chunks in (1, 3):
        result = play_chunked(rounds, ranks, *ports, chunks, start_s=1e-3, latency_holds=holds)
        assert result.seconds == pytest.approx(plain(rounds, ranks, ports, chunks, 1e-3, holds), rel=1e-9)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_large_table_gives_what_a_dense_one_does(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = rounds_of(kind, name, Group(8, 8), SIZE)
    arguments = (rounds, 8, *uniform_ports(8, RATE, LATENCY), 3)
    starts = np.linspace(0, 1e-3, 8)
    dense = play_chunked(*arguments, start_s=starts)
    monkeypatch.setattr(chunked, "_DENSE", 0)
    searched = play_chunked(*arguments, start_s=starts)
    assert searched.rank_ends_s.tolist() == dense.rank_ends_s.tolist()


@pytest.mark.parametrize(("kind", "name"), EVERY)
@pytest.mark.parametrize("chunks", [1, 4])
def test_no_link_is_beyond_its_capacity_and_many_chunks_come_near_it(kind: str, name: str, chunks: int) -> None:
    rounds = rounds_of(kind, name, Group(8, 8), SIZE)
    ports = uniform_ports(8, RATE, 0.0)
    result = play_chunked(rounds, 8, *ports, chunks)
    bound = (result.link_bytes / ports.capacities).max()
    assert result.seconds >= bound * (1 - 1e-12)
    assert play_chunked(rounds, 8, *ports, 256).seconds <= bound * 1.25
    assert result.link_bytes[:8] == pytest.approx(sent_bytes(rounds, 8))


@pytest.mark.parametrize("name", ["ring", "tree", "nvls_tree", "nvls"])
def test_where_the_rate_limits_time_is_bytes_over_bandwidth(name: str) -> None:
    rounds = rounds_of("all_reduce", name, Group(8, 8 if name == "nvls" else 2), 1e15)
    result = play_chunked(rounds, 8, *uniform_ports(8, RATE, 1e-9), 512)
    assert result.seconds == pytest.approx(result.link_bytes.max() / RATE, rel=0.03)


def test_uneven_messages_that_share_a_port_end_together() -> None:
    """Rank 0 sends 3 and 1 GB out of one port of 1 GB/s, rank 2 sends rank 3 nothing that it shares."""
    rounds = [round_of([0, 0, 2], [1, 2, 3], 0, [3e9, 1e9, 2e9], False)]
    result = play_chunked(rounds, 4, *uniform_ports(4, 1e9))
    assert result.rank_ends_s.tolist() == pytest.approx([4.0, 4.0, 4.0, 2.0])


def test_a_link_that_two_pairs_share_halves_their_rate() -> None:
    together = play_chunked([round_of([0, 1], [2, 3], 0, 1e9, False)], 4, lambda s, d, f: (0,), [1e9], [0.0])
    apart = play_chunked([round_of([0, 1], [2, 3], 0, 1e9, False)], 4, lambda s, d, f: (s,), [1e9] * 2, [0.0] * 2)
    assert (together.seconds, apart.seconds) == (2.0, 1.0)
    assert together.link_bytes.tolist() == [2e9]


def test_latencies_of_a_route_add_up_and_the_flow_is_handed_on() -> None:
    def routes(source: int, target: int, flow: int) -> tuple[int, ...]:
        return (0, 1, 2) if flow == 7 else (0,)

    message = [round_of(0, 1, 0, 1e9, False)]
    links = ([1e9, 5e8, 1e9], [1.0, 2.0, 4.0])
    assert play_chunked(message, 2, routes, *links, flow=7).seconds == 9.0
    assert play_chunked(message, 2, routes, *links).seconds == 2.0


def test_the_ring_waits_for_a_rank_that_starts_late() -> None:
    ports = uniform_ports(8, RATE, LATENCY)
    late = np.where(np.arange(8) == 3, 0.5, 0.0)
    on_time, waited = (play_chunked(ring(8), 8, *ports, 2, start_s=start) for start in (0.0, late))
    assert on_time.seconds + 0.5 >= waited.seconds >= on_time.seconds + 0.4
    assert play_chunked([], 8, *ports, start_s=late).seconds == 0.5


def test_messages_of_no_bytes_take_their_latency() -> None:
    result = play_chunked(ring(4, 0.0), 4, *uniform_ports(4, RATE, LATENCY))
    assert result.seconds == pytest.approx(6 * LATENCY)


def test_nothing_to_send_takes_no_time() -> None:
    result = play_chunked(ring(1), 1, *uniform_ports(1, RATE, LATENCY), 4)
    assert (result.seconds, result.transfers, result.rank_ends_s.tolist()) == (0.0, 0, [0.0])


@given(
    ranks=st.integers(2, 9),
    domain=st.integers(1, 9),
    channels=st.integers(1, 4),
    chunks=st.integers(1, 4),
    kind=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_rings_played_as_rings_are_played_as_any_rounds(
    ranks: int, domain: int, channels: int, chunks: int, kind: str, data: st.DataObject
) -> None:
    """A ring has a player of its own, without a table of arrivals; one more message makes it rounds like any other."""
    rounds = rounds_of(kind, "ring", Group(ranks, domain), SIZE, channels=channels)
    floats = st.floats(0, 1e-3)
    starts = np.array(data.draw(st.lists(floats, min_size=ranks, max_size=ranks)))
    latencies = np.array(data.draw(st.lists(floats, min_size=2 * ranks, max_size=2 * ranks)))
    ports = uniform_ports(ranks, RATE)
    assert origin_of(rounds, ranks) is not None
    nothing = [round_of(0, 1, ranks * channels, 0.0, False, queue=channels)]
    rings, others = (
        play_chunked(each, ranks, ports.routes, ports.capacities, latencies, chunks, start_s=starts)
        for each in (rounds, [*nothing, *rounds])
    )
    assert origin_of([*nothing, *rounds], ranks) is None
    assert rings.rank_ends_s == pytest.approx(others.rank_ends_s, rel=1e-12)
    assert rings.link_bytes.tolist() == others.link_bytes.tolist()


def test_what_is_like_a_ring_but_none_is_played_as_any_rounds() -> None:
    gather = rounds_of("all_gather", "ring", Group(4), SIZE)
    two = rounds_of("all_gather", "ring", Group(4), SIZE, channels=2)
    assert origin_of(gather, 4) is not None
    for rounds in (
        gather[::-1],
        [gather[0], *gather],
        [gather[0], replace(gather[1], src=gather[1].dst, dst=gather[1].src)],
        [gather[0], replace(gather[1], width=2)],
        [*two, replace(two[0], shard=np.roll(two[0].shard, 4))],
        [replace(each, queue=0) for each in two],
        [replace(each, shard=each.shard // 2) for each in two],
        rounds_of("broadcast", "ring", Group(4), SIZE),
    ):
        assert origin_of(rounds, 4) is None
        ports = uniform_ports(4, RATE, LATENCY)
        assert play_chunked(rounds, 4, *ports, 3).seconds == pytest.approx(plain(rounds, 4, ports, 3), rel=1e-9)


@given(
    name=st.sampled_from(["ring", "tree", "hierarchical", "nvls_tree"]),
    domains=st.integers(1, 5),
    inside=st.integers(1, 4),
    size=st.floats(1, 2.0**70),
    latency=st.floats(0, 1e-3),
    chunks=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_more_bytes_latency_or_slower_links_never_help(
    name: str, domains: int, inside: int, size: float, latency: float, chunks: int
) -> None:
    ranks = domains * inside

    def seconds(size: float, rate: float, latency: float) -> float:
        rounds = rounds_of("all_reduce", name, Group(ranks, inside), size)
        return play_chunked(rounds, ranks, *uniform_ports(ranks, rate, latency), chunks).seconds

    base = seconds(size, RATE, latency) * (1 - 1e-12)
    assert seconds(size * 1.5, RATE, latency) >= base
    assert seconds(size, RATE / 3, latency) >= base
    assert seconds(size, RATE, latency + 1e-5) >= base


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_any_rounds_on_any_links_play_by_the_rules(data: st.DataObject) -> None:
    ranks, links = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    floats = st.floats(1.0, 1e3)
    capacities = np.array(data.draw(st.lists(floats, min_size=links, max_size=links)))
    latencies = np.array(data.draw(st.lists(st.floats(0, 5), min_size=links, max_size=links)))
    way = st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True)
    ways = {(s, d): tuple(data.draw(way)) for s in range(ranks) for d in range(ranks) if s != d}
    ends = st.tuples(st.integers(0, ranks - 1), st.integers(0, ranks - 1)).filter(lambda pair: pair[0] != pair[1])
    transfer = st.tuples(ends, st.integers(0, 3), st.one_of(st.just(0.0), floats), st.booleans())
    rounds = []
    for _ in range(data.draw(st.integers(1, 5))):
        pairs, shards, sizes, reduces = zip(*data.draw(st.lists(transfer, min_size=1, max_size=6)), strict=True)
        width = data.draw(st.integers(1, 2))
        queue = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(pairs), max_size=len(pairs))))
        rounds.append(round_of([s for s, _ in pairs], [d for _, d in pairs], shards, sizes, reduces, width, queue))
    ports = Ports(lambda s, d, f: ways[s, d], capacities, latencies)
    chunks, holds = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    result = play_chunked(rounds, ranks, *ports, chunks, latency_holds=holds)
    assert result.seconds == pytest.approx(plain(rounds, ranks, ports, chunks, 0.0, holds), rel=1e-9)
    assert result.seconds >= (result.link_bytes / capacities).max() * (1 - 1e-12)


def message(**changes: object) -> list[Round]:
    columns = {"src": 0, "dst": 1, "shard": 0, "size_bytes": 1.0, "reduces": False} | changes
    return [round_of(**columns)]  # type: ignore[arg-type]


def attempt(rounds: Sequence[Round], ranks: int = 2, **changes: object) -> ChunkedResult:
    links: dict[str, object] = uniform_ports(2, 1e9)._asdict() | changes
    return play_chunked(rounds, ranks, **links)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("says", "rounds", "changes"),
    [
        ("ranks 0: a whole number of at least 1", message(), {"ranks": 0}),
        ("chunks 0: a whole number of at least 1", message(), {"chunks": 0}),
        ("chunks 1.5: a whole number", message(), {"chunks": 1.5}),
        ("a transfer of -1 bytes: must be from 0 to 1e", message(size_bytes=-1), {}),
        ("a transfer of nan bytes: must be from 0", message(size_bytes=float("nan")), {}),
        ("a transfer of inf bytes: must be from 0", message(size_bytes=float("inf")), {}),
        ("from rank 1 to itself", message(src=1), {}),
        ("ranks are at least 0", message(dst=-1), {}),
        ("shard -2: shards are at least 0", message(shard=-2), {}),
        ("below 2\\*\\*62", message(shard=2**62), {}),
        ("capacity 3 is 0 bytes/s: must be from 0.001 to 1e", message(), {"capacities": [1, 1, 1, 0]}),
        ("capacity 0 is nan bytes/s", message(), {"capacities": [float("nan")] * 4}),
        ("latency 1 is -1 s: must be from 0 to 1e", message(), {"latencies": [0, -1, 0, 0]}),
        ("start 0 is -3 s", message(), {"start_s": -3}),
        ("4 capacities and 2 latencies: one of each", message(), {"latencies": [0, 0]}),
        ("3 starts for 2 ranks", message(), {"start_s": [0, 0, 0]}),
        ("no route leads from rank 0 to rank 1", message(), {"routes": lambda s, d, f: ()}),
        ("no route leads from rank 0 to rank 1", message(), {"routes": lambda s, d, f: {}[s, d]}),
        ("takes link 4; there are 4", message(), {"routes": lambda s, d, f: (0, 4)}),
        ("chunks 65537: at most 65536", message(), {"chunks": 2**16 + 1}),
        ("capacity: not numbers of bytes/s", message(), {"capacities": "fast"}),
        ("latency: 2 dimensions", message(), {"latencies": [[0, 0], [0, 0]]}),
        ("round 0: width 0: a whole number", message(width=0), {}),
        ("round 0: columns of shapes", [replace(message()[0], shard=np.zeros(2, np.int64))], {}),
        ("round 0: columns of shapes", [replace(message()[0], queue=np.zeros(3, np.int64))], {}),
        ("queue -1: queues are few, from 0 on", message(queue=-1), {}),
        ("queue 4611686018427387904: queues", message(queue=2**62), {}),
        ("takes link -1; there are 4", message(), {"routes": lambda s, d, f: (-1,)}),
    ],
)
def test_what_cannot_be_played_is_said(says: str, rounds: list[Round], changes: dict[str, object]) -> None:
    with pytest.raises(LayoutError, match=says) as error:
        attempt(rounds, **changes)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
