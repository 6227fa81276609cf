"""Search: the channels that NCCL finds on a topology, by the rules of its graph search.

A channel is one ring (or tree) through all GPUs of a node, at a speed from a list; NCCL wants the most channels times
speed that the links carry (NCCL src/graph/search.cc, ncclTopoCompute).

- On one node: count * speed <= the NVLinks of a GPU, for speeds down to 0.49 of the fastest that fits.
- Across nodes: a NIC's rate rounded down to the list, a channel for each NIC, as long as the NVLinks carry them: a
  ring enters each GPU count * (g - 1)/g times over NVLink on g GPUs. A tree's speed inside the node then rises to
  twice that across (two nodes use it); the list's fastest that the NVLinks carry.
- NVLS: a head for each GPU of up to 8, else as many as the fastest speed fills; across nodes each head's NIC.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from parsim.network.reach import Reach
from parsim.spec.nccl import NcclConstants, NcclGeneration

__all__ = ["GIGA", "Channels", "Search", "nvlink_gbps", "search"]

GIGA = 1e9  # NCCL counts in GB/s of 1e9 bytes
_KEPT = 0.49  # NCCL stops trying speeds below this share of the best
_MOST_HEADS = 8
_OF_A_NIC = 48 / 50
_UNKNOWN_NVLINK = 0.8  # share of the data sheet's rate where the generation is not NVIDIA's


class Channels(NamedTuple):
    """Their number, and the speed of each inside a node and across nodes, GB/s."""

    number: int
    intra: float
    inter: float


@dataclass(frozen=True)
class Search:
    """What NCCL's search finds: rings, trees, and NVLS heads where the switch can reduce."""

    ring: Channels
    tree: Channels
    nvls: Channels | None


def nvlink_gbps(reach: Reach, generation: NcclGeneration) -> float:
    """What NCCL counts on between a GPU and its node, GB/s: links times its own rate of a link; PCIe without NVLink."""
    if not reach.nvlink_bytes_per_s:
        return reach.inside_bytes_per_s / GIGA
    if reach.compute_capability is None:
        return reach.nvlink_bytes_per_s / GIGA * _UNKNOWN_NVLINK
    links = round(reach.nvlink_bytes_per_s / GIGA / generation.nvlink_nominal_per_link)
    return max(links, 1) * generation.nvlink_per_link


@lru_cache(maxsize=4096)
def search(reach: Reach, constants: NcclConstants, *, rounded: bool = True) -> Search:
    """The channels of a group of at least two ranks: as NCCL's graph file says, else by its rules.

    NCCL rounds speeds down to its lists, and expects and chooses by them. What the links carry knows no lists: not
    `rounded`, channels share all of it (of a NIC as much as of those that the lists were made for, 48 of 50 GB/s).
    """
    found = _by_rule(reach, constants) if rounded else _by_links(reach, constants)
    known = {name: Channels(number, a / GIGA, b / GIGA) for name, number, a, b in reach.searched}
    return Search(known.get("ring", found.ring), known.get("tree", found.tree), known.get("nvls", found.nvls))


def _by_rule(reach: Reach, constants: NcclConstants) -> Search:
    generation = constants.generation(reach.compute_capability or min(constants.generations))
    inside = nvlink_gbps(reach, generation)
    if reach.fabric == "loopback":  # not NCCL: one connection at its own rate
        only = Channels(1, reach.across_bytes_per_s / GIGA, reach.across_bytes_per_s / GIGA)
        return Search(only, only, None)
    if reach.domains == 1:
        ring = _fill(inside, generation.speeds_intra, constants.max_channels)
        return Search(ring, ring, _heads(reach, inside, generation))
    gpus = max(reach.per_domain, 1.0)
    nic = reach.nic_bytes_per_s / GIGA
    speed = _floor(nic if gpus == 1 else min(nic, inside), generation.speeds_inter)
    most = max(1, int(inside / speed * gpus / (gpus - 1) + 1e-9)) if gpus > 1 else constants.max_channels
    count = min(max(1, reach.nics), most, constants.max_channels)
    intra = speed
    for candidate in sorted(s for s in generation.speeds_inter if s > speed):
        if gpus > 1 and count * candidate * (gpus - 1) / gpus > inside * (1 + 1e-9):
            break
        intra = candidate
        if candidate >= 2 * speed:
            break
    return Search(Channels(count, speed, speed), Channels(count, intra, speed), _heads(reach, inside, generation))


def _by_links(reach: Reach, constants: NcclConstants) -> Search:
    generation = constants.generation(reach.compute_capability or min(constants.generations))
    inside, listed = nvlink_gbps(reach, generation), _by_rule(reach, constants)
    if reach.fabric == "loopback":
        return listed
    number, heads = listed.ring.number, listed.nvls
    if reach.domains == 1:
        ring = Channels(number, inside / number, inside / number)
        return Search(ring, ring, heads and Channels(heads.number, inside / heads.number, 0.0))
    gpus, nic = max(reach.per_domain, 1.0), _OF_A_NIC * reach.nic_bytes_per_s / GIGA
    most = inside * gpus / (gpus - 1) if gpus > 1 else math.inf
    across = min(nic * min(reach.nics, constants.max_channels), most) / number
    tree = Channels(number, min(2 * across, most / number), across)
    if heads is not None:
        each = nic * min(1.0, reach.nics / heads.number)
        heads = Channels(heads.number, inside / heads.number, each)
    return Search(Channels(number, across, across), tree, heads)


def _fill(inside: float, speeds: Sequence[float], most: int) -> Channels:
    """The most count * speed of one node; links slower than the list are one channel at their own speed."""
    found: Channels | None = None
    for speed in speeds:
        if (count := min(int(inside / speed + 1e-9), most)) < 1:
            continue
        if found is not None and speed < _KEPT * found.intra:
            break
        if found is None or count * speed > found.number * found.intra:
            found = Channels(count, speed, speed)
    return found or Channels(1, inside, inside)


def _floor(value: float, speeds: Sequence[float]) -> float:
    return next((speed for speed in speeds if speed <= value * (1 + 1e-9)), value)


def _heads(reach: Reach, inside: float, generation: NcclGeneration) -> Channels | None:
    if not generation.nvls_efficiency or not reach.nvlink_bytes_per_s or reach.per_domain < 2:
        return None
    gpus = int(reach.per_domain)
    count = gpus if gpus <= _MOST_HEADS else int(inside / generation.speeds_intra[0])
    if count < 2:
        return None
    intra = _floor(inside / count, generation.speeds_intra)
    inter = _floor(reach.nic_bytes_per_s * min(1.0, reach.nics / count) / GIGA, generation.speeds_inter)
    return Channels(count, intra, inter)
