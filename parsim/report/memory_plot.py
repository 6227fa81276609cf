"""The memory plot: a stepped curve for each rank, the moment of its peak, and every category on hover."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from parsim.report.curves import Curve
from parsim.report.palette import GRID, INK, MUTED, rank_colour
from parsim.timeline import Timeline
from parsim.units import format_bytes

__all__ = ["capacity_note", "memory_axis", "memory_traces"]

_GIB = 2.0**30
_LIMIT = "#b42318"


def memory_axis(curves: Sequence[Curve], label: str, capacity_bytes: float | None) -> dict[str, Any]:
    """The axis of the curves: GiB, or stage-activations in flight; from zero, with room for the peak's label."""
    scale = 1 / _GIB if curves[0].measures_bytes else 1.0
    top = max(max(curve.totals) for curve in curves) * scale
    if capacity_bytes is not None and curves[0].measures_bytes:
        top = max(top, capacity_bytes * scale)
    name = "memory (GiB)" if curves[0].measures_bytes else "activations<br>in flight"
    return {
        "title": {
            "text": f"{escape(label)}<br>{name}" if label else name,
            "font": {"size": 12, "color": MUTED},
            "standoff": 10,
        },
        "range": [0, top * 1.16 or 1],
        "fixedrange": True,
        "nticks": 6,
        "tickfont": {"size": 11, "color": MUTED},
        "gridcolor": GRID,
        "zeroline": True,
        "zerolinecolor": GRID,
    }


def capacity_note(capacity_bytes: float, axis: str) -> dict[str, Any]:
    """The words on the line of what a GPU has, readable across the curves."""
    return {
        "text": f"a GPU has {format_bytes(capacity_bytes)}",
        "x": 1,
        "xref": "paper",
        "xanchor": "right",
        "y": capacity_bytes / _GIB,
        "yref": axis,
        "yanchor": "bottom",
        "yshift": 2,
        "showarrow": False,
        "borderpad": 1,
        "bgcolor": "rgba(255,255,255,0.85)",
        "font": {"size": 11, "color": _LIMIT},
    }


def memory_traces(
    curves: Sequence[Curve], timeline: Timeline, factor: float, unit: str, axis: str, capacity_bytes: float | None
) -> Iterator[dict[str, Any]]:
    """The curves, the line of what a GPU has, and the peaks; times are multiplied by `factor`."""
    scale = 1 / _GIB if curves[0].measures_bytes else 1.0
    for curve in curves:
        yield _line(curve, timeline.ranks, factor, scale, unit, axis)
    if capacity_bytes is not None and curves[0].measures_bytes:
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": [0, timeline.makespan_s * factor],
            "y": [capacity_bytes * scale] * 2,
            "line": {"color": _LIMIT, "width": 1.2, "dash": "dash"},
            "hoverinfo": "skip",
            "name": "memory of a GPU",
            "showlegend": False,
            "yaxis": axis,
            "meta": {"role": "capacity"},
        }
    yield _peaks(curves, timeline.ranks, factor, scale, unit, axis)


def _line(curve: Curve, ranks: int, factor: float, scale: float, unit: str, axis: str) -> dict[str, Any]:
    """A curve; categories that never change are written into the hover text, the others looked up there."""
    import numpy as np

    lines: list[str] = []
    changing: list[tuple[float, ...]] = []
    if curve.measures_bytes:
        for name, values in curve.categories.items():
            if min(values) != max(values):
                lines.append(f"{escape(name)} %{{customdata[{len(changing)}]:.2f}} GiB")
                changing.append(values)
            elif values[0]:
                lines.append(f"{escape(name)} {values[0] * scale:.2f} GiB")
    total = "%{y:.2f} GiB" if curve.measures_bytes else "%{y} stage-activations"
    hover = "<br>".join([f"<b>rank {curve.rank}: {total}</b>", f"from %{{x:.5~g}} {escape(unit)} on", *lines])
    return {
        "type": "scatter",
        "mode": "lines",
        "x": np.array(curve.times_s, dtype="f8") * factor,
        "y": (np.array(curve.totals, dtype="f8") * scale).astype("f4"),
        "customdata": (np.array(changing, dtype="f8").T * scale).astype("f4") if changing else None,
        "line": {"shape": "hv", "width": 1.6 if ranks <= 16 else 1.0, "color": rank_colour(curve.rank, ranks)},
        "hovertemplate": hover + "<extra></extra>",
        "name": f"rank {curve.rank}",
        "showlegend": False,
        "yaxis": axis,
        "meta": {"role": "curve"},
    }


def _peaks(curves: Sequence[Curve], ranks: int, factor: float, scale: float, unit: str, axis: str) -> dict[str, Any]:
    """A mark where each rank is first at its peak; the highest of all has its number beside it."""
    highest = max(curves, key=lambda curve: curve.totals[curve.peak])
    end_s = max(curve.times_s[-1] for curve in curves)
    late = highest.times_s[highest.peak] > 0.75 * end_s
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [curve.times_s[curve.peak] * factor for curve in curves],
        "y": [curve.totals[curve.peak] * scale for curve in curves],
        "text": [_label(curve) if curve is highest else "" for curve in curves],
        "textposition": "top left" if late else "top right",
        "textfont": {"size": 11, "color": INK},
        "cliponaxis": False,
        "marker": {
            "symbol": "circle",
            "size": [9 if curve is highest else 7 if ranks <= 16 else 4 for curve in curves],
            "color": [rank_colour(curve.rank, ranks) for curve in curves],
            "line": {"color": "#ffffff", "width": 1.2 if ranks <= 16 else 0.5},
        },
        "hovertext": [_peak_hover(curve, factor, unit) for curve in curves],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "name": "first peak of a rank",
        "showlegend": False,
        "yaxis": axis,
        "meta": {"role": "peaks"},
    }


def _label(curve: Curve) -> str:
    return f"peak {_amount(curve.totals[curve.peak], curve)} on rank {curve.rank}"


def _amount(value: float, curve: Curve) -> str:
    return format_bytes(value) if curve.measures_bytes else f"{value:g}"


def _peak_hover(curve: Curve, factor: float, unit: str) -> str:
    during = f", during {curve.during}" if curve.during else ""
    lines = [
        f"<b>{_label(curve)}</b>",
        f"first at {curve.times_s[curve.peak] * factor:.5g} {escape(unit)}{during}",
    ]
    if curve.measures_bytes:
        lines += [
            f"{escape(name)} {format_bytes(values[curve.peak])}"
            for name, values in curve.categories.items()
            if values[curve.peak]
        ]
    return "<br>".join(lines)
