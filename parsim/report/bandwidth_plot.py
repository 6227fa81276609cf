"""The bandwidth plot: bus bandwidth and time of a collective against its size, by every way there is to play it.

Above bus bandwidth, where large sizes differ, below time on a logarithmic axis, where small ones do; a line for each
algorithm and protocol, labelled at its end, a wide grey line under the one that is chosen. Points are measured.
Plotly is imported when a figure is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log10
from typing import TYPE_CHECKING, Any

from parsim.network.estimate import Estimate, bus_factor
from parsim.report.labels import apart, size_ticks
from parsim.report.page import Section, _diagram, _document, _facts, _flush, _table
from parsim.report.palette import GRID, INK, MUTED
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Bandwidths", "bandwidth_figure", "bandwidth_page"]

_FONT = '"Inter", "Segoe UI", "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
_COLOURS: Mapping[str, str] = {
    "ring": "#2458a6",
    "tree": "#2c8a5f",
    "nvls": "#d9732b",
    "nvls_tree": "#b63679",
    "collnet": "#8b6bb1",
}
_NAMES: Mapping[str, str] = {"nvls": "NVLS", "nvls_tree": "NVLS tree", "collnet": "CollNet (SHARP)"}
_DASHES: Mapping[str, str] = {"LL": "dot", "LL128": "dash", "Simple": "solid"}
_CHOSEN, _MEASURED, _CORRECTED = "rgba(102,113,126,0.30)", "#b42318", INK
_HEIGHT, _TOP_PX, _BOTTOM_PX, _RIGHT_PX, _LABEL_PX = 820, 30, 56, 200, 17
_UPPER, _LOWER = (0.39, 1.0), (0.0, 0.34)


@dataclass(frozen=True)
class Bandwidths:
    """What there is to draw: `lines` of estimates at rising sizes, one for each algorithm and protocol.

    `chosen` is what would be played at each size, as the model has it, and `corrected` the same by the user's log
    (empty without one), whose (bytes, seconds) of this very group are `measured`. `limit_bytes_per_s` is what the
    links let through, as `limit` says.
    """

    lines: Sequence[Sequence[Estimate]]
    chosen: Sequence[Estimate]
    corrected: Sequence[Estimate] = ()
    measured: Sequence[tuple[float, float]] = ()
    limit_bytes_per_s: float | None = None
    limit: str = ""


def bandwidth_figure(plot: Bandwidths, *, title: str = "") -> "Figure":
    """The plot, legible at 1400 x 820."""
    from plotly.graph_objects import Figure

    top = _top(plot)
    traces = [trace for panel in (0, 1) for trace in _traces(plot, panel)]
    return Figure(data=traces, layout=_layout(plot, title, top))


def bandwidth_page(
    plot: Bandwidths,
    *,
    title: str,
    facts: Sequence[tuple[str, str, str]] = (),
    columns: Sequence[str] = (),
    rows: Sequence[Sequence[object]] = (),
    notes: Sequence[str] = (),
) -> str:
    """One offline page: headline numbers, the plot, the sizes that were asked for, where the numbers come from."""
    diagram = _diagram(bandwidth_figure(plot))
    tables = [
        Section(
            "Sizes asked for",
            columns,
            [[_flush(cell) for cell in row] for row in rows],
            "algbw = bytes / time, busbw = algbw × nccl-tests' factor",
        ),
        Section("Where the numbers come from", ("",), [[note] for note in notes]),
    ]
    caption = (
        "Wide grey: the algorithm and protocol that are chosen at each size. Colour: algorithm. Line: Simple solid, "
        "LL128 dashed, LL dotted." + (" Points: measured, of the log." if plot.measured else "")
    )
    body = [
        _facts(facts),
        f'<figure style="overflow: hidden">{diagram}<figcaption>{caption}</figcaption></figure>',
        *(_table(table) for table in tables if table.rows),
    ]
    return _document(title, "Predicted by parsim from NCCL's own model and published measurements.", body)


def _traces(plot: Bandwidths, panel: int) -> Iterator[dict[str, Any]]:
    yield _line(plot.chosen, panel, "chosen", {"color": _CHOSEN, "width": 11}, "chosen", hover=False)
    for line in plot.lines:
        one = line[0]
        look = {"color": _colour(one), "width": 1.8, "dash": _DASHES.get(one.protocol, "solid")}
        yield _line(line, panel, _name(one), look, "option")
    if plot.corrected:
        yield _line(plot.corrected, panel, "corrected by the log", {"color": _CORRECTED, "width": 2.6}, "corrected")
    if plot.limit_bytes_per_s is not None and panel == 0:
        yield {
            "type": "scatter",
            "mode": "lines",
            "x": [plot.chosen[0].size_bytes, plot.chosen[-1].size_bytes],
            "y": [plot.limit_bytes_per_s / 1e9] * 2,
            "line": {"color": MUTED, "width": 1, "dash": "dashdot"},
            "hoverinfo": "skip",
            "showlegend": False,
            "meta": {"role": "limit"},
        }
    if plot.measured:
        factor = bus_factor(plot.chosen[0].kind, plot.chosen[0].ranks)
        values = [size / seconds * factor / 1e9 if panel == 0 else seconds * 1e6 for size, seconds in plot.measured]
        yield {
            "type": "scatter",
            "mode": "markers",
            "x": [size for size, _ in plot.measured],
            "y": values,
            "marker": {"color": "#ffffff", "size": 8, "line": {"color": _MEASURED, "width": 2}},
            "hovertext": [
                _hover("measured", size, seconds, size / seconds * factor) for size, seconds in plot.measured
            ],
            "hovertemplate": "%{hovertext}<extra></extra>",
            "cliponaxis": False,
            "showlegend": False,
            "yaxis": _axis(panel),
            "meta": {"role": "measured"},
        }


def _line(
    estimates: Sequence[Estimate], panel: int, name: str, look: dict[str, Any], role: str, *, hover: bool = True
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "x": [one.size_bytes for one in estimates],
        "y": [one.busbw_bytes_per_s / 1e9 if panel == 0 else one.seconds * 1e6 for one in estimates],
        "line": look,
        "name": name,
        "showlegend": False,
        "yaxis": _axis(panel),
        "meta": {"role": role},
    }
    if not hover:
        return trace | {"hoverinfo": "skip"}
    labels = [
        _hover(
            name if role == "option" else f"{name}, {_name(one)}", one.size_bytes, one.seconds, one.busbw_bytes_per_s
        )
        for one in estimates
    ]
    return trace | {"hovertext": labels, "hovertemplate": "%{hovertext}<extra></extra>"}


def _hover(name: str, size_bytes: float, seconds: float, rate: float) -> str:
    return f"<b>{name}</b><br>{format_bytes(size_bytes)} in {format_seconds(seconds)}<br>busbw {rate / 1e9:.4g} GB/s"


def _layout(plot: Bandwidths, title: str, top: float) -> dict[str, Any]:
    low, high = plot.chosen[0].size_bytes, plot.chosen[-1].size_bytes
    times = [one.seconds * 1e6 for one in _all(plot)] + [seconds * 1e6 for _, seconds in plot.measured]
    floor, ceiling = log10(min(times)) - 0.1, log10(max(times)) + 0.1
    text = {"size": 12, "color": MUTED}
    grid = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "tickfont": {"size": 12, "color": MUTED}}
    sizes = size_ticks(low, high)
    across = {
        **grid,
        "type": "log",
        "range": [log10(low), log10(high) if high > low else log10(low) + 0.3],
        "tickvals": sizes,
        "ticktext": [format_bytes(size) for size in sizes],
        "title": {"text": "size (bytes as nccl-tests counts them)", "font": text, "standoff": 10},
        "anchor": "y2",
    }
    return {
        "height": _HEIGHT,
        "title": {"text": title, "font": {"size": 18, "color": INK}, "x": 0.01, "xanchor": "left"} if title else None,
        "font": {"family": _FONT, "color": INK},
        "margin": {"l": 76, "r": _RIGHT_PX, "t": _TOP_PX + (34 if title else 0), "b": _BOTTOM_PX},
        "plot_bgcolor": "#ffffff",
        "paper_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": _FONT, "size": 13}, "bgcolor": "#ffffff", "bordercolor": GRID},
        "xaxis": across,
        "yaxis": {
            **grid,
            "domain": _UPPER,
            "range": [0, top],
            "title": {"text": "bus bandwidth (GB/s)", "font": text, "standoff": 10},
        },
        "yaxis2": {
            **grid,
            "type": "log",
            "domain": _LOWER,
            "range": [floor, ceiling],
            "tickvals": [10.0**power for power in range(ceil(floor), ceil(ceiling))],
            "ticktext": [format_seconds(10.0**power * 1e-6) for power in range(ceil(floor), ceil(ceiling))],
            "title": {"text": "time", "font": text, "standoff": 10},
        },
        "annotations": [*_labels(plot, top, 34 if title else 0), *_limit_label(plot)],
    }


def _labels(plot: Bandwidths, top: float, above_px: int) -> list[dict[str, Any]]:
    """A label at the end of each line, moved apart where ends are close."""
    height = (_HEIGHT - _TOP_PX - _BOTTOM_PX - above_px) * (_UPPER[1] - _UPPER[0])
    ends = [(line[-1].busbw_bytes_per_s / 1e9, _name(line[-1]), _colour(line[-1])) for line in plot.lines]
    if plot.corrected:
        ends.append((plot.corrected[-1].busbw_bytes_per_s / 1e9, "<b>corrected by the log</b>", _CORRECTED))
    chosen = _name(plot.chosen[-1])
    places = apart([value / top * height for value, _, _ in ends], _LABEL_PX, height)
    return [
        {
            "text": (f"<b>{name}</b>" if name == chosen else name) + f"  {value:.3g}",
            "x": 1,
            "xref": "paper",
            "xanchor": "left",
            "xshift": 8,
            "y": 0,
            "yref": "y",
            "yanchor": "middle",
            "yshift": place,
            "showarrow": False,
            "font": {"size": 12, "color": colour},
        }
        for (value, name, colour), place in zip(ends, places, strict=True)
    ]


def _limit_label(plot: Bandwidths) -> Iterator[dict[str, Any]]:
    if plot.limit_bytes_per_s is not None:
        yield {
            "text": plot.limit,
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "xshift": 6,
            "y": plot.limit_bytes_per_s / 1e9,
            "yref": "y",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 11, "color": MUTED},
        }


def _top(plot: Bandwidths) -> float:
    """The end of the axis: what is drawn, and the limit unless it is far above."""
    rates = [one.busbw_bytes_per_s for one in _all(plot)]
    factor = bus_factor(plot.chosen[0].kind, plot.chosen[0].ranks)
    rates += [size / seconds * factor for size, seconds in plot.measured]
    most = max(rates)
    if plot.limit_bytes_per_s is not None and plot.limit_bytes_per_s < 2 * most:
        most = max(most, plot.limit_bytes_per_s)
    return most / 1e9 * 1.04


def _all(plot: Bandwidths) -> Iterator[Estimate]:
    for line in (*plot.lines, plot.chosen, plot.corrected):
        yield from line


def _axis(panel: int) -> str:
    return ("y", "y2")[panel]


def _name(one: Estimate) -> str:
    algorithm = _NAMES.get(one.algorithm, one.algorithm)
    return f"{algorithm} {one.protocol}" if one.algorithm in ("ring", "tree") else algorithm


def _colour(one: Estimate) -> str:
    return _COLOURS.get(one.algorithm, _COLOURS["ring"])
