"""Pairwise all-to-all: in round k every rank sends to the one k after it and receives from the one k before it.

Block (i, j), what rank i has for rank j, is shard i * n + j. All blocks are alike, S/n of the S that each rank begins
with, or given as a matrix of bytes, row by sender; an empty block is not sent, nor is what a rank keeps.

    n - 1 rounds, each rank sends S(n-1)/n
"""

from collections.abc import Iterator

import numpy as np

from parsim.errors import LayoutError
from parsim.network.collectives.rounds import MOST_BYTES, Floats, Group, Round, checked_bytes, round_of

__all__ = ["all_to_all", "block_bytes"]


def all_to_all(group: Group, size_bytes: float | Floats) -> Iterator[Round]:
    """Straight from sender to receiver. A round in which nobody has anything to send is left out."""
    n = group.ranks
    blocks = block_bytes(group, size_bytes)
    ranks = np.arange(n)
    for k in range(1, n):
        to = (ranks + k) % n
        sizes = blocks[ranks, to]
        src = np.flatnonzero(sizes)
        if len(src):
            yield round_of(src, to[src], src * n + to[src], sizes[src], False)


def block_bytes(group: Group, size_bytes: float | Floats) -> Floats:
    """The matrix of bytes, [sender, receiver]. LayoutError unless it is n x n and holds sizes."""
    n = group.ranks
    if not isinstance(size_bytes, np.ndarray | list | tuple):
        return np.broadcast_to(np.float64(checked_bytes(size_bytes) / n), (n, n))
    try:
        blocks = np.asarray(size_bytes, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise LayoutError(
            f"blocks of an all-to-all of {n} ranks: not a matrix of {n} by {n} numbers of bytes"
        ) from None
    if blocks.shape != (n, n):
        shape = " by ".join(map(str, blocks.shape))
        raise LayoutError(f"blocks of {shape}: an all-to-all of {n} ranks needs {n} by {n}, a row for each sender")
    wrong = np.argwhere(~((blocks >= 0) & (blocks <= MOST_BYTES)))
    if len(wrong):
        i, j = wrong[0].tolist()
        checked_bytes(blocks[i, j], f"block from rank {i} to rank {j}:")
    return blocks
