"""tree: fat trees of switches over nodes, whole, on rails, or in planes.

Switches of tier 0 are leaves, of tier 1 spines, above that cores. A group of tier i holds `nodes` nodes:

    fat_tree        a leaf for each group of tier 0 takes all of its NICs; no more than it has ports (levels)
    rail_optimised  a leaf for each rail of a group; spines join all rails
    multi_plane     the same leaves, but each rail has switches of its own all the way up: planes are not joined
    single          one switch

NIC k of a node is on rail k modulo the number of rails. Above, each switch of a group reaches its own set of switches
of the next tier (a folded Clos), by as many links as its way up holds NICs, at most 32: wider ones are bundles.

    rate up = rate in from below / oversubscription

of the NICs that are there, for a group that is not full too. Where a group's way up holds fewer NICs than the group has
switches, only so many of its switches have one, so that no link is slower than a NIC as long as the whole is not.
A tier that spans all nodes is the last; one is added where the last does not. Without tiers nothing blocks.
"""

from collections import defaultdict
from typing import NamedTuple

from parsim.network.build.node import Nodes
from parsim.network.build.parts import Parts, switch_latency_s
from parsim.network.levels import levels_of
from parsim.spec.cluster import FabricSpec

__all__ = ["tree"]

_MOST_LINKS_UP = 32


class _Tier(NamedTuple):
    nodes: int
    oversubscription: float


class _Switch(NamedTuple):
    name: str
    bytes_per_s_in: float


def tree(parts: Parts, inside: Nodes, fabric: FabricSpec) -> None:
    """Adds the fabric over the NICs of these nodes."""
    rails = 1 if fabric.topology in ("fat_tree", "single") else min(fabric.rails, inside.nics)
    planes = range(rails) if fabric.topology == "multi_plane" else range(1)
    tiers = _tiers(fabric, inside, rails)
    for plane in planes:
        prefix = f"p{plane}." if len(planes) > 1 else ""
        within = range(plane, plane + 1) if len(planes) > 1 else range(rails)
        _grow(parts, inside, fabric, tiers, _leaves(parts, inside, fabric, tiers[0], within, rails, prefix), prefix)


def _tiers(fabric: FabricSpec, inside: Nodes, rails: int) -> list[_Tier]:
    """The tiers that are built, the last of which spans all nodes and, but for planes, all rails."""
    if fabric.topology == "single":
        return [_Tier(inside.count, 1.0)]
    tiers: list[_Tier] = []
    for level in levels_of(fabric, inside.nics):
        tiers.append(_Tier(level.nodes, level.oversubscription))
        if level.nodes >= inside.count:
            break
    joined = rails == 1 or fabric.topology == "multi_plane"
    if tiers[-1].nodes < inside.count or (len(tiers) == 1 and not joined):
        tiers.append(_Tier(max(inside.count, tiers[-1].nodes), 1.0))
    return tiers


def _leaves(
    parts: Parts, inside: Nodes, fabric: FabricSpec, tier: _Tier, within: range, rails: int, prefix: str
) -> dict[int, dict[tuple[int, ...], _Switch]]:
    """Switches of tier 0 by group and place; the NICs on these rails are joined to them."""
    found: dict[int, dict[tuple[int, ...], _Switch]] = defaultdict(dict)
    for node in range(inside.count):
        group = node // tier.nodes
        for place in range(inside.nics):
            rail = place % rails
            if rail not in within:
                continue
            many = len(within) > 1
            name = f"{prefix}leaf{group}" + (f".{rail}" if many else "")
            if (rail,) not in found[group]:
                found[group][rail,] = _Switch(parts.add(name, "leaf", tier=0, group=group, rail=rail), 0.0)
            held = found[group][rail,]
            found[group][rail,] = held._replace(bytes_per_s_in=held.bytes_per_s_in + inside.nic_bytes_per_s)
            nic = inside.nic(node, place)
            parts.devices[nic]["rail"] = rail
            parts.join(nic, name, inside.nic_bytes_per_s, inside.nic_latency_s, "nic")
    return found


def _grow(
    parts: Parts,
    inside: Nodes,
    fabric: FabricSpec,
    tiers: list[_Tier],
    below: dict[int, dict[tuple[int, ...], _Switch]],
    prefix: str,
) -> None:
    """Adds the tiers above the leaves, and the links between tiers."""
    latency = switch_latency_s(fabric)
    for level in range(1, len(tiers)):
        top = level == len(tiers) - 1
        above: dict[int, dict[tuple[int, ...], _Switch]] = defaultdict(dict)
        for group, switches in below.items():
            over = group * tiers[level - 1].nodes // tiers[level].nodes
            for place, links, rate in _ways_up(switches, tiers[level - 1], inside.nic_bytes_per_s, level):
                for port in range(links):
                    # A leaf of any rail reaches the same spines; above that each switch has a set of its own.
                    spot = (port,) if level == 1 else (*place, port)
                    if spot not in above[over]:
                        name = f"{prefix}{_kind(level)}" + ("" if top else f"{over}.") + ".".join(map(str, spot))
                        kind = "spine" if level == 1 else "core"
                        above[over][spot] = _Switch(parts.add(name, kind, tier=level, group=over), 0.0)
                    held = above[over][spot]
                    above[over][spot] = held._replace(bytes_per_s_in=held.bytes_per_s_in + rate)
                    parts.join(switches[place].name, held.name, rate, latency, "fabric")
        below = above


def _kind(level: int) -> str:
    return ("", "spine", "core")[level] if level < 3 else f"core{level}-"


def _ways_up(
    switches: dict[tuple[int, ...], _Switch], tier: _Tier, nic_bytes_per_s: float, level: int
) -> list[tuple[tuple[int, ...], int, float]]:
    """(place, links up, rate of each) of a group's switches that have a way up."""
    if level == 1:  # the rails of a group do not share their ways up
        ways = []
        for place, switch in switches.items():
            rate = switch.bytes_per_s_in / tier.oversubscription
            links = _links(rate, nic_bytes_per_s)
            ways.append((place, links, rate / links))
        return ways
    rate = sum(switch.bytes_per_s_in for switch in switches.values()) / tier.oversubscription
    holds = max(int(rate / nic_bytes_per_s + 1e-9), 1)
    using = sorted(switches)[: min(holds, len(switches))]
    links = _links(rate / len(using), nic_bytes_per_s)
    return [(place, links, rate / len(using) / links) for place in using]


def _links(bytes_per_s: float, nic_bytes_per_s: float) -> int:
    return min(max(int(bytes_per_s / nic_bytes_per_s + 1e-9), 1), _MOST_LINKS_UP)
