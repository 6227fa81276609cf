"""Prices of collectives and messages on the links of a run's groups.

Which link carries a group follows from where its ranks stand: NVLink inside a domain, NICs across. What NCCL plays as a
collective (all-reduce, reduce-scatter, all-gather) takes what level 0 says of it (estimate): NCCL's own choice, curves
of published measurements, a user's log before both. Messages and exchanges are not NCCL's collectives in training
runs: a message is a call and its bytes, and an exchange (all-to-all) is bounded by what stays in a domain over NVLink
and what leaves it over NICs, where copies for several ranks there may travel once.

    message   call + S / bandwidth
    exchange  call + max(S (g-1)/R / nvlink, S (R-g)/R / nic)      on R ranks, g of them in a domain
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from parsim.axes.axis import CollectiveKind
from parsim.errors import LayoutError
from parsim.network.estimate import Correction, estimate
from parsim.network.reach import Reach

__all__ = ["Links", "Path", "collective_seconds", "path_between", "ring_bytes", "ring_steps", "spread"]


@dataclass(frozen=True)
class Links:
    """What a rank can reach others over, one direction: `domain` ranks over NVLink, the rest over its NIC's share.

    Rates are effective (datasheet times the share that collectives reach); a rate of 0 is a link that is missing.
    """

    nvlink_bytes_per_s: float
    nic_bytes_per_s: float
    domain: int


class Path(NamedTuple):
    """What a group talks over: `ranks` on `domains`, and the rate at which each rank of a ring sends.

    `reach` is what NCCL sees of the group, `crossing_s` what the fabric's switches add to a step across domains;
    `inside_bytes_per_s` and `across_bytes_per_s` are one rank's own links, which it exchanges over (0: those of the
    ring).
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
    kind: CollectiveKind, size_bytes: float, path: Path, call_s: float = 0.0, across_bytes: float | None = None
) -> float:
    """How long the collective takes when nothing else uses its links; nothing for a group of one rank.

    `call_s` is what a message or an exchange costs beside its bytes. `across_bytes`: what of an exchange leaves the
    domain, where copies for several ranks there travel once.
    """
    if path.ranks == 1 or size_bytes <= 0:
        return 0.0
    if kind not in ("send", "all_to_all"):
        assert path.reach is not None, f"a path that {kind} is played over says what NCCL sees of it"
        return _played(kind, size_bytes, path.reach, path.correction) + (path.domains - 1) * path.crossing_s
    if path.correction is not None and path.reach is not None and across_bytes is None:
        measured = estimate(kind, size_bytes, path.reach, correction=path.correction)
        if measured.evidence == "calibrated":
            return measured.seconds
    if kind == "send":
        return call_s + size_bytes / path.bytes_per_s
    return call_s + _exchange_seconds(size_bytes, path, across_bytes)


@lru_cache(maxsize=65_536)
def _played(kind: CollectiveKind, size_bytes: float, reach: Reach, correction: Correction | None) -> float:
    return estimate(kind, size_bytes, reach, correction=correction).seconds


def _exchange_seconds(size_bytes: float, path: Path, across_bytes: float | None) -> float:
    near = path.ranks / path.domains
    inside = size_bytes * (near - 1) / path.ranks / (path.inside_bytes_per_s or path.bytes_per_s)
    leaving = size_bytes * (path.ranks - near) / path.ranks if across_bytes is None else across_bytes
    return max(inside, leaving / (path.across_bytes_per_s or path.bytes_per_s) if path.domains > 1 else 0.0)
