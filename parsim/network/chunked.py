"""L2: rounds of transfers played chunk by chunk on the links of a network; every chunk of every transfer is played.

Each transfer is cut into `chunks` equal chunks. Two endpoints and a round's queue are a connection, where transfers go
in the order of rounds, then of the round's transfers, then of chunks. A chunk starts when

    its data is at its source: the same chunk of every earlier round's transfer into that source for these shards
    (for a source's own data: when the rank itself starts), and
    the chunk before it has left on its connection, which is held for bytes / rate;

and it arrives   bytes / rate + latency   later, with the latencies of its route added up: the next chunk leaves while
this one flies. With `latency_holds` the connection is held for the flight too, as if every chunk were acknowledged.

The rate is the connection's share of the steady state, in which all connections of the collective are at work: a link
of capacity B gives a connection that carries b bytes in all  B b / (sum of b over the link), and the rate is the least
share along the route. No link is ever beyond its capacity, and those that share one end together: without latencies and
waiting the collective takes  max over links of (bytes over the link / capacity),  which no sharing can beat. What the
rule does not see is that connections which take turns (one chunk climbing a tree and coming down again) could each have
the whole link: it is right for many chunks (NCCL's are 512 KiB or less) and slow for one. Fluid flows share anew at
every event, max-min fair, and may take a little longer than this where messages of unlike sizes start together.

Closed forms where nothing is shared, with B bytes/s, latency a, C chunks, S bytes, n ranks and t = S / (n C B):

    ring of k rounds (2(n-1) for an all-reduce)    (k - 1) max(C t, a + t) + C t + a
      latency_holds                                k C (a + t)
    chain of n ranks in C chunks of u = S / (C B)  (n - 1) (a + u) + (C - 1) u
      latency_holds                                (n - 2 + C) (a + u)

With C = 1 both rings are the alpha-beta form k (a + S/(nB)), which is what L0 and L1 say of it; where latencies differ
along the ring, it is the sum of the latencies on a shard's way, as in NCCL's own model. More chunks hide latency behind
bytes; where the rate limits (a << t) all levels become bytes sent / bandwidth. L2 alone sees which links are shared.

Errors: LayoutError for counts below 1, sizes, capacities and latencies that are not numbers in range, endpoints that
are not there, and connections without a route.
Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH (2005), the form.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from parsim.errors import LayoutError
from parsim.network.chunked_input import checked_numbers, checked_rounds
from parsim.network.collectives.rounds import Floats, Integers, Round, checked_count
from parsim.network.wires import Key, Pairs, Routes, Wires, key_of, origin_of, pairs_of, route_of, wires_of

__all__ = ["ChunkedResult", "Ports", "play_chunked", "uniform_ports"]

_MOST_CHUNKS = 1 << 16
_DENSE = 1 << 23
"""Arrival times that are kept in one table, by endpoint and shard, without a search: 64 MiB of them."""


@dataclass(frozen=True, eq=False)
class ChunkedResult:
    """What was played. Times count from 0, the start of the first rank."""

    seconds: float
    """The end of the last chunk; that of the last rank to start, where nothing is sent."""
    rank_ends_s: Floats
    """When each rank has sent and received its last."""
    link_bytes: Floats
    transfers: int
    """Chunks played."""


class Ports(NamedTuple):
    """Links for `play_chunked`: the routes, capacities in bytes/s, latencies in seconds."""

    routes: Routes
    capacities: Floats
    latencies: Floats


def uniform_ports(ranks: int, bytes_per_s: float, latency_s: float = 0.0) -> Ports:
    """Every rank has one port out (link r) and one in (link ranks + r), the latency on the way out.

    Endpoints beyond the ranks are switches, which have only the ports of the ranks they talk to.
    """

    def routes(source: int, target: int, flow: int) -> tuple[int, ...]:
        return (*([source] if source < ranks else []), *([ranks + target] if target < ranks else []))

    latencies = np.repeat((float(latency_s), 0.0), checked_count(ranks, "ranks"))
    return Ports(routes, np.full(2 * ranks, float(bytes_per_s)), latencies)


def play_chunked(
    rounds: Iterable[Round],
    ranks: int,
    routes: Routes,
    capacities: ArrayLike,
    latencies: ArrayLike,
    chunks: int = 1,
    *,
    flow: int = 0,
    start_s: ArrayLike = 0.0,
    latency_holds: bool = False,
) -> ChunkedResult:
    """Play all rounds. `flow` is handed to `routes`; `start_s` is when each rank starts, one number or one per rank."""
    played = [each for each in rounds if len(each)]
    checked_count(ranks, "ranks")
    checked_count(chunks, "chunks", _MOST_CHUNKS)
    speeds = checked_numbers(capacities, "capacity", "bytes/s", 1e-3, 1e24)
    delays = checked_numbers(latencies, "latency", "s", 0, 1e12)
    if len(speeds) != len(delays):
        raise LayoutError(f"{len(speeds)} capacities and {len(delays)} latencies: one of each for every link")
    starts = checked_numbers(start_s, "start", "s", 0, 1e12)
    if len(starts) not in (1, ranks):
        raise LayoutError(f"{len(starts)} starts for {ranks} ranks: one, or one for each")
    starts = np.broadcast_to(starts, (ranks,))
    if not played:
        return ChunkedResult(float(starts.max()), starts.copy(), np.zeros(len(speeds)), 0)
    endpoints = max(ranks, 1 + checked_rounds(played))
    pairs, codes = pairs_of(played, endpoints)
    source, target = codes // endpoints % endpoints, codes % endpoints
    ways = [route_of(routes, *ends, flow, len(speeds)) for ends in zip(source.tolist(), target.tolist(), strict=True)]
    wires = wires_of(played, pairs, ways, speeds, delays)
    ready = np.zeros(endpoints)
    ready[:ranks] = starts
    origin = origin_of(played, endpoints)
    if origin is None:
        ends = _play(played, pairs, wires, endpoints, ready, chunks, latency_holds)
    else:
        ends = _play_rings(played, origin, pairs[key_of(played[0])].connection, wires, ready, chunks, latency_holds)
    last = ready.copy()
    np.maximum.at(last, source, ends)
    np.maximum.at(last, target, ends)
    count = chunks * sum(len(each) for each in played)
    return ChunkedResult(float(last.max()), last[:ranks], wires.link_bytes, count)


def _play(
    rounds: list[Round],
    pairs: dict[Key, Pairs],
    wires: Wires,
    endpoints: int,
    ready: Floats,
    chunks: int,
    latency_holds: bool,
) -> Floats:
    """When the last chunk of each connection arrives."""
    place, arrived = _table(rounds, endpoints, ready, chunks)
    free = np.zeros(len(wires.latency_s))
    known, hold = (0, 0), free
    for each in rounds:
        both = pairs[key_of(each)]
        flight = wires.latency_s[both.connection]
        if known != (id(both.connection), id(each.size_bytes)):
            known = id(both.connection), id(each.size_bytes)
            hold = each.size_bytes * wires.s_per_byte[both.connection] / chunks
            hold = hold + flight if latency_holds else hold
        times = arrived[place(each.src, each.shard, each.width)]
        if each.width > 1:
            times = times.max(axis=1)
        for wave in both.waves:
            line = both.connection[wave]
            now, lasts = free[line], hold[wave]
            for chunk in range(chunks):
                now = np.maximum(now, times[wave, chunk]) + lasts
                times[wave, chunk] = now
            free[line] = now
        if not latency_holds:
            times += flight[:, None]
        target = place(each.dst, each.shard, each.width)
        if each.width > 1:
            target, times = target.ravel(), np.repeat(times, each.width, axis=0)
        if both.one_each:
            arrived[target] = np.maximum(arrived[target], times)
        else:
            np.maximum.at(arrived, target, times)
    return free if latency_holds else free + wires.latency_s


def _play_rings(
    rounds: list[Round],
    origin: Integers,
    connection: Integers,
    wires: Wires,
    ready: Floats,
    chunks: int,
    latency_holds: bool,
) -> Floats:
    """The same for rounds in which every transfer passes on what transfer `origin` of the round before has brought."""
    flight, rate = wires.latency_s[connection], wires.s_per_byte[connection] / chunks
    own = ready[rounds[0].src]
    arrived = np.repeat(own[None, :], chunks, axis=0)
    now = np.zeros(len(own))
    known, hold = 0, now
    for number, each in enumerate(rounds):
        if known != id(each.size_bytes):
            known = id(each.size_bytes)
            hold = each.size_bytes * rate
            hold = hold + flight if latency_holds else hold
        there = np.maximum(arrived[:, origin], own) if number else arrived
        for chunk in range(chunks):
            now = np.maximum(now, there[chunk]) + hold
            arrived[chunk] = now
        if not latency_holds:
            arrived += flight
    ends = np.zeros(len(wires.latency_s))
    ends[connection] = arrived[-1]
    return ends


def _table(
    rounds: list[Round], endpoints: int, ready: Floats, chunks: int
) -> tuple[Callable[[Integers, Integers, int], Integers], Floats]:
    """Arrival times of each endpoint's shards [row, chunk], and the rows of shards [transfer] or [transfer, width].

    A row for each endpoint and shard where that is few; else one for each that ever arrives, and one for each endpoint
    for all that it holds from the beginning.
    """
    shards = 1 + max(int(each.shard.max()) + each.width - 1 for each in rounds)
    if shards * endpoints >= 1 << 62:
        raise LayoutError(f"shards up to {shards - 1} of {endpoints} endpoints: their product must be below 2**62")

    def keys(endpoint: Integers, shard: Integers, width: int) -> Integers:
        first = endpoint * shards + shard
        return first if width == 1 else first[:, None] + np.arange(width)

    if shards * endpoints * chunks <= _DENSE:
        return keys, np.repeat(ready, shards)[:, None].repeat(chunks, axis=1)
    arrivals = np.unique(np.concatenate([keys(each.dst, each.shard, each.width).ravel() for each in rounds]))

    def rows(endpoint: Integers, shard: Integers, width: int) -> Integers:
        wanted = keys(endpoint, shard, width)
        found = np.minimum(np.searchsorted(arrivals, wanted), len(arrivals) - 1)
        own = endpoint if width == 1 else endpoint[:, None]
        return np.where(arrivals[found] == wanted, found, len(arrivals) + own)

    beginning = np.concatenate((ready[arrivals // shards], ready))
    return rows, beginning[:, None].repeat(chunks, axis=1)
