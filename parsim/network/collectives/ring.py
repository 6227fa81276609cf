"""Rings: every rank sends to the next, all at once, n - 1 times for each half of an all-reduce.

    reduce-scatter   round k: rank r sends shard r - 1 - k, which the next adds      n - 1 rounds, S(n-1)/n bytes a rank
    all-gather       round k: rank r sends shard r - k, which the next keeps         n - 1 rounds, S(n-1)/n
    all-reduce       the two after each other                                       2(n-1) rounds, 2S(n-1)/n
    broadcast        a chain from the root, in pieces                         n - 2 + pieces rounds, S bytes a rank
    reduce           a chain to the root, in pieces                           the same

With C channels there are C rings, each for 1/C of the data and with a queue of its own; ring c enters every domain at
its c-th rank and leaves it at the one before, so that they use all ways out of it (a domain has one where C is 1).

S is the whole tensor: the input of a reduction, the output of a gather; shards are S/n and counted modulo n.
Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations (2009).
"""

from collections.abc import Iterator

import numpy as np

from parsim.network.collectives.rounds import Floats, Group, Integers, Round, checked_bytes, checked_count, round_of

__all__ = [
    "all_gather",
    "all_reduce",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "ring_all_gather",
    "ring_reduce_scatter",
]


def all_reduce(group: Group, size_bytes: float, channels: int = 1) -> Iterator[Round]:
    """Reduce-scatter, then all-gather: all shards whole on every rank at the end."""
    yield from reduce_scatter(group, size_bytes, channels)
    yield from all_gather(group, size_bytes, channels)


def reduce_scatter(group: Group, size_bytes: float, channels: int = 1) -> Iterator[Round]:
    """Rank r ends with shard r (with C channels, shards rC to rC + C - 1), added up over all ranks."""
    yield from ring_reduce_scatter(*_whole(group, size_bytes, channels))


def all_gather(group: Group, size_bytes: float, channels: int = 1) -> Iterator[Round]:
    """Rank r begins with shard r (with C channels, shards rC to rC + C - 1); every rank ends with all of them."""
    yield from ring_all_gather(*_whole(group, size_bytes, channels))


def broadcast(group: Group, size_bytes: float, root: int = 0, pieces: int = 8) -> Iterator[Round]:
    """The chain root, root + 1, ...: in round k the i-th rank of it passes on piece k - i."""
    yield from _chain(group, size_bytes, root, pieces, reduces=False)


def reduce(group: Group, size_bytes: float, root: int = 0, pieces: int = 8) -> Iterator[Round]:
    """The chain ..., root - 1, root: each adds its own to what it passes on; the root has the sum."""
    yield from _chain(group, size_bytes, root, pieces, reduces=True)


def ring_reduce_scatter(members: Integers, shards: Integers, shard_bytes: float, width: int = 1) -> Iterator[Round]:
    """Several rings side by side, [ring, place]: the endpoints, and the first shard of each, with which it ends."""
    yield from _rings(members, shards, shard_bytes, width, reduces=True)


def ring_all_gather(members: Integers, shards: Integers, shard_bytes: float, width: int = 1) -> Iterator[Round]:
    """The way back: each begins with its own shards, all end with all of their ring."""
    yield from _rings(members, shards, shard_bytes, width, reduces=False)


def _whole(group: Group, size_bytes: float, channels: int) -> tuple[Integers, Integers, float]:
    """Rings of all ranks."""
    shard_bytes = checked_bytes(size_bytes) / (group.ranks * checked_count(channels, "channels"))
    members = np.array([group.turned(channel) for channel in range(channels)])
    return members, members * channels + np.arange(channels)[:, None], shard_bytes


def _rings(members: Integers, shards: Integers, shard_bytes: float, width: int, reduces: bool) -> Iterator[Round]:
    rings, n = members.shape
    src = members.ravel()
    dst = np.roll(members, -1, axis=1).ravel()
    sizes: Floats = np.full(len(src), shard_bytes)
    flags = np.full(len(src), reduces)
    queue = np.repeat(np.arange(rings), n) if rings > 1 else 0
    for k in range(n - 1):
        yield Round(src, dst, np.roll(shards, k + reduces, axis=1).ravel(), sizes, flags, width, queue)


def _chain(group: Group, size_bytes: float, root: int, pieces: int, reduces: bool) -> Iterator[Round]:
    n = group.ranks
    group.check_root(root)
    piece_bytes = checked_bytes(size_bytes) / checked_count(pieces, "pieces")
    start = root + 1 if reduces else root
    for k in range(n - 2 + pieces) if n > 1 else ():
        places = np.arange(max(0, k - pieces + 1), min(n - 1, k + 1))
        yield round_of((start + places) % n, (start + places + 1) % n, k - places, piece_bytes, reduces)
