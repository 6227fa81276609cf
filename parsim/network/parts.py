"""Parts: what the time of a collective is made of, as amounts that a fabric's curves put a price on.

    seconds = sum of amount * curve(log2 bytes)  +  bytes / bandwidth * time per byte

- a ring of two is a `pair`: its bytes pass at the rate of one connection.
- ring: every step costs `ring_step` at the bytes of one message, S/R; a step across domains `ring_across` more.
- tree: `tree_level` for each of 2 log2(N) levels, `tree_inside` for each of 2 (g-1) steps inside a domain.
- NVLS: `nvls` once, and across domains `nvls_level` for each of 2 log2(N) levels.
- all-to-all: `peer` for each other rank, at the bytes of one message. send: `message` once.
- all but NVLS: `base` times NCCL's own base latency.

The amounts are NCCL's own (its model counts the same steps); the curves are fitted to published nccl-tests results.
"""

import math
from typing import NamedTuple

from parsim.network.nccl import PROTOCOLS, Choice, Term
from parsim.network.nccl.search import GIGA, nvlink_gbps
from parsim.network.reach import Reach
from parsim.spec.fabric_times import CurveName, FabricTimes, Way
from parsim.spec.nccl import NcclConstants

__all__ = ["Part", "Parts", "all_to_all_parts", "collective_parts", "message_parts", "seconds_of"]


class Part(NamedTuple):
    """`amount` times what a curve says at a size."""

    curve: CurveName
    log2_bytes: float
    amount: float


class Parts(NamedTuple):
    """Latency parts, and the seconds that the bytes alone take."""

    latency: tuple[Part, ...]
    way: Way
    bytes_s: float


def collective_parts(
    kind: str, size_bytes: float, reach: Reach, pair: Choice, term: Term, constants: NcclConstants
) -> Parts:
    """The parts of a collective that NCCL plays by `pair`; its bytes pass at `term`'s rate, or the network's share."""
    algorithm, protocol = pair
    ranks, domains = reach.ranks, reach.domains
    levels = 2 * max(1, math.floor(math.log2(domains))) if domains > 1 else 0
    size = math.log2(max(size_bytes, 1.0))
    rate = min(term.bytes_per_s, term.network_bytes_per_s * reach.share)
    base = Part("base", 0.0, constants.base_latency_us[algorithm][PROTOCOLS.index(protocol)])
    if algorithm == "ring":
        both = 2 if kind == "all_reduce" else 1
        message = math.log2(max(size_bytes / ranks, 1.0))
        latency = [base, Part("ring_step", message, both * (ranks - 1))]
        if domains > 1:
            latency.append(Part("ring_across", message, both * (domains - 1)))
    elif algorithm == "tree":
        latency = [base, Part("tree_inside", size, 2 * (reach.per_domain - 1))]
        if levels:
            latency.append(Part("tree_level", size, levels))
    else:
        latency = [Part("nvls", size, 1.0)]
        if levels:
            latency.append(Part("nvls_level", size, levels if algorithm == "nvls_tree" else 1.0))
    way: Way = "pair" if algorithm == "ring" and ranks == 2 else algorithm
    return Parts(tuple(latency), way, size_bytes / rate)


def all_to_all_parts(size_bytes: float, reach: Reach, constants: NcclConstants) -> Parts:
    """The parts of an all-to-all: each rank sends S/R to every other, those of its domain over NVLink, the rest over
    its share of the domain's NICs (with PXN by the NIC of the destination's rail):

        bytes: max(S (g-1)/R / nvlink, S (R-g)/R / (NICs' rate / g))

    Between two ranks it is a message each way, and passes at a message's rate.
    """
    ranks, inside = reach.ranks, reach.per_domain
    bytes_s = 0.0
    if inside > 1:
        generation = constants.generation(reach.compute_capability or 0)
        bytes_s = size_bytes * (inside - 1) / ranks / (nvlink_gbps(reach, generation) * GIGA)
    if reach.domains > 1:
        exchanged = reach.nics * reach.nic_bytes_per_s * reach.exchange_share
        bytes_s = max(bytes_s, size_bytes * (ranks - inside) / ranks / (exchanged / inside))
    message = math.log2(max(size_bytes / ranks, 1.0))
    latency = (Part("base", 0.0, _base_us(constants)), Part("peer", message, ranks - 1))
    return Parts(latency, "pairwise" if ranks > 2 else "send", bytes_s)


def message_parts(size_bytes: float, reach: Reach, constants: NcclConstants) -> Parts:
    """The parts of a message from one rank to another: over NVLink in a domain, else over one GPU's share of NICs."""
    if reach.domains > 1:
        rate = reach.across_bytes_per_s / reach.per_domain
    else:
        rate = nvlink_gbps(reach, constants.generation(reach.compute_capability or 0)) * GIGA
    latency = (Part("base", 0.0, _base_us(constants)), Part("message", math.log2(max(size_bytes, 1.0)), 1.0))
    return Parts(latency, "send", size_bytes / rate)


def _base_us(constants: NcclConstants) -> float:
    return constants.base_latency_us["ring"][PROTOCOLS.index("Simple")]


def seconds_of(parts: Parts, times: FabricTimes) -> float:
    """What the parts take on a class of links."""
    latency = sum(part.amount * times.curves[part.curve].at(part.log2_bytes) for part in parts.latency)
    return latency + parts.bytes_s * times.per_byte.get(parts.way, 1.0)
