"""ASTRA-sim's analytical network: dimensions, each a ring, a switch or all-to-all links, as YAML and back.

    topology: [ Switch, Ring ]      npus_count: [ 8, 4 ]
    bandwidth: [ 400, 50 ]          # GB/s (1e9) of a link, one direction
    latency: [ 936, 1000 ]          # ns of a link

Rank r has the coordinates (r % n0, r // n0 % n1, ...). GPUs that differ in one coordinate alone are joined by that
dimension:

    Ring            to the next and the previous, each link with the bandwidth; two GPUs have one link
    FullyConnected  each to each, each link with the bandwidth
    Switch          each to one switch, its link with the bandwidth; the latency is that of a link, so a message that
                    crosses the switch has it twice

So a GPU has bandwidth in every dimension (a Switch: 1 link, a Ring: 2, FullyConnected: n - 1). Source: ASTRA-sim's
analytical network, network/analytical, and its example files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite, prod
from typing import Any

from parsim.errors import SpecError
from parsim.network.graph import Link, Network, both_ways
from parsim.spec.yaml_reader import parse_yaml

__all__ = ["AstraDimension", "astra_network", "astra_text", "is_astra", "read_astra"]

_SHAPES = {"ring": "Ring", "switch": "Switch", "fullyconnected": "FullyConnected", "fully_connected": "FullyConnected"}
_MOST_GPUS, _MOST_LINKS = 65_536, 2_000_000


@dataclass(frozen=True)
class AstraDimension:
    """One dimension: `shape` is Ring, Switch or FullyConnected; of a link, one direction, bytes/s and seconds."""

    shape: str
    gpus: int
    bytes_per_s: float
    latency_s: float

    @property
    def links(self) -> int:
        """Links, counted once for both directions, of one group of the dimension."""
        if self.gpus == 1:
            return 0
        if self.shape == "FullyConnected":
            return self.gpus * (self.gpus - 1) // 2
        return 1 if self.shape == "Ring" and self.gpus == 2 else self.gpus


def is_astra(text: str) -> bool:
    """Whether a text is such a file, by its keys."""
    lines = text.splitlines()
    return all(any(line.startswith(key) for line in lines) for key in ("topology", "npus_count"))


def read_astra(text: str) -> tuple[AstraDimension, ...]:
    """The dimensions of a file, in order.

    Raises SpecError: not YAML, a key missing or of another length, an unknown shape, numbers that cannot be.
    """
    document = parse_yaml(text, "ASTRA-sim network")
    if not isinstance(document, dict):
        raise SpecError("ASTRA-sim network: a mapping with topology, npus_count, bandwidth and latency is needed")
    columns = {key: _column(document, key) for key in ("topology", "npus_count", "bandwidth", "latency")}
    dimensions = len(columns["topology"])
    for key, column in columns.items():
        if len(column) != dimensions or not column:
            raise SpecError(f"{key} has {len(column)} values, topology {dimensions}; each needs one a dimension")
    found = tuple(_dimension(index, *values) for index, values in enumerate(zip(*columns.values(), strict=True), 1))
    if prod(dimension.gpus for dimension in found) > _MOST_GPUS:
        raise SpecError(f"npus_count {columns['npus_count']}: at most {_MOST_GPUS} GPUs together")
    return found


def _column(document: dict[str, Any], key: str) -> list[Any]:
    if key not in document:
        raise SpecError(f"ASTRA-sim network: {key} is missing")
    value = document[key]
    return value if isinstance(value, list) else [value]


def _dimension(index: int, shape: object, gpus: object, bandwidth: object, latency: object) -> AstraDimension:
    where = f"dimension {index}"
    known = _SHAPES.get(shape.lower()) if isinstance(shape, str) else None
    if known is None:
        raise SpecError(f"{where}: topology {str(shape)[:40]!r} is not one of Ring, Switch, FullyConnected")
    if not isinstance(gpus, int) or isinstance(gpus, bool) or not 1 <= gpus <= _MOST_GPUS:
        raise SpecError(f"{where}: npus_count {str(gpus)[:40]} must be a whole number from 1 to {_MOST_GPUS}")
    numbers = []
    for name, value, least in (("bandwidth", bandwidth, "above 0"), ("latency", latency, "0 or more")):
        usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
        if not usable or (least == "above 0" and value == 0):
            raise SpecError(f"{where}: {name} {str(value)[:40]} must be a finite number {least}")
        assert isinstance(value, int | float)
        numbers.append(float(value))
    return AstraDimension(known, gpus, numbers[0] * 1e9, numbers[1] * 1e-9)


def astra_text(dimensions: Sequence[AstraDimension]) -> str:
    """The file of these dimensions, as `read_astra` reads it. SpecError: none, or a rate that is not finite."""
    if not dimensions or not all(isfinite(each.bytes_per_s) and isfinite(each.latency_s) for each in dimensions):
        raise SpecError("an ASTRA-sim network needs at least one dimension with finite rates")
    lines = (
        f"topology: [ {', '.join(each.shape for each in dimensions)} ]",
        f"npus_count: [ {', '.join(str(each.gpus) for each in dimensions)} ]  # GPUs",
        f"bandwidth: [ {', '.join(repr(each.bytes_per_s / 1e9) for each in dimensions)} ]  # GB/s",
        f"latency: [ {', '.join(repr(each.latency_s / 1e-9) for each in dimensions)} ]  # ns",
    )
    return "\n".join(lines) + "\n"


def astra_network(dimensions: Sequence[AstraDimension], name: str = "astra") -> Network:
    """The network of these dimensions: GPUs, and a switch for each group of a Switch dimension."""
    total = prod(each.gpus for each in dimensions)
    links_in_all = sum(each.links * (total // each.gpus) for each in dimensions)
    if links_in_all > _MOST_LINKS:
        raise SpecError(f"{links_in_all} links: at most {_MOST_LINKS}; a Switch instead of FullyConnected has fewer")
    first = dimensions[0].gpus
    devices: dict[str, dict[str, Any]] = {
        _gpu(rank): {"kind": "gpu", "rank": rank, "node": rank // first, "domain": rank // first}
        for rank in range(total)
    }
    links: list[Link] = []
    stride = 1
    for place, dimension in enumerate(dimensions):
        for start in (rank for rank in range(total) if rank // stride % dimension.gpus == 0):
            group = [_gpu(start + step * stride) for step in range(dimension.gpus)]
            links += _joined(group, dimension, place, start, devices)
        stride *= dimension.gpus
    merged = {(link.source, link.target): link for link in links}
    return Network.of(name, devices, merged.values(), topology="astra", dimensions=[each.gpus for each in dimensions])


def _gpu(rank: int) -> str:
    return f"gpu{rank}"


def _joined(
    group: Sequence[str], dimension: AstraDimension, place: int, start: int, devices: dict[str, dict[str, Any]]
) -> list[Link]:
    """The links of one group. The first dimension is taken to be NVLink, the others the fabric."""
    if len(group) == 1:
        return []
    inner = place == 0
    kind = "nvlink" if inner else "fabric"
    rate, latency = dimension.bytes_per_s, dimension.latency_s
    if dimension.shape == "Switch":
        switch = f"d{place}.switch{start}"
        devices[switch] = {"kind": "nvswitch" if inner else ("leaf", "spine", "core")[min(place, 3) - 1]}
        pairs = [(gpu, switch) for gpu in group]
    elif dimension.shape == "FullyConnected":
        pairs = list(combinations(group, 2))
    else:
        pairs = [(gpu, group[(index + 1) % len(group)]) for index, gpu in enumerate(group)]
        pairs = pairs[:1] if len(group) == 2 else pairs
    return [link for one, other in pairs for link in both_ways(one, other, rate, latency, kind)]
