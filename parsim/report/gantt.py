"""The diagram: a row for each pipeline rank, time to the right, and under it what the ranks hold.

Few bars are drawn as bars, with their micro-batch where it fits. Many (64 ranks with 256 micro-batches are 33,000)
are drawn as one filled path for each colour, which a browser opens at once, with a point at the middle of each bar to
hover on; `page` swaps real bars in when the reader zooms in. Plotly is imported when a figure is made.
"""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from parsim.report.curves import curves_of
from parsim.report.memory_plot import capacity_note, memory_axis, memory_traces
from parsim.report.palette import GRID, INK, MUTED, rank_colour
from parsim.report.rows import LEFT_PX, RIGHT_PX, row_traces, sheet_of
from parsim.report.scale import Scale, scale_of
from parsim.timeline import Timeline

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["DENSE", "comparison", "gantt"]

DENSE = 5_000
"""Above this many bars they are drawn as filled paths."""
_FONT = '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
_MEMORY_PX, _GAP_PX, _TOP_PX, _HEADING_PX, _BOTTOM_PX = 210, 34, 44, 58, 52


def gantt(
    timeline: Timeline,
    *,
    title: str = "",
    facts: Sequence[tuple[str, str, str]] = (),
    unit: str = "s",
    capacity_bytes: float | None = None,
) -> "Figure":
    """The diagram of a recording, with the memory curves of its ranks on the same time axis.

    `facts` (label, value, note) stand in a line under the title; `unit` names the time of unit costs;
    `capacity_bytes` draws what a GPU has. Without memory samples the curves are stage-activations in flight.
    """
    return _figure([("", timeline)], title, facts, unit, capacity_bytes)


def comparison(a: Timeline, b: Timeline, *, labels: tuple[str, str], title: str = "", unit: str = "s") -> "Figure":
    """Two recordings, one above the other, on one time axis."""
    return _figure([(labels[0], a), (labels[1], b)], title, (), unit, None)


def _figure(
    recordings: Sequence[tuple[str, Timeline]],
    title: str,
    facts: Sequence[tuple[str, str, str]],
    unit: str,
    capacity_bytes: float | None,
) -> "Figure":
    from plotly.graph_objects import Figure

    end_s = max(timeline.makespan_s for _, timeline in recordings)
    scale = scale_of(end_s, unit)
    dense = sum(len(timeline.spans) for _, timeline in recordings) > DENSE
    traces: list[dict[str, Any]] = []
    axes: list[tuple[float, dict[str, Any]]] = []  # height in px and settings of each y axis, top to bottom
    notes: list[dict[str, Any]] = []
    legend: set[str] = set()
    for label, timeline in recordings:
        name = f"y{len(axes) + 1 if axes else ''}"
        sheet = sheet_of(timeline, scale, dense, name, end_s)
        traces += row_traces(timeline, sheet, legend)
        axes.append((timeline.ranks * sheet.row_px, _rank_axis(timeline.ranks, label)))
    for label, timeline in recordings:
        if curves := curves_of(timeline):
            name = f"y{len(axes) + 1}"
            traces += memory_traces(curves, timeline, scale.factor, scale.unit, name, capacity_bytes)
            if capacity_bytes is not None and curves[0].measures_bytes:
                notes.append(capacity_note(capacity_bytes, name))
            axes.append((_MEMORY_PX, memory_axis(curves, label, capacity_bytes)))
    layout = _layout(axes, _time_axis(end_s * scale.factor, scale, len(axes)), _heading(title, facts))
    return Figure(data=traces, layout={**layout, "annotations": notes, "meta": {"dense": dense}})


def _layout(
    axes: Sequence[tuple[float, dict[str, Any]]], time_axis: dict[str, Any], heading: dict[str, Any]
) -> dict[str, Any]:
    """The sheet of paper: the panels from the top down, all on one time axis, the legend above them."""
    top = _TOP_PX + (_HEADING_PX if heading else 0)
    inner = sum(height for height, _ in axes) + _GAP_PX * (len(axes) - 1)
    layout: dict[str, Any] = {
        "template": "none",
        "barmode": "overlay",
        "height": inner + top + _BOTTOM_PX,
        "margin": {"l": LEFT_PX, "r": RIGHT_PX, "t": top, "b": _BOTTOM_PX},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": _FONT, "size": 12, "color": INK},
        "hoverlabel": {"font": {"family": _FONT, "size": 12, "color": INK}, "bgcolor": "#ffffff", "bordercolor": MUTED},
        "hovermode": "closest",
        "dragmode": "zoom",
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + 10 / inner,
            "yanchor": "bottom",
            "font": {"size": 12, "color": INK},
            "itemsizing": "constant",
            "tracegroupgap": 0,
        },
        "xaxis": time_axis,
    }
    if heading:
        layout["title"] = heading
    above = 1.0
    for place, (height, axis) in enumerate(axes):
        layout[f"yaxis{place + 1 if place else ''}"] = {**axis, "domain": [max(above - height / inner, 0.0), above]}
        above -= (height + _GAP_PX) / inner
    return layout


def _heading(title: str, facts: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    line = "  ·  ".join(f"{escape(label)} {escape(value)}" for label, value, _ in facts)
    if not title and not line:
        return {}
    below = f'<br><span style="font-size:13px;color:{MUTED}">{line}</span>' if line else ""
    return {
        "text": f"<b>{escape(title)}</b>{below}",
        "font": {"size": 18, "color": INK},
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": 1,
        "yref": "container",
        "yanchor": "top",
        "pad": {"t": 26},
    }


def _time_axis(end: float, scale: Scale, panels: int) -> dict[str, Any]:
    return {
        "title": {"text": f"time ({escape(scale.unit)})", "font": {"size": 12, "color": MUTED}, "standoff": 8},
        "range": [0, end * 1.004 if end else 1],
        "anchor": f"y{panels if panels > 1 else ''}",
        "showgrid": True,
        "gridcolor": GRID,
        "gridwidth": 1,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": GRID,
        "tickfont": {"size": 11, "color": MUTED},
        "layer": "below traces",
    }


def _rank_axis(ranks: int, label: str) -> dict[str, Any]:
    """Ranks from the top down, each with a square in the colour of its memory curve."""
    step = 1 if ranks <= 16 else 2 if ranks <= 32 else 4
    shown = list(range(0, ranks, step))
    return {
        "title": {
            "text": escape(label) or ("pipeline rank" if ranks > 3 else "rank"),
            "font": {"size": 12, "color": MUTED},
            "standoff": 10,
        },
        "range": [ranks - 0.5, -0.5],
        "fixedrange": True,
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [f'{rank} <span style="color:{rank_colour(rank, ranks)}">■</span>' for rank in shown],
        "tickfont": {"size": 11, "color": INK},
        "showgrid": False,
        "zeroline": False,
    }
