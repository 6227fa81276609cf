"""Where the devices of a network stand in its picture: layers from GPUs up to cores, or a map of a direct fabric.

Servers stand side by side, each with its NVSwitch at the bottom, its GPUs, PCIe switches, hosts and NICs above, and
the switches of the fabric in layers over all of them. Of many servers a few are drawn, of a wide layer a part; captions
say how many more there are. A dragonfly's groups are circles on a circle, a torus is a grid; beside either stands the
inside of one server. Coordinates are in units of one GPU's width. Works on `Network.document()`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, cos, isqrt, pi, sin
from typing import Any

__all__ = ["Box", "Picture", "arrange"]

_INSIDE_ROWS = {"nvswitch": 0.0, "gpu": 1.1, "pcie": 2.1, "host": 3.0, "nic": 3.8}
_FABRIC_ROWS = {"leaf": 5.2, "router": 5.2, "spine": 6.8, "core": 8.4}
_PLURAL = {"leaf": "leaves", "router": "routers", "spine": "spines", "core": "cores"}
_FABRIC_STEP = 1.6
_MOST_SERVERS, _MOST_GPUS, _ROOM_GPUS = 16, 128, 64
_MOST_IN_LAYER, _MOST_IN_SERVER, _MOST_ON_RING = 20, 96, 256
_MOST_GROUPS, _MOST_ROUTERS = 24, 1024


@dataclass(frozen=True)
class Box:
    """A frame around devices, with a label at its lower edge; `round` is a circle."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    round: bool = False


@dataclass
class Picture:
    """Places by device name; devices without one are not drawn. `captions` are (x, y, text)."""

    places: dict[str, tuple[float, float]] = field(default_factory=dict)
    boxes: list[Box] = field(default_factory=list)
    captions: list[tuple[float, float, str]] = field(default_factory=list)
    servers: int = 0
    shown_servers: int = 0
    planes: dict[str, int] = field(default_factory=dict)
    """The plane of a torus that a router is drawn in; links between planes are not drawn."""
    square: bool = False
    """Whether x and y must have one scale."""


class _Devices:
    """A document's devices and neighbours, by name and server."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.by_name: dict[str, Mapping[str, Any]] = {each["name"]: each for each in document["devices"]}
        self.near: dict[str, list[str]] = {name: [] for name in self.by_name}
        for link in document["links"]:
            self.near[link["source"]].append(link["target"])
        servers: dict[int, list[str]] = defaultdict(list)
        for name, device in self.by_name.items():
            if device["kind"] in _INSIDE_ROWS and "node" in device:
                servers[device["node"]].append(name)
        self.servers = dict(sorted(servers.items()))

    def kind(self, name: str) -> str:
        return str(self.by_name[name]["kind"])

    def of_kind(self, names: Iterable[str], kind: str) -> list[str]:
        return [name for name in names if self.kind(name) == kind]


def arrange(document: Mapping[str, Any]) -> Picture:
    """Places for what is drawn of a network."""
    devices = _Devices(document)
    picture = Picture(servers=len(devices.servers))
    routers = devices.of_kind(devices.by_name, "router")
    alone = len(devices.servers) <= 1
    if any("at" in devices.by_name[name] for name in routers):
        _beside(picture, devices, _grid(picture, devices, routers))
    elif any("group" in devices.by_name[name] for name in routers):
        _beside(picture, devices, _circles(picture, devices, routers))
    elif 2 < len(devices.by_name) == len(devices.of_kind(devices.by_name, "gpu")) <= _MOST_ON_RING and alone:
        _ring(picture, list(devices.by_name))
    else:
        _layers(picture, devices)
    return picture


def _layers(picture: Picture, devices: _Devices) -> None:
    shown = _chosen(devices)
    picture.shown_servers = len(shown)
    left, gap = 0.0, 1.0
    for place, server in enumerate(shown):
        if place and server != shown[place - 1] + 1 and len(shown) < picture.servers:
            picture.captions.append((left + 1.0, _INSIDE_ROWS["pcie"], _rest(devices, shown)))
            left += 3.0
        left = _server(picture, devices, devices.servers[server], left, f"node {server}") + gap
    if not shown:
        loose = [name for name in devices.by_name if devices.kind(name) in _INSIDE_ROWS]
        left = _server(picture, devices, loose, left, "")
    _nvswitches(picture, devices)
    _fabric(picture, devices, max(left - gap, 1.0))


def _rest(devices: _Devices, shown: Sequence[int]) -> str:
    """What stands where servers are left out; "alike" where they hold as many of every kind."""
    held = {frozenset(Counter(map(devices.kind, names)).items()) for names in devices.servers.values()}
    words = ["…", f"and {len(devices.servers) - len(shown)}", "more", *(["alike"] if len(held) == 1 else [])]
    return "<br>".join(words)


def _chosen(devices: _Devices) -> list[int]:
    """The servers that are drawn: all, or the first few and the last."""
    numbers = list(devices.servers)
    largest = max((len(devices.of_kind(names, "gpu")) for names in devices.servers.values()), default=1)
    if len(numbers) <= _MOST_SERVERS and len(numbers) * largest <= _MOST_GPUS:
        return numbers
    room = min(max(_ROOM_GPUS // max(largest, 1), 2), 8)
    return numbers if len(numbers) <= room else [*numbers[: room - 1], numbers[-1]]


def _server(picture: Picture, devices: _Devices, names: Sequence[str], left: float, label: str) -> float:
    """Places one server from `left` on; its right edge."""
    whole = {kind: devices.of_kind(names, kind) for kind in _INSIDE_ROWS}
    rows = {kind: row[:_MOST_IN_SERVER] for kind, row in whole.items()}
    width = float(max([2, *(len(row) for kind, row in rows.items() if kind != "nvswitch")]))
    _spread(picture, rows["gpu"], left, width, _INSIDE_ROWS["gpu"])
    depth = _depths(devices, rows["pcie"])
    for level in sorted({depth[name] for name in rows["pcie"]}):
        row = [name for name in rows["pcie"] if depth[name] == level]
        height = _INSIDE_ROWS["pcie"] + 0.45 * level
        _spread(picture, _by_neighbours(picture, devices, row), left, width, height)
    for kind in ("host", "nic"):
        _spread(picture, _by_neighbours(picture, devices, rows[kind]), left, width, _INSIDE_ROWS[kind])
    for kind, row in rows.items():
        if more := len(whole[kind]) - len(row):
            picture.captions.append(
                (left + width / 2, _INSIDE_ROWS[kind] + 0.5, f"… {more} more of {len(whole[kind])}")
            )
    _nvswitches(picture, devices, names)
    heights = [picture.places[name][1] for name in names if name in picture.places]
    if heights and label:
        bottom, top = min(heights) - 0.45, max(heights) + 0.45
        if any(
            near in picture.places for gpu in rows["gpu"] for near in devices.of_kind(devices.near[gpu], "nvswitch")
        ):
            bottom = _INSIDE_ROWS["nvswitch"] - 0.45
        picture.boxes.append(Box(left - 0.35, bottom, left + width + 0.35, top, label))
    return left + width


def _depths(devices: _Devices, switches: Sequence[str]) -> dict[str, int]:
    """How many PCIe switches stand between one and the nearest GPU or NIC, at most 1."""
    low = {name for name in switches if any(devices.kind(near) in ("gpu", "nic") for near in devices.near[name])}
    return {name: 0 if name in low or not low else 1 for name in switches}


def _spread(picture: Picture, names: Sequence[str], left: float, width: float, height: float) -> None:
    for index, name in enumerate(names):
        picture.places[name] = (left + (index + 0.5) * width / len(names), height)


def _by_neighbours(picture: Picture, devices: _Devices, names: Sequence[str]) -> list[str]:
    """In the order of the mean place of what they are joined to below, those without any last."""

    def mean(name: str) -> tuple[float, int, str]:
        found = [picture.places[near][0] for near in devices.near[name] if near in picture.places]
        return sum(found) / len(found) if found else float("inf"), len(name), name

    return sorted(names, key=mean)


def _nvswitches(picture: Picture, devices: _Devices, within: Iterable[str] | None = None) -> None:
    """Below the middle of the GPUs that each joins; `within` a server only those that join nothing else."""
    inside = None if within is None else {*within}
    for name in devices.of_kind(devices.by_name, "nvswitch"):
        if name in picture.places or (inside is not None and not inside.issuperset(devices.near[name])):
            continue
        below = [picture.places[near][0] for near in devices.near[name] if near in picture.places]
        if below:
            picture.places[name] = ((min(below) + max(below)) / 2, _INSIDE_ROWS["nvswitch"])


def _fabric(picture: Picture, devices: _Devices, width: float) -> None:
    """The switches that what is drawn leads up to, layer by layer; of wide layers a part."""
    kinds = [kind for kind in dict.fromkeys(map(devices.kind, devices.by_name)) if kind not in _INSIDE_ROWS]
    rows: dict[float, list[str]] = defaultdict(list)
    for name, device in devices.by_name.items():
        if device["kind"] in kinds:
            height = _FABRIC_ROWS.get(device["kind"], max(_FABRIC_ROWS.values()) + _FABRIC_STEP)
            if device["kind"] == "core" and device.get("tier", 2) > 2:
                height += _FABRIC_STEP * (device["tier"] - 2)
            rows[height].append(name)
    for height in sorted(rows):
        reached = [name for name in rows[height] if any(near in picture.places for near in devices.near[name])]
        row = _by_neighbours(picture, devices, reached)
        drawn = row[:_MOST_IN_LAYER] if len(row) <= _MOST_IN_LAYER else row[:: ceil(len(row) / _MOST_IN_LAYER)]
        _spread(picture, drawn, 0.0, width, height)
        if more := len(rows[height]) - len(drawn):
            kind = _PLURAL.get(devices.kind(rows[height][0]), "devices")
            picture.captions.append((width + 0.6, height, f"… {more} more<br>of {len(rows[height])} {kind}"))


def _ring(picture: Picture, names: Sequence[str]) -> None:
    """GPUs that are joined directly, on a circle."""
    picture.square, picture.shown_servers = True, picture.servers
    for index, name in enumerate(names):
        angle = pi / 2 - 2 * pi * index / len(names)
        picture.places[name] = (5 * cos(angle), 5 * sin(angle))


def _circles(picture: Picture, devices: _Devices, routers: Sequence[str]) -> float:
    """A dragonfly: a circle for each group, on a circle. The right edge."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name in routers:
        groups[devices.by_name[name]["group"]].append(name)
    numbers = sorted(groups)[:_MOST_GROUPS]
    large = 6.0 if len(numbers) > 1 else 0.0
    small = min(large * sin(pi / len(numbers)) * 0.78, 2.4) if len(numbers) > 1 else 4.0
    for place, number in enumerate(numbers):
        around = pi / 2 - 2 * pi * place / len(numbers)
        x, y = large * cos(around), large * sin(around)
        for index, name in enumerate(groups[number]):
            angle = around + 2 * pi * index / len(groups[number])
            picture.places[name] = (x + small * 0.72 * cos(angle), y + small * 0.72 * sin(angle))
        picture.boxes.append(Box(x - small, y - small, x + small, y + small, f"group {number}", round=True))
    if more := len(groups) - len(numbers):
        picture.captions.append((0.0, 0.0, f"… {more} more groups"))
    return large + small


def _grid(picture: Picture, devices: _Devices, routers: Sequence[str]) -> float:
    """A torus: a grid of its first two dimensions for each place in the others. The right edge."""
    places = {name: tuple(devices.by_name[name]["at"]) for name in routers}
    sizes = [max(spot[axis] for spot in places.values()) + 1 for axis in range(len(next(iter(places.values()))))]
    if len(sizes) == 1 and sizes[0] > 2:
        for name, (index,) in places.items():
            angle = pi / 2 - 2 * pi * index / sizes[0]
            picture.places[name] = (5 * cos(angle), 5 * sin(angle))
        return 5.5
    wide, high = (*sizes, 1)[:2]
    planes = sorted({spot[2:] for spot in places.values()})
    drawn = planes[: max(_MOST_ROUTERS // (wide * high), 1)]
    across = max(isqrt(len(drawn)), 1)
    unit = 12.0 / max(across * (wide + 1), ceil(len(drawn) / across) * (high + 1))
    for name, spot in places.items():
        if spot[2:] not in drawn:
            continue
        column, row = drawn.index(spot[2:]) % across, drawn.index(spot[2:]) // across
        x = (column * (wide + 1) + spot[0]) * unit - 6
        y = 6 - (row * (high + 1) + (spot[1] if len(spot) > 1 else 0)) * unit
        picture.places[name] = (x, y)
        picture.planes[name] = drawn.index(spot[2:])
    if len(planes) > 1:
        told = f"planes of {wide} × {high}; each router is joined to its place in the next plane, not drawn"
        picture.captions.append((0.0, 6.9, told))
    if more := len(planes) - len(drawn):
        picture.captions.append((0.0, -6.6, f"… {more} more planes of {wide} × {high}"))
    return max(x for x, _ in picture.places.values()) + 0.5


def _beside(picture: Picture, devices: _Devices, edge: float) -> None:
    """The inside of one server to the right of the map of a direct fabric."""
    picture.square = True
    if not devices.servers:
        return
    number = next(iter(devices.servers))
    inside = Picture()
    names = devices.servers[number]
    width = _server(inside, devices, names, 0.0, f"inside node {number}, as all {picture.servers}")
    _nvswitches(inside, devices)
    scale = min(7.0 / width, 1.1)
    left, bottom = edge + 1.6, -2.2 * scale
    for name, (x, y) in inside.places.items():
        picture.places[name] = (left + x * scale, bottom + y * scale * 1.2)
    for box in inside.boxes:
        x0, x1 = (left + x * scale for x in (box.x0, box.x1))
        y0, y1 = (bottom + y * scale * 1.2 for y in (box.y0, box.y1))
        picture.boxes.append(Box(x0, y0, x1, y1, box.label))
    picture.shown_servers = 1
