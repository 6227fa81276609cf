"""Model: NCCL's own estimate of a collective, for every algorithm and protocol, and the choice that NCCL makes.

    seconds = latency + bytes / algbw            bytes as nccl-tests counts them: the large side of a gather or scatter

With R ranks on N nodes (NVLink domains) of g = R/N, `steps` 2(R-1) for an all-reduce, R-1 for a gather or scatter:

- ring: bus = channels * speed; LL min(cap, bus/2), LL128 min(0.92 bus, channels * cap); algbw = bus * R / steps.
  latency = base + (steps - inter steps) * max(intra, overhead of a message) + inter steps * inter.
- tree (all-reduce): bus = min(0.92 channels * speed, channels * cap), LL / 3.8, LL128 * 7/9 or * 120/128, * 0.85 on
  Hopper and later, times a correction by size; algbw = bus / 2. latency = base + 2 ((g-1) intra + log2(N) inter).
- NVLS: bus = heads * speed * efficiency * (heads-1)/heads, doubled for an all-reduce, else * (g-1)/g; NVLSTree also at
  most the NIC of each head (twice that on two nodes) and a cap. latency = intra + 2 log2(N) inter.
- collnet (SHARP; only when asked for): as NVLS inside a node, each head's NIC once.

Speeds are those inside a node for N <= 2, else those across. Source: NCCL src/graph/tuning.cc (ncclTopoTuneModel,
ncclTopoGetAlgoTime), as facts; the constants stand in topologies/nccl.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from parsim.errors import LayoutError
from parsim.network.nccl.search import GIGA, Channels, Search, search
from parsim.network.reach import Reach
from parsim.spec.nccl import NcclAlgorithm, NcclConstants

__all__ = ["PROTOCOLS", "Choice", "Kind", "Protocol", "Term", "channels_used", "choose", "terms"]

Kind = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast"]
Protocol = Literal["LL", "LL128", "Simple"]
PROTOCOLS: tuple[Protocol, ...] = ("LL", "LL128", "Simple")
_LL, _LL128, _SIMPLE = range(3)
_MICRO = 1e-6


class Term(NamedTuple):
    """One algorithm and protocol: seconds = latency_s + bytes / bytes_per_s.

    `network_bytes_per_s` is the most that the NICs of a domain would let through; infinite on one domain.
    """

    latency_s: float
    bytes_per_s: float
    channels: int
    network_bytes_per_s: float = math.inf

    def seconds(self, size_bytes: float) -> float:
        """What NCCL expects it to take."""
        return self.latency_s + size_bytes / self.bytes_per_s


Choice = tuple[NcclAlgorithm, Protocol]


def terms(
    kind: Kind,
    size_bytes: float,
    reach: Reach,
    constants: NcclConstants,
    *,
    collnet: bool = False,
    rounded: bool = True,
) -> Mapping[Choice, Term]:
    """Every algorithm and protocol that could play the collective; at least two ranks.

    As NCCL expects them; not `rounded`, at the rates that the links have (see `search`).
    LL128 needs NVLink inside a node and, across nodes, a NIC on each GPU's PCIe switch.
    """
    found = search(reach, constants, rounded=rounded)
    result: dict[Choice, Term] = {}
    ll128 = bool(reach.nvlink_bytes_per_s) and (reach.domains == 1 or reach.nic_is_close)
    for index, protocol in enumerate(PROTOCOLS):
        if index == _LL128 and not ll128:
            continue
        result["ring", protocol] = _ring(kind, size_bytes, reach, constants, found.ring, index)
        if kind == "all_reduce":
            result["tree", protocol] = _tree(size_bytes, reach, constants, found.tree, index)
    if found.nvls is not None and kind != "broadcast":
        if reach.domains == 1:
            result["nvls", "Simple"] = _nvls(kind, reach, constants, found.nvls)
        elif kind == "all_reduce":
            result["nvls_tree", "Simple"] = _nvls_tree(reach, constants, found.nvls)
    if collnet and reach.domains > 1 and kind == "all_reduce":
        result["collnet", "Simple"] = _collnet(reach, constants, found)
    return result


def choose(
    size_bytes: float, found: Mapping[Choice, Term], algorithm: str | None = None, protocol: str | None = None
) -> Choice:
    """The fastest pair by NCCL's own estimate; `algorithm` and `protocol` narrow it, as NCCL_ALGO and NCCL_PROTO do.

    LayoutError names the pairs that there are when none is left.
    """
    left = {
        pair: term
        for pair, term in found.items()
        if (algorithm is None or pair[0] == algorithm) and (protocol is None or pair[1] == protocol)
    }
    if not left:
        asked = " ".join(filter(None, (algorithm, protocol)))
        known = ", ".join(f"{a} {p}" for a, p in found)
        raise LayoutError(f"{asked}: not possible for this collective on these links; possible are {known}")
    return min(left, key=lambda pair: left[pair].seconds(size_bytes))


def channels_used(size_bytes: float, pair: Choice, term: Term, constants: NcclConstants) -> int:
    """Channels that are left: one is dropped at a time while they have too few bytes a thread."""
    index = PROTOCOLS.index(pair[1])
    least = constants.threads[index] * constants.thread_threshold_bytes[index]
    return max(1, min(term.channels, int(size_bytes / least))) if size_bytes < term.channels * least else term.channels


def _by_nodes(reach: Reach) -> int:
    return min(reach.domains, 3) - 1


def _speed(reach: Reach, channels: Channels) -> float:
    return channels.intra if reach.domains <= 2 else channels.inter


def _steps(kind: Kind, places: int) -> int:
    return {"all_reduce": 2 * (places - 1), "broadcast": places}.get(kind, places - 1)


def _inside_step(reach: Reach, constants: NcclConstants, algorithm: NcclAlgorithm, index: int) -> float:
    link = constants.step_latency_us["nvlink" if reach.nvlink_bytes_per_s else "pcie"]
    return link[algorithm][index]


def _ring(
    kind: Kind, size_bytes: float, reach: Reach, constants: NcclConstants, channels: Channels, index: int
) -> Term:
    generation = constants.generation(reach.compute_capability or 0)
    bus, nodes = channels.number * _speed(reach, channels), _by_nodes(reach)
    if index == _LL:
        bus = min(generation.ll_max[nodes], bus / 2)
    elif index == _LL128:
        bus = min(0.92 * bus, channels.number * generation.ring_ll128_per_channel[nodes])
    intra = _inside_step(reach, constants, "ring", index)
    inter = constants.step_latency_us["net"]["tree" if reach.per_domain <= 1 else "ring"][index]
    steps, across = _steps(kind, reach.ranks), _steps(kind, reach.domains) if reach.domains > 1 else 0
    base = constants.base_latency_us["ring"][index]
    if kind == "broadcast":  # a pipeline through equal channels: NCCL counts one step
        latency = base + (inter if reach.domains > 1 else intra)
    else:
        if reach.domains > 1:
            intra = max(intra, constants.net_overhead_us[reach.host] * (3 if index == _SIMPLE else 1))
        latency = base + (steps - across) * intra + across * inter
        part = size_bytes / (channels.number * reach.ranks)
        if kind == "all_reduce" and index == _SIMPLE and reach.domains > 1 and part >= constants.ring_plateau_bytes:
            latency *= constants.ring_plateau
    rate = GIGA * reach.ranks / steps
    network = channels.number * channels.inter * rate if reach.domains > 1 else math.inf
    return Term(latency * _MICRO, bus * rate, channels.number, network)


def _tree(size_bytes: float, reach: Reach, constants: NcclConstants, channels: Channels, index: int) -> Term:
    generation = constants.generation(reach.compute_capability or 0)
    nodes = _by_nodes(reach)
    bus = min(0.92 * channels.number * _speed(reach, channels), channels.number * generation.tree_per_channel[nodes])
    if index == _LL:
        bus = min(bus / 3.8, generation.ll_max[nodes])
    elif index == _LL128:
        share = 7 / 9 if reach.domains == 1 else 120 / 128
        bus = min(bus * share, channels.number * generation.tree_ll128_per_channel[nodes])
    if (reach.compute_capability or 0) >= 90:
        bus *= 0.85  # the plain tree pattern
    correction = constants.tree_correction[index]
    place = math.floor(math.log2(size_bytes / 64)) if size_bytes >= 64 else -1
    if 0 <= place < len(correction):
        bus *= correction[place]
    steps = constants.step_latency_us["net"]["tree"][index]
    intra = _inside_step(reach, constants, "tree", index)
    latency = constants.base_latency_us["tree"][index]
    latency += 2 * ((reach.per_domain - 1) * intra + math.floor(math.log2(reach.domains)) * steps)
    network = channels.number * channels.inter * GIGA * {1: math.inf, 2: 1.0}.get(reach.domains, 0.5)
    return Term(latency * _MICRO, bus * GIGA / 2, channels.number, network)


def _inside_nvls(kind: Kind, reach: Reach, constants: NcclConstants, heads: Channels) -> float:
    """What one head carries inside a node."""
    efficiency = constants.generation(reach.compute_capability or 0).nvls_efficiency
    intra = heads.intra * efficiency * (heads.number - 1) / heads.number
    return intra * (2 if kind == "all_reduce" else (reach.per_domain - 1) / reach.per_domain)


def _nvls(kind: Kind, reach: Reach, constants: NcclConstants, heads: Channels) -> Term:
    bus = heads.number * _inside_nvls(kind, reach, constants, heads)
    latency = constants.step_latency_us["nvlink"]["nvls"][_SIMPLE]
    return Term(latency * _MICRO, bus * GIGA * reach.ranks / _steps(kind, reach.ranks), heads.number)


def _nvls_tree(reach: Reach, constants: NcclConstants, heads: Channels) -> Term:
    generation = constants.generation(reach.compute_capability or 0)
    inter = heads.inter * (2 if reach.domains <= 2 else 1)
    cap = generation.nvls_tree_per_channel[_by_nodes(reach)]
    bus = heads.number * min(_inside_nvls("all_reduce", reach, constants, heads), inter, cap)
    steps = constants.step_latency_us
    latency = steps["nvlink"]["nvls_tree"][_SIMPLE]
    latency += 2 * math.floor(math.log2(reach.domains)) * steps["net"]["nvls_tree"][_SIMPLE]
    rate = GIGA * reach.ranks / _steps("all_reduce", reach.ranks)
    return Term(latency * _MICRO, bus * rate, heads.number, heads.number * inter * rate)


def _collnet(reach: Reach, constants: NcclConstants, found: Search) -> Term:
    heads = found.nvls or found.ring
    inside = _inside_nvls("all_reduce", reach, constants, heads) if found.nvls else heads.intra
    bus = heads.number * min(inside, heads.inter)
    steps = constants.step_latency_us
    latency = steps["nvlink"]["nvls" if found.nvls else "collnet"][_SIMPLE] + steps["net"]["collnet"][_SIMPLE]
    rate = GIGA * reach.ranks / _steps("all_reduce", reach.ranks)
    return Term(latency * _MICRO, bus * rate, heads.number, heads.number * heads.inter * rate)
