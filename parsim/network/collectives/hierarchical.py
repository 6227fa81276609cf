"""Hierarchical all-reduce: reduce-scatter inside every domain, all-reduce across domains, all-gather inside.

With d ranks in each of N domains: shards l * N + m of S/(dN) bytes. Inside a domain the ring carries N shards at a
time (width N): rank l ends with those of l. Across, the ranks of the same place l form a ring of N for them.

    rounds 2(d-1) + 2(N-1)      bytes a rank: 2S(d-1)/d inside, 2S(N-1)/(dN) across; together 2S(n-1)/n
"""

from collections.abc import Iterator

import numpy as np

from parsim.network.collectives.ring import ring_all_gather, ring_reduce_scatter
from parsim.network.collectives.rounds import Group, Round, checked_bytes

__all__ = ["all_reduce"]


def all_reduce(group: Group, size_bytes: float) -> Iterator[Round]:
    """Three rings after each other. LayoutError unless all domains are of one size."""
    size = checked_bytes(size_bytes)
    inside, domains = group.even_domains("a hierarchical all-reduce")
    members = np.arange(group.ranks).reshape(domains, inside)
    shards = np.arange(group.ranks).reshape(inside, domains)
    firsts = np.broadcast_to(shards[:, 0], members.shape)
    yield from ring_reduce_scatter(members, firsts, size / inside, domains)
    yield from ring_reduce_scatter(members.T, shards, size / group.ranks)
    yield from ring_all_gather(members.T, shards, size / group.ranks)
    yield from ring_all_gather(members, firsts, size / inside, domains)
