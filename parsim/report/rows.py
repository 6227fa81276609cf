"""The rows of the diagram: the traces of a recording's bars, each kind and shade one, with what hovering shows.

Few bars are real bars, with their micro-batch where it fits. Many are one filled path for each look, a point in the
middle of each bar to hover on, and an empty bar trace that `zoom.js` fills when the reader zooms in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any

from parsim.plan.op import COMPUTE
from parsim.report.bars import Bars, bars_of
from parsim.report.palette import IDLE, MEANING, colour, ink_on
from parsim.report.scale import Scale
from parsim.timeline import Span, Timeline

__all__ = ["LEFT_PX", "RIGHT_PX", "Sheet", "row_traces", "sheet_of"]

LEFT_PX, RIGHT_PX = 76, 18
_WIDTH_PX = 1400 - LEFT_PX - RIGHT_PX
_DIGIT, _PAD_PX, _SMALLEST_PX, _LARGEST_PX = 0.58, 2, 7, 11  # a digit's width in font sizes; the same in zoom.js


@dataclass(frozen=True)
class Sheet:
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


def sheet_of(timeline: Timeline, scale: Scale, dense: bool, axis: str, end_s: float) -> Sheet:
    microbatches = max((span.op.mb or 0 for span in timeline.spans), default=0)
    lengths = [span.end_s - span.start_s for span in timeline.spans if span.op.kind in COMPUTE]
    typical_s = median(lengths) if lengths else 0.0
    return Sheet(scale, dense, axis, end_s or 1.0, _row_px(timeline), len(str(microbatches)), typical_s)


def row_traces(timeline: Timeline, sheet: Sheet, legend: set[str]) -> Iterator[dict[str, Any]]:
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


def _bar(bars: Bars, look: dict[str, Any], sheet: Sheet) -> dict[str, Any]:
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


def _as_bars(bars: Bars, look: dict[str, Any], sheet: Sheet) -> dict[str, Any]:
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


def _dense(bars: Bars, look: dict[str, Any], sheet: Sheet) -> Iterator[dict[str, Any]]:
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


def _row_px(timeline: Timeline) -> int:
    """Height of a row, with room for two lanes of text where pairs overlap."""
    ranks = timeline.ranks
    lanes = any("pair" in span.detail for span in timeline.spans)
    return (46 if lanes else 38) if ranks <= 8 else (36 if lanes else 26) if ranks <= 16 else 20 if ranks <= 32 else 14
