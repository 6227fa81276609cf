"""Connections: what rounds have in common, the routes of their pairs of endpoints, and their shares of the links.

Two endpoints and a queue are a connection. One that carries b bytes in all has, of a link of capacity B, the share
B b / (sum of b over the link); its rate is the least share along its route. So no link is beyond its capacity, and the
connections of the slowest link end together.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from parsim.errors import LayoutError
from parsim.network.collectives.rounds import Floats, Integers, Round

__all__ = ["Key", "Pairs", "Routes", "Wires", "key_of", "origin_of", "pairs_of", "route_of", "wires_of"]

Routes = Callable[[int, int, int], Sequence[int]]
"""(source, target, flow) -> the links of the way, in order."""

Key = tuple[int, int, int]


class Pairs(NamedTuple):
    """What rounds with the same sources and targets have in common."""

    connection: Integers
    waves: tuple[slice | Integers, ...]
    """Transfers of the round, so that no connection has two in a wave; one slice of all where none has two."""
    one_each: bool
    """Every target has one transfer."""


class Wires(NamedTuple):
    """The connections' seconds per byte and latencies; and bytes by link."""

    s_per_byte: Floats
    latency_s: Floats
    link_bytes: Floats


def pairs_of(rounds: list[Round], endpoints: int) -> tuple[dict[Key, Pairs], Integers]:
    """What distinct arrays of sources and targets mean; and the codes of all connections, by queue, source, target."""
    distinct = {
        key_of(each): (each.queue * endpoints + each.src) * endpoints + each.dst
        for each in {key_of(each): each for each in rounds}.values()
    }
    codes = np.unique(np.concatenate(list(distinct.values())))
    pairs = {}
    for key, code in distinct.items():
        connection = np.searchsorted(codes, code)
        target = np.sort(code % endpoints)
        pairs[key] = Pairs(connection, _waves(connection), bool((target[1:] != target[:-1]).all()))
    return pairs, codes


def key_of(each: Round) -> Key:
    """Rounds alike in this have the same connections. The identities hold as long as the rounds do."""
    return id(each.src), id(each.dst), each.queue if isinstance(each.queue, int) else -id(each.queue)


def _waves(connection: Integers) -> tuple[slice | Integers, ...]:
    """The first transfer of each connection, the second of each, and so on, so that none has two in a wave."""
    order = np.argsort(connection, kind="stable")
    ordered = connection[order]
    fresh = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    if fresh.all():
        return (slice(None),)
    places = np.arange(len(order))
    turn = places - np.maximum.accumulate(np.where(fresh, places, 0))
    return tuple(order[turn == number] for number in range(int(turn.max()) + 1))


def wires_of(
    rounds: list[Round],
    pairs: dict[Key, Pairs],
    ways: list[tuple[int, ...]],
    capacities: Floats,
    latencies: Floats,
) -> Wires:
    """Shares and latencies of all connections, given their routes."""
    lengths = np.array([len(way) for way in ways])
    links = np.array([link for way in ways for link in way], np.int64)
    begins = np.cumsum(lengths) - lengths
    carried = np.zeros(len(ways))
    repeats: dict[tuple[int, int], tuple[Integers, Floats, int]] = {}
    for each in rounds:
        connection = pairs[key_of(each)].connection
        key = id(connection), id(each.size_bytes)
        repeats[key] = connection, each.size_bytes, 1 + (repeats[key][2] if key in repeats else 0)
    for connection, sizes, times in repeats.values():
        carried += times * np.bincount(connection, sizes, len(ways))
    link_bytes = np.bincount(links, np.repeat(carried, lengths), len(capacities)).astype(np.float64)
    slowest = np.maximum.reduceat((link_bytes / capacities)[links], begins)
    s_per_byte = np.divide(slowest, carried, out=np.zeros(len(ways)), where=carried > 0)
    return Wires(s_per_byte, np.add.reduceat(latencies[links], begins), link_bytes)


def route_of(routes: Routes, source: int, target: int, flow: int, links: int) -> tuple[int, ...]:
    try:
        way = tuple(routes(source, target, flow))
    except LookupError:
        way = ()
    if not way:
        raise LayoutError(f"no route leads from rank {source} to rank {target}")
    wrong = next((link for link in way if not 0 <= link < links), None)
    if wrong is not None:
        raise LayoutError(f"the route from rank {source} to rank {target} takes link {wrong}; there are {links}")
    return way


def origin_of(rounds: list[Round], endpoints: int) -> Integers | None:
    """For rings alone: the transfer of the round before that brought what each transfer passes on; else None.

    Rings are rounds of the same connections, each with one transfer, in which one connection of each queue leads to an
    endpoint, the shards of a queue are its own, and each round passes on what the round before has brought.
    """
    first = rounds[0]
    if any(not _alike(first, each) for each in rounds):
        return None
    queue = np.broadcast_to(first.queue, first.src.shape)
    into, out = queue * endpoints + first.dst, queue * endpoints + first.src
    order = np.argsort(into)
    if (into[order][1:] == into[order][:-1]).any() or (np.sort(out) != into[order]).any():
        return None
    origin = order[np.searchsorted(into[order], out)]
    queue_of = np.full(1 + max(int(each.shard.max()) for each in rounds), -1)
    queue_of[first.shard] = queue
    before = first.shard
    for number, each in enumerate(rounds):
        if number and not np.array_equal(before[origin], each.shard):
            return None
        if not np.array_equal(queue_of[each.shard], queue):
            return None
        before = each.shard
    return origin


def _alike(one: Round, other: Round) -> bool:
    """Whether two rounds have the same connections in the same order, and the same width."""
    same = one.width == other.width and len(one) == len(other)
    columns = ((one.src, other.src), (one.dst, other.dst), (one.queue, other.queue))
    return same and all(a is b or np.array_equal(a, b) for a, b in columns)
