"""PXN all-to-all: by NVLink to the GPU of one's own domain that stands on the receiver's rail, then over its NIC.

Every place of a domain is a rail. What rank i sends to place l of another domain goes first to place l of its own
domain, so that no message crosses rails in the fabric. A message inside the domain, to one's own rail, or to a place
that one's own (smaller, last) domain lacks, goes straight. Blocks are those of the pairwise all-to-all.

For each distance of domains, 0 (the inside) to N - 1: hand over or send straight, then along the rail.
Source: NVIDIA, Doubling all2all performance with NCCL 2.12 (2022).
"""

from collections.abc import Iterator

import numpy as np

from parsim.network.collectives.pairwise import block_bytes
from parsim.network.collectives.rounds import Floats, Group, Round, round_of

__all__ = ["all_to_all"]


def all_to_all(group: Group, size_bytes: float | Floats) -> Iterator[Round]:
    """Two hops for what leaves the domain on another rail, one for the rest. Empty blocks are not sent."""
    n, domains = group.ranks, group.domains
    inside = min(group.domain, n)
    blocks = block_bytes(group, size_bytes)
    ranks = np.arange(n)
    home, place = ranks // inside, ranks % inside
    for distance in range(domains):
        onward: list[Round] = []
        for turn in range(inside):
            # Places are met in turns, as in the pairwise exchange, so that no receiver is met by all at once.
            to = (home + distance) % domains * inside + (place + turn) % inside
            src = np.flatnonzero((to < n) & (to != ranks))
            src = src[blocks[src, to[src]] > 0]
            if not len(src):
                continue
            dst = to[src]
            relay = home[src] * inside + place[dst]
            relayed = (distance > 0) & (relay != src) & (relay < n)
            shard, sizes = src * n + dst, blocks[src, dst]
            yield round_of(src, np.where(relayed, relay, dst), shard, sizes, False)
            if relayed.any():
                onward.append(round_of(relay[relayed], dst[relayed], shard[relayed], sizes[relayed], False))
        yield from onward
