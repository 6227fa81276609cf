"""Link: one direction of a cable between two devices, with its rate in bytes/s and its latency in seconds."""

from typing import NamedTuple

__all__ = ["INSIDE", "Link", "both_ways"]

INSIDE = frozenset({"gpu", "nvswitch", "pcie", "host", "nic"})
"""Kinds of devices that belong to nodes; all others are switches of the fabric."""


class Link(NamedTuple):
    """One direction of a cable."""

    source: str
    target: str
    bytes_per_s: float
    latency_s: float
    kind: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def both_ways(one: str, other: str, bytes_per_s: float, latency_s: float, kind: str) -> tuple[Link, Link]:
    """The two directions of a cable, alike."""
    return Link(one, other, bytes_per_s, latency_s, kind), Link(other, one, bytes_per_s, latency_s, kind)
