"""The waterfall plot: from ideal compute to the step, each cause where the one before it ended; and each rank's bar.

Drawn from the JSON of `simulate`. Bars carry their seconds and their share of the step; a cause below zero (the half of
the scores that a kernel skips) goes back to the left. In the ranks' bars it is taken off ideal compute.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parsim.report.palette import GRID, INK, MUTED
from parsim.report.scale import Scale, scale_of
from parsim.units import format_seconds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["rank_bars", "waterfall_plot"]

_BAR_PX, _FRAME_PX = 30, 70
_FONT = '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
_COLOURS = {
    "ideal_compute": "#2458a6",
    "causal_skip": "#8e9eec",
    "kernels": "#2c8a5f",
    "matmul": "#2c8a5f",
    "attention": "#45bdb8",
    "memory": "#93cfa0",
    "host": "#c2c81e",
    "recompute": "#8b6bb1",
    "tp": "#b8481f",
    "cp": "#d9732b",
    "ep": "#e0a458",
    "expert_tp": "#c98a6a",
    "dp": "#efcf9f",
    "offload": "#8b6bb1",
    "contention": "#7a2a8c",
    "pipeline": "#c9ced6",
    "optimizer": "#7f8894",
    "straggler": "#565d66",
    "step": "#1f2933",
}
_LEAST = 5e-6  # of the step: less is not drawn


def waterfall_plot(rows: Sequence[Mapping[str, Any]], step_s: float, meanings: Mapping[str, str]) -> "Figure":
    """The mean over pipeline ranks: `rows` of cause, seconds, share; `meanings` are shown on hovering."""
    from plotly.graph_objects import Figure

    scale, shown = scale_of(step_s, "s"), _shown(rows)
    names, bases, lengths, labels, colours, hovers = [], [], [], [], [], []
    reached = 0.0
    total: dict[str, Any] = {"cause": "step", "seconds": step_s, "share": 1.0 if step_s else 0.0}
    for row in [*shown, total]:
        cause, seconds = str(row["cause"]), float(row["seconds"])
        start = 0.0 if cause == "step" else reached
        reached = start + seconds
        names.append(_words(cause))
        bases.append(min(start, reached) * scale.factor)
        lengths.append(abs(seconds) * scale.factor)
        labels.append(f"{format_seconds(seconds)}  {row['share']:.1%}")
        colours.append(_COLOURS.get(cause, _COLOURS["tp"]))
        hovers.append(meanings.get(cause, "all of it"))
    figure = Figure(
        {
            "type": "bar",
            "orientation": "h",
            "y": names,
            "x": lengths,
            "base": bases,
            "text": labels,
            "textposition": "outside",
            "cliponaxis": False,
            "textfont": {"size": 12, "color": INK},
            "marker": {"color": colours, "line": {"width": 0}},
            "customdata": hovers,
            "hovertemplate": "<b>%{y}</b><br>%{text} of the step<br>%{customdata}<extra></extra>",
            "showlegend": False,
            "meta": {"role": "waterfall"},
        }
    )
    _frame(figure, scale, len(names), step_s * 1.22)
    return figure


def rank_bars(ranks: Sequence[Mapping[str, Any]], step_s: float) -> "Figure":
    """A bar for each pipeline rank, made of its causes; `ranks` of pipeline_rank and causes."""
    from plotly.graph_objects import Figure

    scale = scale_of(step_s, "s")
    found = [_without_skip(one["causes"]) for one in ranks]
    drawn = [cause for cause in found[0] if any(causes[cause] > _LEAST * step_s for causes in found)]
    figure = Figure(
        [
            {
                "type": "bar",
                "orientation": "h",
                "name": _words(cause),
                "y": [one["pipeline_rank"] for one in ranks],
                "x": [max(causes[cause], 0.0) * scale.factor for causes in found],
                "customdata": [
                    [format_seconds(causes[cause]), causes[cause] / step_s if step_s else 0.0] for causes in found
                ],
                "marker": {"color": _COLOURS.get(cause, _COLOURS["tp"]), "line": {"color": "#ffffff", "width": 0.6}},
                "hovertemplate": f"<b>{_words(cause)}</b><br>rank %{{y}}: %{{customdata[0]}}, %{{customdata[1]:.1%}} "
                "of the step<extra></extra>",
                "meta": {"role": "rank causes"},
            }
            for cause in drawn
        ]
    )
    _frame(figure, scale, len(ranks), step_s)
    figure.update_layout(
        barmode="stack",
        height=figure.layout.height + 46,
        margin={"t": 52},
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1,
            "yanchor": "bottom",
            "traceorder": "normal",
            "font": {"size": 12, "color": INK},
        },
    )
    figure.update_yaxes(title={"text": "pipeline rank", "font": {"size": 12, "color": MUTED}}, dtick=1)
    return figure


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if abs(row["share"]) > _LEAST]


def _without_skip(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    causes = {str(row["cause"]): float(row["seconds"]) for row in rows}
    if "causal_skip" in causes:
        causes["ideal_compute"] = causes.get("ideal_compute", 0.0) + causes.pop("causal_skip")
    return causes


def _words(cause: str) -> str:
    return cause.replace("_", " ")


def _frame(figure: "Figure", scale: Scale, bars: int, end_s: float) -> None:
    figure.update_layout(
        height=_FRAME_PX + _BAR_PX * bars,
        margin={"l": 112, "r": 18, "t": 6, "b": 44},
        bargap=0.22,
        plot_bgcolor="#ffffff",
        paper_bgcolor="#ffffff",
        font={"family": _FONT, "size": 12, "color": INK},
        hoverlabel={"align": "left", "bgcolor": "#ffffff", "bordercolor": GRID, "font": {"color": INK, "size": 12}},
    )
    figure.update_xaxes(
        title={"text": f"time ({scale.unit})", "font": {"size": 12, "color": MUTED}},
        range=[0, end_s * scale.factor or 1],
        gridcolor=GRID,
        zeroline=False,
        tickfont={"size": 11, "color": MUTED},
        exponentformat="none",
        fixedrange=True,
    )
    figure.update_yaxes(autorange="reversed", tickfont={"size": 12, "color": INK}, fixedrange=True, ticksuffix="  ")
