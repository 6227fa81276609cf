"""The lines of a picture of a network: one for each pair of devices, wider with more bandwidth, coloured by kind.

Lines that share kind and width are one trace. Plotly shows what hovering tells only at points, so each kind has a trace
of invisible points at the middles of its lines. A line that would run through a device of its row is bent.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from math import hypot, log10
from typing import Any, NamedTuple

from parsim.report.topology_layout import Picture
from parsim.units import format_seconds

__all__ = ["line_traces", "link_name"]

_LINKS: Mapping[str, tuple[str, str]] = {
    "nvlink": ("NVLink", "#2c8a5f"),
    "pcie": ("PCIe", "#a9b0ba"),
    "cpu": ("between hosts", "#565d66"),
    "nic": ("NIC to switch", "#d9732b"),
    "fabric": ("fabric", "#8b6bb1"),
    "local": ("inside a group", "#b8a2d1"),
    "global": ("between groups", "#b63679"),
    "torus": ("between routers", "#8b6bb1"),
}
_OTHER_LINK = "#66717e"
_FAINT = 100  # crossing lines from which they are drawn faint
_MOST_LINES = 12_000
_POINTS = 17  # of a bent line
_CROSSING = ("fabric", "local", "global", "torus", "nic")


class _Line(NamedTuple):
    one: str
    other: str
    kind: str
    there: Mapping[str, Any]
    back: Mapping[str, Any] | None


def link_name(kind: str) -> str:
    """What people call a kind of link."""
    return _LINKS.get(kind, (kind, ""))[0]


def _lines(document: Mapping[str, Any], picture: Picture) -> list[_Line]:
    """One for each pair of drawn devices with a link; the widest kinds first, so that they lie below."""
    found: dict[tuple[str, str], _Line] = {}
    for link in document["links"]:
        one, other = link["source"], link["target"]
        drawn = one in picture.places and other in picture.places
        if not drawn or (link["kind"] == "torus" and picture.planes.get(one) != picture.planes.get(other)):
            continue
        if (other, one) in found:
            found[other, one] = found[other, one]._replace(back=link)
        else:
            found[one, other] = _Line(one, other, link["kind"], link, None)
    if (more := len(found) - _MOST_LINES) > 0:
        bottom = min(y for _, y in picture.places.values())
        picture.captions.append((0.0, bottom - 1.0, f"… {more} more links of the devices above"))
    return sorted(found.values(), key=lambda line: -line.there["bytes_per_s"])[:_MOST_LINES]


def line_traces(document: Mapping[str, Any], picture: Picture) -> list[dict[str, Any]]:
    """A trace of lines, and one of points to hover on, for each kind and width."""
    lines = _lines(document, picture)
    groups: dict[tuple[str, float], list[_Line]] = defaultdict(list)
    for line in lines:
        groups[line.kind, _width(line.there["bytes_per_s"])].append(line)
    of_kind, rows = Counter(line.kind for line in lines), _Rows(picture)
    traces: list[dict[str, Any]] = []
    named: set[str] = set()
    for (kind, width), held in groups.items():
        name, colour = _LINKS.get(kind, (kind, _OTHER_LINK))
        xs, ys = list[float | None](), list[float | None]()
        hover: list[tuple[float, float, str]] = []
        for line in held:
            path = _path(picture, rows, line)
            xs += [x for x, _ in path] + [None]
            ys += [y for _, y in path] + [None]
            hover.append((*_middle(path), _line_text(line, name)))
        traces.append(
            {
                "type": "scatter",  # WebGL's would need eval, which the page forbids
                "mode": "lines",
                "x": xs,
                "y": ys,
                "line": {"color": colour, "width": 0.6 * width if of_kind[kind] > _FAINT else width},
                "opacity": 0.4 if kind in _CROSSING and (of_kind[kind] > _FAINT or picture.square) else 0.75,
                "hoverinfo": "skip",
                "name": escape(name),
                "legendgroup": f"link {kind}",
                "showlegend": kind not in named,
                "meta": {"role": "links", "kind": kind},
            }
        )
        named.add(kind)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [x for x, _, _ in hover],
                "y": [y for _, y, _ in hover],
                "text": [text for *_, text in hover],
                "marker": {"size": 9, "color": colour, "opacity": 0},
                "hovertemplate": "%{text}<extra></extra>",
                "legendgroup": f"link {kind}",
                "showlegend": False,
                "meta": {"role": "points", "kind": kind},
            }
        )
    return traces


def _width(bytes_per_s: float) -> float:
    """Pixels: 1 at 10 GB/s and below, 2 more for each power of ten, at most 6; in steps, so that lines share traces."""
    return round(min(max(1 + 2 * (log10(max(bytes_per_s, 1.0)) - 10), 1.0), 6.0), 1)


class _Rows:
    """The devices of each row and column, so that no line runs through one."""

    def __init__(self, picture: Picture) -> None:
        self._across: dict[float, list[float]] = defaultdict(list)
        self._along: dict[float, list[float]] = defaultdict(list)
        for x, y in sorted(picture.places.values()):
            self._across[round(y, 6)].append(x)
        for x, y in sorted(picture.places.values(), key=lambda place: place[1]):
            self._along[round(x, 6)].append(y)

    def between(self, one: tuple[float, float], other: tuple[float, float]) -> bool:
        """Whether a device stands between two places of one row or column."""
        for axis, held in ((1, self._across), (0, self._along)):
            if abs(one[axis] - other[axis]) < 1e-6:
                low, high = sorted((one[1 - axis], other[1 - axis]))
                row = held[round(one[axis], 6)]
                if bisect_left(row, high - 1e-6) > bisect_right(row, low + 1e-6):
                    return True
        return False


def _path(picture: Picture, rows: _Rows, line: _Line) -> list[tuple[float, float]]:
    """Straight, but bent where it would run through another device."""
    (x0, y0), (x1, y1) = picture.places[line.one], picture.places[line.other]
    if not rows.between((x0, y0), (x1, y1)):
        return [(x0, y0), (x1, y1)]
    apart = hypot(x1 - x0, y1 - y0)
    bow = min(0.1 * apart + 0.1, 0.9)
    # Along a row they bend downwards, along a column to the left.
    right, up = (0.0, -bow) if abs(y1 - y0) < 1e-9 else (-bow, 0.0)
    shares = (point / (_POINTS - 1) for point in range(_POINTS))
    return [(x0 + t * (x1 - x0) + 4 * t * (1 - t) * right, y0 + t * (y1 - y0) + 4 * t * (1 - t) * up) for t in shares]


def _middle(path: Sequence[tuple[float, float]]) -> tuple[float, float]:
    if len(path) > 2:
        return path[len(path) // 2]
    (x0, y0), (x1, y1) = path
    return (x0 + x1) / 2, (y0 + y1) / 2


def _line_text(line: _Line, name: str) -> str:
    text = f"<b>{escape(line.one)} – {escape(line.other)}</b><br>{escape(name)}: {_rate_text(line.there)}"
    if line.back is None:
        return text + "<br>this way only"
    if (line.back["bytes_per_s"], line.back["latency_s"]) != (line.there["bytes_per_s"], line.there["latency_s"]):
        return text + f"<br>back: {_rate_text(line.back)}"
    return text + " each way"


def _rate_text(link: Mapping[str, Any]) -> str:
    return f"{link['bytes_per_s'] / 1e9:,.4g} GB/s, {format_seconds(link['latency_s'])}"
