"""The picture of a network: devices in layers, links as wide as their bandwidth, everything told on hovering.

`topology_figure` draws `Network.document()`; `topology_table.topology_page` puts it on an offline page with tables.
Plotly is imported when a figure is made.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from math import hypot
from typing import TYPE_CHECKING, Any

from parsim.report.palette import GRID, INK, MUTED
from parsim.report.topology_layout import Box, Picture, arrange
from parsim.report.topology_lines import line_traces, link_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["topology_figure"]

_FONT = '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
_HEIGHT, _WIDTH = 780, 1360
_DEVICES: Mapping[str, tuple[str, str, str]] = {
    "gpu": ("GPU", "#2458a6", "square"),
    "nvswitch": ("NVSwitch", "#2c8a5f", "diamond-wide"),
    "pcie": ("PCIe switch", "#a9b0ba", "diamond"),
    "host": ("host bridge", "#565d66", "square"),
    "nic": ("NIC", "#d9732b", "triangle-up"),
    "leaf": ("leaf switch", "#8b6bb1", "hexagon2"),
    "router": ("router", "#8b6bb1", "circle"),
    "spine": ("spine switch", "#b63679", "hexagon2"),
    "core": ("core switch", "#3b0f70", "hexagon2"),
}
_OTHER_DEVICE = ("#66717e", "circle")
_MOST_LABELS = 72


def topology_figure(document: Mapping[str, Any], *, title: str = "") -> "Figure":
    """The picture of `Network.document()`, legible at 1400 x 900."""
    from plotly.graph_objects import Figure

    picture = arrange(document)
    devices = {each["name"]: each for each in document["devices"] if each["name"] in picture.places}
    traces = [*line_traces(document, picture), *_device_traces(devices, document, picture)]
    return Figure(data=traces, layout=_layout(picture, title, _extent(traces, picture)))


def _device_traces(
    devices: Mapping[str, Mapping[str, Any]], document: Mapping[str, Any], picture: Picture
) -> list[dict[str, Any]]:
    """A trace for each kind of device; the label of a GPU is its rank."""
    out: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in devices}
    for link in document["links"]:
        if link["source"] in out:
            out[link["source"]][link["kind"]].append(link["bytes_per_s"])
    traces = []
    kinds = list(dict.fromkeys([*(kind for kind in _DEVICES), *(each["kind"] for each in devices.values())]))
    for kind in kinds:
        held = [device for device in devices.values() if device["kind"] == kind]
        if not held:
            continue
        name, colour, symbol = _DEVICES.get(kind, (kind, *_OTHER_DEVICE))
        size = 15 if len(held) <= 40 else 11 if len(held) <= 100 else 7
        labels = kind == "gpu" and _room(picture, held)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if labels else "markers",
                "x": [picture.places[device["name"]][0] for device in held],
                "y": [picture.places[device["name"]][1] for device in held],
                "text": [str(device.get("rank", "")) for device in held] if labels else None,
                "textposition": "middle center",
                "textfont": {"size": 8 if size < 15 else 9, "color": "#ffffff"},
                "customdata": [_device_text(device, name, out[device["name"]]) for device in held],
                "hovertemplate": "%{customdata}<extra></extra>",
                "marker": {
                    "size": size + (3 if labels else 0),
                    "color": colour,
                    "symbol": symbol,
                    "line": {"color": "#ffffff", "width": 1},
                },
                "name": escape(name),
                "legendgroup": f"device {kind}",
                "meta": {"role": "devices", "kind": kind},
            }
        )
    return traces


def _room(picture: Picture, gpus: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the longest rank fits between two GPUs."""
    xs = [x for x, _ in picture.places.values()]
    digits = max(len(str(gpu.get("rank", ""))) for gpu in gpus)
    return len(gpus) <= _MOST_LABELS and (5 * digits + 4) * max(max(xs) - min(xs), 1.0) < _WIDTH


def _device_text(device: Mapping[str, Any], kind: str, out: Mapping[str, Sequence[float]]) -> str:
    """Name, rank and place, and what leaves it by each kind of link."""
    lines = [f"<b>{escape(str(device['name']))}</b>", escape(kind)]
    if device.get("label") not in (None, device["name"]):
        lines[1] += f", {escape(str(device['label']))}"
    told = [f"{word} {device[word]}" for word in ("rank", "node", "domain", "rail", "group", "tier") if word in device]
    if told:
        lines.append(escape(", ".join(told)))
    for link, rates in out.items():
        lines.append(f"{escape(link_name(link))}: {len(rates)} × {max(rates) / 1e9:,.4g} GB/s")
    return "<br>".join(lines)


def _box_label(box: Box, narrow: bool) -> dict[str, Any]:
    """In the lower left corner of a frame; outside of a circle, away from the middle."""
    label: dict[str, Any] = {"showarrow": False, "font": {"size": 11, "color": MUTED}}
    label["bgcolor"] = "rgba(247,248,250,0.7)"
    if not box.round:
        text = box.label.replace("node ", "") if narrow else box.label
        return label | {"x": box.x0, "y": box.y0, "text": escape(text), "xanchor": "left", "yanchor": "bottom"}
    x, y, radius = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2, (box.x1 - box.x0) / 2
    away = hypot(x, y) or 1.0
    return label | {"x": x * (1 + 1.2 * radius / away), "y": y * (1 + 1.12 * radius / away), "text": escape(box.label)}


def _extent(traces: Sequence[Mapping[str, Any]], picture: Picture) -> tuple[list[float], list[float]]:
    """x and y of all that is drawn."""
    xs = [x for trace in traces for x in trace["x"] if x is not None]
    ys = [y for trace in traces for y in trace["y"] if y is not None]
    for box in picture.boxes:
        xs += [box.x0, box.x1]
        ys += [box.y0, box.y1]
    return xs, [*ys, *(y for _, y, _ in picture.captions)]


def _layout(picture: Picture, title: str, extent: tuple[list[float], list[float]]) -> dict[str, Any]:
    xs, ys = extent
    wide = max(max(xs) - min(xs), 1.0)
    captions_right = any(x > max(xs) for x, _, _ in picture.captions)
    notes = [
        {
            "x": x,
            "y": y,
            "text": text,
            "showarrow": False,
            "xanchor": "left" if x > max(xs) else "center",
            "align": "left" if x > max(xs) else "center",
            "font": {"size": 12, "color": MUTED},
        }
        for x, y, text in picture.captions
    ]
    shapes = []
    narrow = _WIDTH * min((box.x1 - box.x0 for box in picture.boxes), default=wide) / wide < 52
    for box in picture.boxes:
        shapes.append(
            {
                "type": "circle" if box.round else "rect",
                "x0": box.x0,
                "x1": box.x1,
                "y0": box.y0,
                "y1": box.y1,
                "line": {"color": GRID, "width": 1},
                "fillcolor": "#f7f8fa",
                "layer": "below",
            }
        )
        notes.append(_box_label(box, narrow))
    hidden = {"visible": False, "zeroline": False, "showgrid": False}
    right = max(xs) + (0.09 * wide if captions_right else 0.01 * wide)
    layout: dict[str, Any] = {
        "template": "none",
        "height": _HEIGHT,
        "margin": {"l": 24, "r": 24, "t": 74 if title else 40, "b": 24},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": _FONT, "size": 12, "color": INK},
        "hoverlabel": {
            "font": {"family": _FONT, "size": 12, "color": INK},
            "bgcolor": "#ffffff",
            "bordercolor": MUTED,
            "align": "left",
        },
        "hovermode": "closest",
        "dragmode": "pan",
        "shapes": shapes,
        "annotations": notes,
        "xaxis": {**hidden, "range": [min(xs) - 0.01 * wide - 0.3, right + 0.3]},
        "yaxis": {**hidden, "range": [min(ys) - 0.3, max(ys) + 0.5]},
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.01,
            "yanchor": "bottom",
            "font": {"size": 12, "color": INK},
            "tracegroupgap": 0,
        },
    }
    if picture.square:
        layout["yaxis"] |= {"scaleanchor": "x", "scaleratio": 1}
    if title:
        layout["title"] = {
            "text": f"<b>{escape(title)}</b>",
            "font": {"size": 18, "color": INK},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 20},
        }
    return layout
