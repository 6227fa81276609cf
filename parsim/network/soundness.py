"""Soundness: what devices and links must be to make a network. LayoutError, one line, names the first that is not."""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from math import isfinite
from numbers import Real
from typing import Any

import networkx as nx

from parsim.errors import LayoutError
from parsim.network.link import Link

__all__ = ["check", "check_connected", "near_names", "reached", "short"]


def short(name: str) -> str:
    """A name as a message quotes it, however long it is."""
    return repr(name if len(name) <= 60 else f"{name[:57]}...")


def near_names(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing."""
    if len(name) > 60:
        return ""
    found = get_close_matches(name, list(known), 3, 0.6)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def check(name: str, devices: Mapping[str, Mapping[str, Any]], links: list[Link]) -> None:
    """LayoutError where a link or a device is not one."""
    ranks: dict[Any, str] = {}
    for device, attributes in devices.items():
        if "kind" not in attributes:
            raise LayoutError(f"network {name}: device {device} has no kind; gpu, nic or leaf would do")
        if attributes["kind"] == "gpu" and "rank" in attributes:
            other = ranks.setdefault(attributes["rank"], device)
            if other != device:
                raise LayoutError(f"network {name}: {other} and {device} are both rank {attributes['rank']}")
    if not any(attributes["kind"] == "gpu" for attributes in devices.values()):
        raise LayoutError(f"network {name} has no GPU: at least 1 device of kind gpu is needed")
    seen: set[tuple[str, str]] = set()
    for link in links:
        source, target, rate, latency, _ = link
        for end in (source, target):
            if end not in devices:
                raise LayoutError(f"network {name}: link {link} ends at unknown {end}{near_names(end, devices)}")
        if source == target:
            raise LayoutError(f"network {name}: link {link} joins a device to itself")
        if (source, target) in seen:
            raise LayoutError(f"network {name}: link {link} is there twice; one with the sum of the rates would do")
        if not (isinstance(rate, Real) and isfinite(rate) and rate > 0):
            raise LayoutError(f"network {name}: link {link} has {rate} bytes/s; above 0 and finite is needed")
        if not (isinstance(latency, Real) and isfinite(latency) and latency >= 0):
            raise LayoutError(f"network {name}: link {link} has latency {latency} s; from 0 up and finite is needed")
        seen.add((source, target))


def check_connected(name: str, graph: "nx.DiGraph[str]") -> None:
    """LayoutError that names two devices, the second of which the first cannot reach."""
    first = next(device for device in graph if graph.nodes[device]["kind"] == "gpu")
    for steps, there in ((graph.adj, True), (graph.pred, False)):
        missed = set(graph) - reached(first, steps.__getitem__)
        if missed:
            other = min(missed)
            source, target = (first, other) if there else (other, first)
            raise LayoutError(
                f"network {name} is in pieces: {source} cannot reach {target} ({len(missed)} of {len(graph)} devices)"
            )


def reached(start: str, steps: Callable[[str], Iterable[str]]) -> set[str]:
    """Everything that steps lead to from a device, itself included."""
    seen, waiting = {start}, [start]
    while waiting:
        for device in steps(waiting.pop()):
            if device not in seen:
                seen.add(device)
                waiting.append(device)
    return seen
