"""The published plot: predicted against measured times, and the error of every run by the publication it stands in.

Left, both times on logarithmic axes around their diagonal; right, a row for each group of runs with a point for every
error and a bar at the mean of their sizes, the largest mean on top. A colour for each GPU type, a ring for models with
experts. Plotly is imported when a figure is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, NamedTuple

from parsim.report.page import Section, _diagram, _document, _facts, _flush, _table
from parsim.report.palette import GRID, INK, MUTED
from parsim.units import format_seconds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["PublishedRun", "published_figure", "published_page"]

_FONT = '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
_COLOURS = (
    "#2458a6",
    "#d9732b",
    "#2c8a5f",
    "#b63679",
    "#8b6bb1",
    "#0e9aa7",
    "#8a6d3b",
    "#c2a800",
    "#66717e",
    "#d64545",
    "#5b8c00",
    "#14202b",
)
_ROW_PX, _LEAST_PX, _TOP_PX, _BOTTOM_PX = 30, 560, 64, 56
_WIDEST = 60.0  # percent: an error beyond it is drawn at the edge, with its size beside it
_LEFT, _RIGHT = (0.0, 0.40), (0.565, 1.0)


class PublishedRun(NamedTuple):
    """One run: seconds of its step, measured and predicted, and what it is drawn by."""

    label: str
    group: str
    gpu: str
    measured_s: float
    predicted_s: float
    experts: bool = False

    @property
    def percent(self) -> float:
        """Predicted over measured, less one."""
        return 100.0 * (self.predicted_s / self.measured_s - 1.0)


def published_figure(runs: Sequence[PublishedRun]) -> "Figure":
    """The plot, legible at 1400 pixels; as high as its groups need."""
    from plotly.graph_objects import Figure

    groups = _groups(runs)
    traces = [_diagonal(runs), *_means(groups)]
    gpus = sorted({run.gpu for run in runs})
    for gpu, colour in zip(gpus, _cycle(len(gpus)), strict=True):
        for experts in (False, True):
            chosen = [run for run in runs if run.gpu == gpu and run.experts == experts]
            if chosen:
                traces += _points(chosen, groups, gpu, colour, experts)
    return Figure(data=traces, layout=_layout(runs, groups))


def published_page(
    runs: Sequence[PublishedRun],
    *,
    title: str,
    facts: Sequence[tuple[str, str, str]] = (),
    sections: Sequence[Section] = (),
) -> str:
    """One offline page: headline figures, the plot, tables."""
    diagram = _diagram(
        published_figure(runs), buttons=("zoom2d", "pan2d", "resetScale2d", "toImage"), filename="parsim-published"
    )
    caption = (
        "Hover for a run's name and times; click a GPU type to hide it. Rings: models with experts. Left: grey line, "
        f"predicted = measured. Right: grey bars, mean of |error|; errors beyond {_WIDEST:g} % stand at the edge."
    )
    tables = [
        Section(table.title, table.columns, [list(map(_flush, row)) for row in table.rows], table.note, table.folded)
        for table in sections
    ]
    body = [
        _facts(facts),
        f'<figure style="overflow: hidden">{diagram}<figcaption>{caption}</figcaption></figure>',
        *(_table(table) for table in tables if table.rows),
    ]
    return _document(title, "Predicted by parsim; measured and published by others.", body)


def _groups(runs: Sequence[PublishedRun]) -> dict[str, list[PublishedRun]]:
    """By group, from the largest mean error to the smallest."""
    found: dict[str, list[PublishedRun]] = {}
    for run in runs:
        found.setdefault(run.group, []).append(run)
    return dict(sorted(found.items(), key=lambda item: (-_mean(item[1]), item[0])))


def _mean(runs: Sequence[PublishedRun]) -> float:
    return sum(abs(run.percent) for run in runs) / len(runs)


def _cycle(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def _diagonal(runs: Sequence[PublishedRun]) -> dict[str, Any]:
    ends = [10.0**power for power in _range(runs)]
    line = {"color": MUTED, "width": 1}
    return {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": line, "hoverinfo": "skip"} | _silent(
        "diagonal"
    )


def _means(groups: Mapping[str, Sequence[PublishedRun]]) -> Iterator[dict[str, Any]]:
    """Bars from -mean to +mean of each group."""
    means = [min(_mean(runs), _WIDEST) for runs in groups.values()]
    yield {
        "type": "bar",
        "orientation": "h",
        "base": [-mean for mean in means],
        "x": [2 * mean for mean in means],
        "y": list(range(len(groups))),
        "width": 0.72,
        "marker": {"color": "rgba(102,113,126,0.16)", "line": {"width": 0}},
        "hoverinfo": "skip",
        "xaxis": "x2",
        "yaxis": "y2",
    } | _silent("mean")


def _points(
    runs: Sequence[PublishedRun], groups: Mapping[str, Sequence[PublishedRun]], gpu: str, colour: str, experts: bool
) -> Iterator[dict[str, Any]]:
    rows = {group: row for row, group in enumerate(groups)}
    name = f"{gpu}, experts" if experts else gpu
    marker = {
        "size": 7 if not experts else 7.5,
        "color": "#ffffff" if experts else colour,
        "opacity": 0.85,
        "line": {"color": colour if experts else "#ffffff", "width": 1.8 if experts else 0.6},
    }
    shared = {
        "type": "scatter",
        "mode": "markers",
        "marker": marker,
        "name": name,
        "legendgroup": name,
        "hovertext": [_hover(run) for run in runs],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "cliponaxis": False,
    }
    yield {
        **shared,
        "x": [run.measured_s for run in runs],
        "y": [run.predicted_s for run in runs],
        "showlegend": True,
        "meta": {"role": "times"},
    }
    yield {
        **shared,
        "x": [max(min(run.percent, _WIDEST), -_WIDEST) for run in runs],
        "y": [rows[run.group] + _beside(run, groups[run.group]) for run in runs],
        "showlegend": False,
        "xaxis": "x2",
        "yaxis": "y2",
        "meta": {"role": "errors"},
    }


def _beside(run: PublishedRun, group: Sequence[PublishedRun]) -> float:
    """Where in its row a point stands: five lanes in turn by the size of the error, so that few cover each other."""
    order = sorted(range(len(group)), key=lambda index: group[index].percent)
    place = next(place for place, index in enumerate(order) if group[index] is run)
    return 0.0 if len(group) < 4 else (place * 2 % 5 - 2) * 0.12


def _hover(run: PublishedRun) -> str:
    times = f"measured {format_seconds(run.measured_s)}, predicted {format_seconds(run.predicted_s)}"
    return f"<b>{run.label}</b><br>{run.gpu}<br>{times}<br>error {run.percent:+.1f} %"


def _silent(role: str) -> dict[str, Any]:
    return {"showlegend": False, "meta": {"role": role}}


def _range(runs: Sequence[PublishedRun]) -> tuple[float, float]:
    times = [time for run in runs for time in (run.measured_s, run.predicted_s)] or [1.0]
    return log10(min(times)) - 0.1, log10(max(times)) + 0.1


def _layout(runs: Sequence[PublishedRun], groups: Mapping[str, Sequence[PublishedRun]]) -> dict[str, Any]:
    low, high = _range(runs)
    grid = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "tickfont": {"size": 12, "color": MUTED}}
    text = {"size": 12, "color": MUTED}
    ticks = [10.0**power for power in range(ceil(low), floor(high) + 1)]
    times = {
        **grid,
        "type": "log",
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": [format_seconds(tick) for tick in ticks],
    }
    edge = _edge(runs)
    return {
        "height": max(_LEAST_PX, _TOP_PX + _BOTTOM_PX + _ROW_PX * len(groups)),
        "font": {"family": _FONT, "color": INK},
        "margin": {"l": 76, "r": 24, "t": _TOP_PX, "b": _BOTTOM_PX},
        "plot_bgcolor": "#ffffff",
        "paper_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": _FONT, "size": 13}, "bgcolor": "#ffffff", "bordercolor": GRID},
        "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 12}},
        "xaxis": {**times, "domain": _LEFT, "title": {"text": "measured step", "font": text}},
        "yaxis": {**times, "title": {"text": "predicted step", "font": text, "standoff": 8}},
        "xaxis2": {
            **grid,
            "domain": _RIGHT,
            "anchor": "y2",
            "range": [-edge * 1.05, edge * 1.05],
            "ticksuffix": " %",
            "zeroline": True,
            "zerolinecolor": MUTED,
            "title": {"text": "predicted / measured - 1", "font": text},
        },
        "yaxis2": {
            **grid,
            "anchor": "x2",
            "range": [len(groups) - 0.4, -0.6],
            "tickvals": list(range(len(groups))),
            "ticktext": [f"{name} ({len(of)})  <b>{_mean(of):.1f} %</b>" for name, of in groups.items()],
            "tickfont": {"size": 12, "color": INK},
            "showgrid": False,
        },
    }


def _edge(runs: Sequence[PublishedRun]) -> float:
    """Half of the error axis: what is drawn, at least 10 percent."""
    return min(max([10.0, *(abs(run.percent) for run in runs)]), _WIDEST)
