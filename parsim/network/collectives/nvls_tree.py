"""NVLS with trees: the switch of each domain reduces, two trees go across, the switches multicast.

With d ranks in each of N domains: shards 2l and 2l + 1 are the halves of what place l owns, S/(2d) each. The ranks of
place l in all domains reduce them over a pair of binary trees. Domain k's switch is endpoint dN + k.

    4 rounds inside and about 2 log2(N) across; each rank sends S(d+1)/d by NVLink and about 2S/d by its NIC
"""

from collections.abc import Callable, Iterator

import numpy as np

from parsim.network.collectives.nvls import switch_all_gather, switch_reduce_scatter
from parsim.network.collectives.rounds import Group, Integers, Round, checked_bytes
from parsim.network.collectives.tree import binary_tree, climb, descend, merged, twin_tree

__all__ = ["all_reduce"]


def all_reduce(group: Group, size_bytes: float) -> Iterator[Round]:
    """Reduce-scatter by switches, trees across, all-gather by switches. LayoutError unless domains are of one size."""
    size = checked_bytes(size_bytes)
    inside, domains = group.even_domains("an NVLS tree all-reduce")
    members = np.arange(group.ranks).reshape(domains, inside)
    switches = group.ranks + np.arange(domains)
    yield from switch_reduce_scatter(members, switches, size, 2)
    for walk in (climb, descend):
        yield from merged(list(_across(walk, domains, inside, size / (2 * inside))))
    yield from switch_all_gather(members, switches, size, 2)


def _across(
    walk: Callable[[Integers, int, float], Iterator[Round]], domains: int, inside: int, half_bytes: float
) -> Iterator[Iterator[Round]]:
    """For each place two streams: the trees over domains, each place standing for its domain."""
    for half, tree in enumerate((binary_tree(domains), twin_tree(domains))):
        for place in range(inside):
            yield _standing(walk(tree, 2 * place + half, half_bytes), inside, place)


def _standing(rounds: Iterator[Round], inside: int, place: int) -> Iterator[Round]:
    for each in rounds:
        src, dst = each.src * inside + place, each.dst * inside + place
        yield Round(src, dst, each.shard, each.size_bytes, each.reduces, queue=each.queue)
