"""htsim's fat-tree files: tiers of switches over hosts, as text and as a network.

    Nodes 8            hosts, here a GPU each
    Tiers 3            2 or 3
    Podsize 4          hosts below the switches of one pod
    Tier 0
    Downlink_speed_Gbps 200     of a link of this tier's switches downwards, one direction
    Radix_Down 2                links of a switch downwards; Radix_Up upwards, missing in the last tier
    Downlink_Latency_ns 1000
    Bundle 1                    links that a switch has to each switch of the tier below

Tier 0 are the switches that hosts hang from. A switch of tier i is linked by `Bundle` of tier i+1 links to each switch
above it, so its pod has Radix_Up / Bundle switches of that tier. Links between the same two switches are one here, with
the sum of the rates. Source: htsim's fat_tree_topology.
"""

import re
from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError
from parsim.network.graph import Link, Network, both_ways

__all__ = ["HtsimTier", "HtsimTree", "htsim_network", "is_htsim", "read_htsim"]

_KEYS = {"Nodes", "Tiers", "Podsize", "Tier"}
_TIER_KEYS = {
    "Downlink_speed_Gbps",
    "Radix_Down",
    "Radix_Up",
    "Downlink_Latency_ns",
    "Bundle",
    "Oversubscribed",
    "Queue_Down",
    "Queue_Up",
    "Switch_Latency_ns",
}
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?\Z")
_MOST_NODES = 65_536
_KINDS = ("leaf", "spine", "core")


@dataclass(frozen=True)
class HtsimTier:
    """Switches of one tier; rates of one link downwards, bytes/s and seconds (with the switch's own latency)."""

    bytes_per_s: float
    latency_s: float
    down: int
    up: int
    bundle: int


@dataclass(frozen=True)
class HtsimTree:
    """A whole file."""

    nodes: int
    podsize: int
    tiers: tuple[HtsimTier, ...]


def is_htsim(text: str) -> bool:
    """Whether a text is such a file, by its keys."""
    return all(re.search(rf"^\s*{key}\s+\d", text[:65536], re.MULTILINE) for key in ("Nodes", "Tiers", "Tier"))


def read_htsim(text: str) -> HtsimTree:
    """The tree of a file.

    Raises SpecError: an unknown or missing key, a number that cannot be, radixes that do not fit together.
    """
    sections: list[dict[str, float]] = [{}]
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _NUMBER.match(words[1]):
            raise SpecError(f"line {number}: {raw.strip()[:60]!r} is not a key and a number")
        key, value = words[0], float(words[1])
        if key == "Tier":
            if value != len(sections) - 1:
                raise SpecError(f"line {number}: Tier {words[1]}, Tier {len(sections) - 1} comes next")
            sections.append({})
            continue
        known = _TIER_KEYS if len(sections) > 1 else _KEYS
        if key not in known or key in sections[-1]:
            what = "stands twice" if key in sections[-1] else f"is not one of {', '.join(sorted(known))}"
            raise SpecError(f"line {number}: {key[:40]} {what}")
        sections[-1][key] = value
    head = sections[0]
    tiers = tuple(_tier(index, section, len(sections) - 1) for index, section in enumerate(sections[1:]))
    nodes, count, podsize = (_whole(head, key, "the file") for key in ("Nodes", "Tiers", "Podsize"))
    if count != len(tiers) or count not in (2, 3):
        raise SpecError(f"Tiers {count}: the file describes {len(tiers)}; 2 or 3 can be")
    tree = HtsimTree(nodes, podsize, tiers)
    _check(tree)
    return tree


def _tier(index: int, section: dict[str, float], tiers: int) -> HtsimTier:
    where = f"tier {index}"
    if section.get("Downlink_speed_Gbps", 0.0) <= 0:
        raise SpecError(f"{where}: Downlink_speed_Gbps is missing or 0")
    latency = section.get("Downlink_Latency_ns", 0.0) + section.get("Switch_Latency_ns", 0.0)
    return HtsimTier(
        section["Downlink_speed_Gbps"] * 1e9 / 8,
        latency * 1e-9,
        _whole(section, "Radix_Down", where),
        _whole(section, "Radix_Up", where) if index < tiers - 1 else 0,
        _whole(section, "Bundle", where) if "Bundle" in section else 1,
    )


def _whole(section: dict[str, float], key: str, where: str) -> int:
    value = section.get(key)
    if value is None:
        raise SpecError(f"{where}: {key} is missing")
    if not value.is_integer() or not 1 <= value <= _MOST_NODES:
        raise SpecError(f"{where}: {key} {value:g} must be a whole number from 1 to {_MOST_NODES}")
    return int(value)


def _check(tree: HtsimTree) -> None:
    leaf = tree.tiers[0].down
    for value, part, what in (
        (tree.nodes, tree.podsize, "Nodes {} is no multiple of Podsize {}"),
        (tree.podsize, leaf, "Podsize {} is no multiple of Radix_Down {} of tier 0"),
        (tree.tiers[0].up, tree.tiers[1].bundle, "Radix_Up {} of tier 0 is no multiple of Bundle {} of tier 1"),
    ):
        if value % part:
            raise SpecError(what.format(value, part) + f"; {-(-value // part) * part} would do")
    if len(tree.tiers) == 3 and tree.tiers[1].up % tree.tiers[2].bundle:
        raise SpecError(
            f"Radix_Up {tree.tiers[1].up} of tier 1 is no multiple of Bundle {tree.tiers[2].bundle} of tier 2"
        )
    if len(tree.tiers) == 2 and tree.podsize != tree.nodes:
        raise SpecError(f"Podsize {tree.podsize}: with 2 tiers all {tree.nodes} Nodes are one pod")


def htsim_network(tree: HtsimTree, name: str = "htsim") -> Network:
    """The network of a tree; rank r is host r."""
    devices: dict[str, dict[str, Any]] = {}
    links: list[Link] = []
    tiers = tree.tiers
    leaves_of_pod, above = tree.podsize // tiers[0].down, tiers[0].up // tiers[1].bundle
    for rank in range(tree.nodes):
        leaf = rank // tiers[0].down
        devices[f"gpu{rank}"] = {"kind": "gpu", "rank": rank, "node": rank, "domain": rank}
        devices.setdefault(f"leaf{leaf}", {"kind": "leaf", "tier": 0, "group": rank // tree.podsize})
        links += both_ways(f"gpu{rank}", f"leaf{leaf}", tiers[0].bytes_per_s, tiers[0].latency_s, "nic")
    for pod in range(tree.nodes // tree.podsize):
        for place in range(above):
            spine = f"spine{pod}.{place}"
            devices[spine] = {"kind": "spine", "tier": 1, "group": pod}
            rate = tiers[1].bundle * tiers[1].bytes_per_s
            for leaf in range(pod * leaves_of_pod, (pod + 1) * leaves_of_pod):
                links += both_ways(f"leaf{leaf}", spine, rate, tiers[1].latency_s, "fabric")
            if len(tiers) == 3:
                each = tiers[1].up // tiers[2].bundle
                for port in range(each):
                    core = f"core{place * each + port}"
                    devices.setdefault(core, {"kind": "core", "tier": 2})
                    core_rate = tiers[2].bundle * tiers[2].bytes_per_s
                    links += both_ways(spine, core, core_rate, tiers[2].latency_s, "fabric")
    return Network.of(name, devices, links, topology="htsim")
