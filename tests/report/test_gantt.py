"""The diagram holds every op once, where and when it was played, with the curves of what ranks hold below it."""

import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from parsim.metrics import activation_peaks
from parsim.plan import Kind, Op
from parsim.report import comparison, gantt
from parsim.report.curves import curves_of
from parsim.report.scale import scale_of
from parsim.schedules import build
from parsim.timeline import MemorySample, Span, Timeline

Play = Callable[..., Timeline]
CASES = [
    ("1f1b", 4, 8, None),
    ("interleaved", 4, 8, 2),
    ("zb-h1", 4, 8, None),
    ("zb-v", 4, 8, 2),
    ("dualpipe", 4, 8, None),
]


def roles(figure: Any, *names: str) -> list[Any]:
    return [trace for trace in figure.data if (trace.meta or {}).get("role") in names]


def drawn(figure: Any) -> Counter[tuple[int, str, float, float]]:
    """(rank, op, start, end) of every bar, read back from what hovering shows."""
    found: Counter[tuple[int, str, float, float]] = Counter()
    for trace in roles(figure, "bars", "points"):
        for rank, row in zip(trace.y, trace.customdata, strict=True):
            kind = Kind(trace.legendgroup)
            op = Op(int(row[0]), kind, None if row[1] < 0 else int(row[1]))
            found[int(rank), str(op), round(float(row[2]), 3), round(float(row[3]), 3)] += 1
    return found


def recorded(timeline: Timeline, factor: float = 1.0) -> Counter[tuple[int, str, float, float]]:
    return Counter(
        (span.rank, str(span.op), round(span.start_s * factor, 3), round(span.end_s * factor, 3))
        for span in timeline.spans
    )


@pytest.mark.parametrize(("name", "pp", "m", "v"), CASES)
def test_every_op_is_a_bar(played: Play, name: str, pp: int, m: int, v: int | None) -> None:
    timeline = played(name, pp, m, v)
    figure = gantt(timeline, unit="units")
    assert drawn(figure) == recorded(timeline)
    for trace in roles(figure, "bars"):
        np.testing.assert_allclose(np.array(trace.base, dtype=float), trace.customdata[:, 2])
        np.testing.assert_allclose(np.array(trace.base, dtype=float) + trace.x, trace.customdata[:, 3])
        assert "waited" in trace.hovertemplate
        assert "micro-batch" in trace.hovertemplate or trace.legendgroup in ("REDUCE_GRAD", "STEP")
    assert figure.layout.xaxis.title.text == "time (units)"
    assert figure.layout.yaxis.range == (pp - 0.5, -0.5), "rank 0 on top"


@pytest.mark.parametrize(("name", "pp", "m", "v"), CASES)
def test_a_dense_diagram_holds_the_same(
    played: Play, monkeypatch: pytest.MonkeyPatch, name: str, pp: int, m: int, v: int | None
) -> None:
    monkeypatch.setattr(sys.modules["parsim.report.gantt"], "DENSE", 10)  # the function hides its module
    timeline = played(name, pp, m, v)
    figure = gantt(timeline, unit="units")
    assert not roles(figure, "bars")
    assert drawn(figure) == recorded(timeline)
    fills, points, zooms = (roles(figure, role) for role in ("fill", "points", "zoom"))
    assert len(fills) == len(points) == len(zooms)
    for fill, point in zip(fills, points, strict=True):
        corners = np.asarray(fill.x).reshape(-1, 5)
        np.testing.assert_allclose(corners[:, 0], np.asarray(point.customdata)[:, 2])
        np.testing.assert_allclose(corners[:, 1], np.asarray(point.customdata)[:, 3])
        assert np.isnan(corners[:, 4]).all()


def test_an_overlapped_pair_stands_in_two_lanes(played: Play) -> None:
    timeline = played("dualpipe", 4, 8)
    figure = gantt(timeline, unit="units")
    pairs = [trace for trace in roles(figure, "bars") if trace.hovertext is not None]
    assert sum(len(trace.y) for trace in pairs) == sum("pair" in span.detail for span in timeline.spans) > 0
    for trace in pairs:
        middle = trace.offset + trace.width / 2
        assert middle < 0 if trace.legendgroup == "F" else middle > 0, "y grows downwards: F above, B below"
    whole = next(trace for trace in roles(figure, "bars") if trace.hovertext is None)
    assert pairs[0].width == pytest.approx(whole.width / 2)


def test_local_stages_have_shades_and_the_legend_says_what_letters_mean(played: Play) -> None:
    figure = gantt(played("interleaved", 4, 8, 2), unit="units")
    forwards = [trace for trace in roles(figure, "bars") if trace.legendgroup == "F"]
    assert len({trace.marker.color for trace in forwards}) == 2
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert legend == ["idle", "F = forward", "B = I + W in one (full backward)", "reduce gradients", "optimizer step"]


def test_numbers_are_written_where_they_fit(played: Play) -> None:
    wide = gantt(played("1f1b", 4, 8), unit="units")
    texts = [text for trace in roles(wide, "bars") if trace.legendgroup in "FB" for text in trace.text]
    assert Counter(texts) == {str(mb): 8 for mb in range(8)}
    narrow = gantt(played("1f1b", 8, 300), unit="units")
    assert not any(text for trace in roles(narrow, "bars") for text in trace.text)


@pytest.mark.parametrize(("name", "pp", "m", "v"), CASES)
def test_curves_without_samples_are_activations_in_flight(
    played: Play, name: str, pp: int, m: int, v: int | None
) -> None:
    curves = curves_of(played(name, pp, m, v))
    assert tuple(curve.totals[curve.peak] for curve in curves) == activation_peaks(build(name, pp, m, v))
    assert all(curve.totals[-1] == 0 and not curve.measures_bytes for curve in curves)


def test_memory_curves_mark_the_moment_of_the_peak() -> None:
    spans = (Span(0, "compute", Op(0, Kind.F, 0), 0.0, 1.0), Span(0, "compute", Op(0, Kind.B, 0), 1.0, 3.0))
    gib = 2.0**30
    samples = (
        MemorySample(0, 0.0, {"parameters": 2 * gib, "activations": gib}),
        MemorySample(0, 1.0, {"parameters": 2 * gib, "activations": 5 * gib}),
        MemorySample(0, 3.0, {"parameters": 2 * gib, "activations": 0.0}),
    )
    timeline = Timeline(1, spans, samples)
    (curve,) = curves_of(timeline)
    assert (curve.times_s[curve.peak], curve.totals[curve.peak], curve.during) == (1.0, 7 * gib, "0B0")
    figure = gantt(timeline, unit="units", capacity_bytes=8 * gib)
    (line,), (peaks,), (limit,) = (roles(figure, role) for role in ("curve", "peaks", "capacity"))
    assert line.line.shape == "hv"
    assert list(line.y) == [3, 7, 2]
    assert "parameters 2.00 GiB" in line.hovertemplate
    assert "activations %{customdata[0]" in line.hovertemplate
    assert (peaks.x, peaks.y) == ((1.0,), (7.0,))
    assert "during 0B0" in peaks.hovertext[0]
    assert "activations 5 GiB" in peaks.hovertext[0]
    assert limit.y == (8, 8)
    assert {trace.xaxis for trace in figure.data} == {None}, "everything shares one time axis"


def test_streams_have_strips_of_their_own() -> None:
    spans = (
        Span(0, "compute", Op(0, Kind.F, 0), 0.0, 1.0),
        Span(0, "p2p", Op(0, Kind.SEND_F, 0), 1.0, 2.0),
        Span(0, "collective", Op(0, Kind.REDUCE_GRAD), 1.0, 2.0),
        Span(0, "compute", Op(0, Kind.STEP), 2.0, 2.0),
    )
    figure = gantt(Timeline(1, spans), unit="s")
    lanes = sorted((trace.offset, trace.offset + trace.width) for trace in roles(figure, "bars"))
    assert len(lanes) == 3, "an op that takes no time has no bar"
    assert all(end <= start + 1e-12 for (_, end), (start, _) in pairwise(lanes))


def test_two_recordings_share_a_time_axis(played: Play) -> None:
    a, b = played("1f1b", 4, 8, unit=0.01, memory=True), played("1f1b", 4, 8, unit=0.02, memory=True)
    figure = comparison(a, b, labels=("predicted", "measured"))
    assert {trace.yaxis for trace in roles(figure, "bars")} == {"y", "y2"}
    assert {trace.yaxis for trace in roles(figure, "curve")} == {"y3", "y4"}
    assert figure.layout.xaxis.range[1] >= b.makespan_s * 1e3
    assert drawn(figure) == recorded(a, 1e3) + recorded(b, 1e3)
    assert figure.layout.yaxis.domain[0] >= figure.layout.yaxis2.domain[1], "the first stands above the second"


@pytest.mark.parametrize(
    ("end_s", "unit", "shown"),
    [(12.0, "s", "s"), (0.5, "s", "ms"), (2e-3, "s", "µs"), (33, "units", "units"), (0, "s", "µs")],
)
def test_time_is_shown_in_a_fitting_unit(end_s: float, unit: str, shown: str) -> None:
    assert scale_of(end_s, unit).unit == shown


def test_an_empty_recording_draws_an_empty_diagram() -> None:
    figure = gantt(Timeline(2, ()))
    assert not roles(figure, "bars", "curve")


def test_titles_and_facts_are_text_and_not_markup(played: Play) -> None:
    figure = gantt(played("1f1b", 2, 2), title="<a href='x'>m</a>", facts=[("<i>", "1", "")], unit="<u>")
    assert "<a" not in figure.layout.title.text
    assert "<i>" not in figure.layout.title.text
    assert "<u>" not in figure.layout.xaxis.title.text
