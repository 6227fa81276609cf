"""Trees: up to a root and down again, 2 log2(n) rounds instead of a ring's 2(n-1).

All-reduce uses two binary trees, each for half of the data (shards 0 and 1). A rank that is an inner node of one is a
leaf of the other, so that every rank sends about 2S: S/2 up and twice S/2 down where it is inner, S/2 up where it is a
leaf. C channels are C such pairs, each for 1/C of the data.

The trees connect domains. Inside a domain the ranks are a chain whose head stands in the tree: the first rank for the
one tree and the last for the other, so that two ways out of the domain are used; channel c counts from the c-th rank.

The tree over n places: 0 is the root; a place p > 0, with b its lowest set bit, hangs below (p - b) | 2b, or below
p - b where that is n or more. The second tree is the first one mirrored (p to n - 1 - p) for an even n, shifted by one
for an odd n.
Source: NCCL, src/graph/trees.cc; Sanders, Speck and Träff, Two-tree algorithms for full bandwidth broadcast (2009).
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from parsim.network.collectives.rounds import Group, Integers, Round, checked_bytes, checked_count, round_of

__all__ = ["all_reduce", "binary_tree", "broadcast", "climb", "descend", "double_tree", "merged", "reduce", "twin_tree"]


def all_reduce(group: Group, size_bytes: float, channels: int = 1) -> Iterator[Round]:
    """All trees at once: reduce up, then broadcast down."""
    half = checked_bytes(size_bytes) / (2 * checked_count(channels, "channels"))
    trees = [parents for channel in range(channels) for parents in double_tree(group, channel)]
    yield from merged([climb(parents, shard, half) for shard, parents in enumerate(trees)])
    yield from merged([descend(parents, shard, half) for shard, parents in enumerate(trees)])


def broadcast(group: Group, size_bytes: float, root: int = 0) -> Iterator[Round]:
    """One binary tree over the ranks, counted from the root; the data is one shard."""
    yield from descend(_rooted(group, root), 0, checked_bytes(size_bytes))


def reduce(group: Group, size_bytes: float, root: int = 0) -> Iterator[Round]:
    """The same tree, upwards."""
    yield from climb(_rooted(group, root), 0, checked_bytes(size_bytes))


def binary_tree(places: int) -> Integers:
    """The parent of each place in the first tree; -1 for the root, place 0."""
    place = np.arange(places)
    bit = place & -place
    above = (place - bit) | (2 * bit)
    parents = np.where(above < places, above, place - bit)
    parents[0] = -1
    return parents


def twin_tree(places: int) -> Integers:
    """The parent of each place in the second tree."""
    image = (np.arange(places) + 1) % places if places % 2 else places - 1 - np.arange(places)
    parents = binary_tree(places)
    twins = np.empty_like(parents)
    twins[image] = np.where(parents < 0, -1, image[parents])
    return twins


def double_tree(group: Group, turn: int = 0) -> tuple[Integers, Integers]:
    """The parents of all ranks in the two trees: trees over domains, chains inside them, from the `turn`-th rank on."""
    order = group.turned(turn)
    heads = np.arange(group.domains) * group.domain
    tails = np.minimum(heads + group.domain, group.ranks) - 1
    one, two = np.empty_like(order), np.empty_like(order)
    one[order], two[order] = np.roll(order, 1), np.roll(order, -1)
    one[order[heads]] = _standing(binary_tree(group.domains), order[heads])
    two[order[tails]] = _standing(twin_tree(group.domains), order[tails])
    return one, two


def climb(parents: Integers, shard: int, size_bytes: float, width: int = 1) -> Iterator[Round]:
    """From the leaves to the root: a place sends in the round after the last of its children did."""
    depth = _depths(parents)
    height = np.zeros(len(parents), np.int64)
    for level in range(int(depth.max()), 0, -1):
        below = np.flatnonzero(depth == level)
        np.maximum.at(height, parents[below], height[below] + 1)
    for now in range(int(height.max())):
        sends = np.flatnonzero((height == now) & (parents >= 0))
        yield round_of(sends, parents[sends], shard, size_bytes, True, width, 2 * shard)


def descend(parents: Integers, shard: int, size_bytes: float, width: int = 1) -> Iterator[Round]:
    """From the root to the leaves, one level a round; queues tell down from up and tree from tree."""
    depth = _depths(parents)
    for level in range(1, int(depth.max()) + 1):
        receives = np.flatnonzero(depth == level)
        yield round_of(parents[receives], receives, shard, size_bytes, False, width, 2 * shard + 1)


def merged(streams: Sequence[Iterator[Round]]) -> Iterator[Round]:
    """Streams of rounds that run side by side: their k-th rounds are one. All have the same width."""
    for rounds in zip_longest(*streams):
        alive = [each for each in rounds if each is not None]
        yield Round(
            np.concatenate([each.src for each in alive]),
            np.concatenate([each.dst for each in alive]),
            np.concatenate([each.shard for each in alive]),
            np.concatenate([each.size_bytes for each in alive]),
            np.concatenate([each.reduces for each in alive]),
            alive[0].width,
            np.concatenate([np.broadcast_to(each.queue, len(each)) for each in alive]),
        )


def _rooted(group: Group, root: int) -> Integers:
    n, first = group.ranks, group.check_root(root)
    parents = binary_tree(n)
    return np.roll(np.where(parents < 0, -1, (parents + first) % n), first)


def _standing(tree: Integers, ranks: Integers) -> Integers:
    """A tree over domains as one over the ranks that stand for them."""
    return np.where(tree < 0, -1, ranks[tree])


def _depths(parents: Integers) -> Integers:
    """Steps from the root, by doubling: a pointer that jumps over as many places as it has counted."""
    root = int(np.flatnonzero(parents < 0)[0])
    jump = np.where(parents < 0, root, parents)
    depth = (parents >= 0).astype(np.int64)
    while (jump != root).any():
        depth = depth + depth[jump]
        jump = jump[jump]
    return depth
