"""Prices of collectives and messages: latency and bandwidth of the links between a group's ranks.

Which link carries a group follows from where its ranks stand: NVLink inside a domain, NICs across. Ring
algorithms on n ranks, for a tensor of S bytes (the input of a reduction, the output of a gather):

    all-reduce      2(n-1) steps, each rank sends 2S(n-1)/n
    reduce-scatter   (n-1) steps, each rank sends  S(n-1)/n       (all-gather the same)
    all-to-all       (n-1) steps, each rank sends  S(n-1)/n of the S bytes that it holds for all
    send                1 step,   S bytes

    time = call + hops * latency of a hop + bytes sent / bandwidth

An all-to-all is no ring: what goes to ranks of the same domain travels over NVLink, the rest over the rank's own NIC,
both at once, so it takes the longer of the two.

A group of n ranks on N domains has n - N hops inside and N - 1 across (n - 1 in all); its ring can use the NICs of
all its ranks in a domain, so bandwidth = min(nvlink, nic * ranks in a domain). Counted this way the latency is per
collective, not per step: an all-reduce's two halves are pipelined through the same hops.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parsim.axes.axis import CollectiveKind
from parsim.errors import LayoutError
from parsim.network.estimate import Correction, estimate
from parsim.network.reach import Reach

__all__ = ["Latency", "Links", "Path", "collective_seconds", "path_between", "ring_bytes", "ring_steps", "spread"]


@dataclass(frozen=True)
class Links:
    """What a rank can reach others over, one direction: `domain` ranks over NVLink, the rest over its NIC's share.

    Rates are effective (datasheet times the share that collectives reach); a rate of 0 is a link that is missing.
    """

    nvlink_bytes_per_s: float
    nic_bytes_per_s: float
    domain: int


class Latency(NamedTuple):
    """Seconds that do not depend on bytes: of a call, and of each hop inside a domain and across domains."""

    call_s: float = 0.0
    inside_s: float = 0.0
    across_s: float = 0.0


class Path(NamedTuple):
    """What a group talks over: `ranks` on `domains`, the rate at which each rank of a ring sends, and the seconds that
    the fabric's switches add to a step across domains.

    With `reach` and `correction`, what was measured on such links goes before the formula. `inside_bytes_per_s` and
    `across_bytes_per_s` are one rank's own links, which it exchanges over (0: those of the ring).
    """

    ranks: int
    domains: int
    bytes_per_s: float
    crossing_s: float = 0.0
    reach: Reach | None = None
    correction: Correction | None = None
    inside_bytes_per_s: float = 0.0
    across_bytes_per_s: float = 0.0


def spread(ranks: int, domain: int, node: int) -> int:
    """How many of a job's ranks share an NVLink domain when it is spread evenly over as few domains as hold it.

    Whole nodes of `node` ranks: 256 GPUs on domains of 72 are 4 times 64, not 72 + 72 + 72 + 40.
    """
    if ranks <= domain:
        return domain
    nodes, per_domain = -(-ranks // node), max(domain // node, 1)
    domains = -(-nodes // per_domain)
    return -(-nodes // domains) * node if domain >= node else domain


def path_between(ranks: Sequence[int], links: Links) -> Path:
    """The path of a group, given by its global ranks. LayoutError where it needs a link that is missing."""
    held = Counter(rank // links.domain for rank in ranks)
    inside = links.nvlink_bytes_per_s
    if len(ranks) > len(held) and inside <= 0:
        raise LayoutError(f"ranks {min(ranks)} to {max(ranks)} share a node that has no link between its GPUs")
    if len(held) == 1:
        return Path(len(ranks), 1, inside)
    across = links.nic_bytes_per_s * min(held.values())
    if across <= 0:
        raise LayoutError(f"ranks {min(ranks)} to {max(ranks)} are on {len(held)} nodes that have no NIC")
    return Path(len(ranks), len(held), min(inside, across) if len(ranks) > len(held) else across)


def ring_bytes(kind: CollectiveKind, size_bytes: float, ranks: int) -> float:
    """Bytes that each rank sends."""
    if kind == "send":
        return size_bytes
    return (2 if kind == "all_reduce" else 1) * size_bytes * (ranks - 1) / ranks


def ring_steps(kind: CollectiveKind, ranks: int) -> int:
    """Rounds of messages."""
    if kind == "send":
        return 1
    return (2 if kind == "all_reduce" else 1) * (ranks - 1)


def collective_seconds(
    kind: CollectiveKind, size_bytes: float, path: Path, latency: Latency, across_bytes: float | None = None
) -> float:
    """How long the collective takes when nothing else uses its links; nothing for a group of one rank.

    `across_bytes`: what of an all-to-all leaves the domain, where copies for several ranks there travel once.
    """
    if path.ranks == 1:
        return 0.0
    if path.correction is not None and path.reach is not None and size_bytes > 0 and across_bytes is None:
        measured = estimate(kind, size_bytes, path.reach, correction=path.correction)
        if measured.evidence == "calibrated":
            return measured.seconds
    across = path.domains - 1
    hops = latency.call_s + across * (latency.across_s + path.crossing_s) + (path.ranks - 1 - across) * latency.inside_s
    if kind == "all_to_all":
        return hops + _exchange_seconds(size_bytes, path, across_bytes)
    return hops + ring_bytes(kind, size_bytes, path.ranks) / path.bytes_per_s


def _exchange_seconds(size_bytes: float, path: Path, across_bytes: float | None) -> float:
    near = path.ranks / path.domains
    inside = size_bytes * (near - 1) / path.ranks / (path.inside_bytes_per_s or path.bytes_per_s)
    leaving = size_bytes * (path.ranks - near) / path.ranks if across_bytes is None else across_bytes
    return max(inside, leaving / (path.across_bytes_per_s or path.bytes_per_s) if path.domains > 1 else 0.0)
