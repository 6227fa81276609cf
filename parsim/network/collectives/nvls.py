"""NVLS: the domain's NVSwitch adds and copies. The switch is the endpoint after the ranks, number n.

How its transfers are written: what a rank lets the switch read (multimem.ld_reduce) is a reducing transfer from the
rank to the switch, which begins with nothing of its own; the sum that the owner gets is a copying transfer from the
switch to it; a multicast (multimem.st) is one copying transfer from the owner to the switch and one from there to every
rank, its owner too. Rank r owns shard r, of S/n.

    reduce-scatter   all shards up, one down                2 rounds: each rank sends S, receives S/n
    all-gather       one shard up, all down                 2 rounds: each rank sends S/n, receives S
    all-reduce       the two after each other               4 rounds: S(n+1)/n each way where a ring has 2S(n-1)/n

The gather's transfers are a queue of their own, as NCCL gives them warps of their own: chunks of the sum are copied
while later ones are still added up. Every switch port carries as much as its rank.
Source: NVIDIA, PTX ISA (multimem) and NCCL, src/device/all_reduce.h.
"""

from collections.abc import Iterator

import numpy as np

from parsim.network.collectives.rounds import Group, Integers, Round, checked_bytes, round_of

__all__ = ["all_gather", "all_reduce", "reduce_scatter", "switch_all_gather", "switch_reduce_scatter"]


def all_reduce(group: Group, size_bytes: float) -> Iterator[Round]:
    """Reduce-scatter, then all-gather, by the switch. LayoutError unless all ranks share a domain."""
    yield from reduce_scatter(group, size_bytes)
    yield from all_gather(group, size_bytes)


def reduce_scatter(group: Group, size_bytes: float) -> Iterator[Round]:
    """Rank r ends with shard r, which the switch added up."""
    yield from switch_reduce_scatter(*_whole(group, size_bytes))


def all_gather(group: Group, size_bytes: float) -> Iterator[Round]:
    """Rank r begins with shard r, and the switch copies it to all."""
    yield from switch_all_gather(*_whole(group, size_bytes))


def switch_reduce_scatter(members: Integers, switches: Integers, size_bytes: float, width: int = 1) -> Iterator[Round]:
    """Several domains side by side: `members[domain, place]`; place p ends with the `width` shards from p * width."""
    domains, inside = members.shape
    if inside > 1:
        ranks, switch = members.ravel(), np.repeat(switches, inside)
        yield round_of(ranks, switch, 0, size_bytes, True, inside * width)
        yield round_of(switch, ranks, np.tile(np.arange(inside) * width, domains), size_bytes / inside, False, width)


def switch_all_gather(members: Integers, switches: Integers, size_bytes: float, width: int = 1) -> Iterator[Round]:
    """The way back: place p begins with its shards, all end with all."""
    domains, inside = members.shape
    if inside > 1:
        ranks, switch = members.ravel(), np.repeat(switches, inside)
        owned = np.tile(np.arange(inside) * width, domains)
        yield round_of(ranks, switch, owned, size_bytes / inside, False, width, queue=1)
        yield round_of(switch, ranks, 0, size_bytes, False, inside * width, queue=1)


def _whole(group: Group, size_bytes: float) -> tuple[Integers, Integers, float]:
    n = group.one_domain("NVLS")
    return np.arange(n)[None, :], np.array([n]), checked_bytes(size_bytes)
