"""The diagram: a row for each pipeline rank, time to the right, and under it what the ranks hold.

Few bars are drawn as bars, with their micro-batch where it fits. Many (64 ranks with 256 micro-batches are 33,000)
are drawn as one filled path for each colour, which a browser opens at once, with a point at the middle of each bar to
hover on; `page` swaps real bars in when the reader zooms in. Plotly is imported when a figure is made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from parsim.plan.op import COMPUTE
from parsim.report.bars import Bars, bars_of
from parsim.report.curves import curves_of
from parsim.report.memory_plot import capacity_note, memory_axis, memory_traces
from parsim.report.palette import GRID, IDLE, INK, MEANING, MUTED, colour, ink_on, rank_colour
from parsim.timeline import Span, Timeline

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["DENSE", "Scale", "comparison", "gantt", "scale_of"]

DENSE = 5_000
"""Above this many bars they are drawn as filled paths."""
FONT = '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
_MEMORY_PX, _GAP_PX, _LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 210, 34, 76, 18, 44, 52
_WIDTH_PX = 1400 - _LEFT_PX - _RIGHT_PX
_DIGIT, _PAD_PX, _SMALLEST_PX, _LARGEST_PX = 0.58, 2, 7, 11  # a digit's width in font sizes; the same in zoom.js


@dataclass(frozen=True)
class Scale:
    """How time is shown: recorded times a `factor` are in `unit`."""

    factor: float
    unit: str


def scale_of(end_s: float, unit: str = "s") -> Scale:
    """Seconds as s, ms or µs by the length of the recording; any other unit (of unit costs) as it is."""
    if unit != "s":
        return Scale(1.0, unit)
    for factor, name in ((1.0, "s"), (1e3, "ms")):
        if end_s * factor >= 10:
            return Scale(factor, name)
    return Scale(1e6, "µs")


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
        traces += _rows(timeline, _sheet(timeline, scale, dense, name, end_s), legend)
        axes.append((timeline.ranks * _row_px(timeline), _rank_axis(timeline.ranks, label)))
    for label, timeline in recordings:
        if curves := curves_of(timeline):
            name = f"y{len(axes) + 1}"
            traces += memory_traces(curves, timeline, scale.factor, scale.unit, name, capacity_bytes)
            if capacity_bytes is not None and curves[0].measures_bytes:
                notes.append(capacity_note(capacity_bytes, name))
            axes.append((_MEMORY_PX, memory_axis(curves, label, capacity_bytes)))
    heading = _heading(title, facts)
    top = _TOP_PX + (58 if heading else 0)
    inner = sum(height for height, _ in axes) + _GAP_PX * (len(axes) - 1)
    layout: dict[str, Any] = {
        "template": "none",
        "barmode": "overlay",
        "height": inner + top + _BOTTOM_PX,
        "margin": {"l": _LEFT_PX, "r": _RIGHT_PX, "t": top, "b": _BOTTOM_PX},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"family": FONT, "size": 12, "color": INK},
        "hoverlabel": {"font": {"family": FONT, "size": 12, "color": INK}, "bgcolor": "#ffffff", "bordercolor": MUTED},
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
        "xaxis": _time_axis(end_s * scale.factor, scale.unit, len(axes)),
        "annotations": notes,
        "meta": {"dense": dense},
    }
    if heading:
        layout["title"] = heading
    above = 1.0
    for place, (height, axis) in enumerate(axes):
        layout[f"yaxis{place + 1 if place else ''}"] = {**axis, "domain": [max(above - height / inner, 0.0), above]}
        above -= (height + _GAP_PX) / inner
    return Figure(data=traces, layout=layout)


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


def _row_px(timeline: Timeline) -> int:
    """Height of a row, with room for two lanes of text where pairs overlap."""
    ranks = timeline.ranks
    lanes = any("pair" in span.detail for span in timeline.spans)
    return (46 if lanes else 38) if ranks <= 8 else (36 if lanes else 26) if ranks <= 16 else 20 if ranks <= 32 else 14


def _time_axis(end: float, unit: str, panels: int) -> dict[str, Any]:
    return {
        "title": {"text": f"time ({escape(unit)})", "font": {"size": 12, "color": MUTED}, "standoff": 8},
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
    """Ranks from the top down, each with a dot in the colour of its memory curve."""
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


@dataclass(frozen=True)
class _Sheet:
    """Where a recording is drawn: its scale of time and its y axis; `end_s` of the whole time axis."""

    scale: Scale
    dense: bool
    axis: str
    end_s: float
    row_px: int
    digits: int
    typical_s: float

    def most_px(self, bars: Bars) -> int:
        """The largest font that the lane's height takes."""
        return max(_SMALLEST_PX, min(_LARGEST_PX, int(bars.lane.height * self.row_px) - 3))

    def font_px(self, bars: Bars) -> int:
        """A font in which the longest micro-batch fits on a typical bar, if one does."""
        return max(_SMALLEST_PX, min(self.most_px(bars), int(self._fits_px(self.typical_s))))

    def label(self, span: Span, font_px: int) -> str:
        """The micro-batch, where the longest one would fit: all bars of a length look alike."""
        return "" if span.op.mb is None or self._fits_px(span.end_s - span.start_s) < font_px else str(span.op.mb)

    def _fits_px(self, span_s: float) -> float:
        return (span_s / self.end_s * _WIDTH_PX - _PAD_PX) / (_DIGIT * self.digits)


def _sheet(timeline: Timeline, scale: Scale, dense: bool, axis: str, end_s: float) -> _Sheet:
    microbatches = max((span.op.mb or 0 for span in timeline.spans), default=0)
    lengths = [span.end_s - span.start_s for span in timeline.spans if span.op.kind in COMPUTE]
    typical_s = median(lengths) if lengths else 0.0
    return _Sheet(scale, dense, axis, end_s or 1.0, _row_px(timeline), len(str(microbatches)), typical_s)


def _rows(timeline: Timeline, sheet: _Sheet, legend: set[str]) -> Iterator[dict[str, Any]]:
    """The idle background, then the bars of each look; only the first of a kind stands in the legend."""
    first = "idle" not in legend
    legend.add("idle")
    yield {
        "type": "bar",
        "orientation": "h",
        "y": list(range(timeline.ranks)),
        "x": [timeline.makespan_s * sheet.scale.factor] * timeline.ranks,
        "base": 0,
        "width": 0.86,
        "offset": -0.43,
        "marker": {"color": IDLE, "line": {"width": 0}},
        "hoverinfo": "skip",
        "name": "idle",
        "legendgroup": "idle",
        "legendrank": 2000,
        "showlegend": first,
        "yaxis": sheet.axis,
        "meta": {"role": "idle"},
    }
    for bars in bars_of(timeline):
        look = _look(bars, bars.kind not in legend, sheet.axis)
        legend.add(bars.kind)
        if sheet.dense:
            yield from _dense(bars, look, sheet)
        else:
            yield _as_bars(bars, look, sheet)


def _look(bars: Bars, first: bool, axis: str) -> dict[str, Any]:
    return {
        "name": MEANING[bars.kind],
        "legendgroup": bars.kind.value,
        "showlegend": first,
        "yaxis": axis,
        "hovertemplate": _hover(bars),
    }


def _hover(bars: Bars) -> str:
    """What hovering shows; filled in from `customdata`: stage, micro-batch, start, end, duration, waiting."""
    whole = bars.spans[0].op.mb is None
    op = f"%{{customdata[0]}}{bars.kind.value}" + ("" if whole else "%{customdata[1]}")
    lines = [
        f"<b>{op}</b>" + ("  overlapped with %{hovertext}" if bars.paired else ""),
        MEANING[bars.kind],
        "rank %{y}, stage %{customdata[0]}" + ("" if whole else ", micro-batch %{customdata[1]}"),
        "start %{customdata[2]:.5~g}, end %{customdata[3]:.5~g}",
        "duration %{customdata[4]:.5~g}, waited %{customdata[5]:.4~g}",
    ]
    return "<br>".join(lines) + "<extra></extra>"


def _columns(bars: Bars, scale: Scale) -> list[tuple[float, ...]]:
    factor = scale.factor
    return [
        (
            span.op.stage,
            -1 if span.op.mb is None else span.op.mb,
            span.start_s * factor,
            span.end_s * factor,
            (span.end_s - span.start_s) * factor,
            span.waiting_s * factor,
        )
        for span in bars.spans
    ]


def _bar(bars: Bars, look: dict[str, Any], sheet: _Sheet) -> dict[str, Any]:
    """A bar trace of this look, still without bars."""
    fill = colour(bars.kind, bars.level, bars.levels)
    return {
        **look,
        "type": "bar",
        "orientation": "h",
        "offset": bars.lane.top,
        "width": bars.lane.height,
        "marker": {"color": fill, "line": {"color": "#ffffff", "width": 0.6}},
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "insidetextfont": {"size": sheet.font_px(bars), "color": ink_on(fill)},
        "constraintext": "none",
    }


def _pairs(bars: Bars) -> dict[str, Any]:
    return {"hovertext": [escape(str(span.detail["pair"])) for span in bars.spans]} if bars.paired else {}


def _as_bars(bars: Bars, look: dict[str, Any], sheet: _Sheet) -> dict[str, Any]:
    import numpy as np

    columns = np.array(_columns(bars, sheet.scale), dtype="f8")
    return {
        **_bar(bars, look, sheet),
        **_pairs(bars),
        "y": [span.rank for span in bars.spans],
        "base": columns[:, 2].tolist(),
        "x": columns[:, 4],
        "customdata": columns,
        "text": [sheet.label(span, sheet.font_px(bars)) for span in bars.spans],
        "meta": {"role": "bars", "mostPx": sheet.most_px(bars)},
    }


def _dense(bars: Bars, look: dict[str, Any], sheet: _Sheet) -> Iterator[dict[str, Any]]:
    """A filled path of all bars, a point on each to hover on, and an empty bar trace for what is zoomed into."""
    import numpy as np

    columns = np.array(_columns(bars, sheet.scale), dtype="f4")
    rows = np.array([span.rank for span in bars.spans], dtype="f4")
    start, end, gap = columns[:, 2], columns[:, 3], np.full(len(rows), np.nan, dtype="f4")
    top = rows + np.float32(bars.lane.top)
    bottom = top + np.float32(bars.lane.height)
    shared = {key: look[key] for key in ("legendgroup", "yaxis", "name")}
    yield {
        **shared,
        "type": "scatter",
        "mode": "none",
        "fill": "toself",
        "fillcolor": colour(bars.kind, bars.level, bars.levels),
        "x": np.stack([start, end, end, start, gap], axis=1).ravel(),
        "y": np.stack([top, top, bottom, bottom, gap], axis=1).ravel(),
        "hoverinfo": "skip",
        "showlegend": look["showlegend"],
        "meta": {"role": "fill"},
    }
    yield {
        **look,
        **_pairs(bars),
        "showlegend": False,
        "type": "scatter",
        "mode": "none",
        "x": (start + end) / 2,
        "y": rows.astype("i2"),
        "customdata": columns,
        "meta": {"role": "points"},
    }
    zoom = {"role": "zoom", "mostPx": sheet.most_px(bars)}
    yield {**_bar(bars, look, sheet), "showlegend": False, "zorder": 1, "x": [], "y": [], "base": [], "meta": zoom}
