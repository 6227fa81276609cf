"""The bandwidth plot holds every option, names each at its end, and opens in a browser without a complaint."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.network.estimate import Estimate, bus_factor, estimate, options
from parsim.network.reach import Reach, reach_of_size
from parsim.report.bandwidth_plot import Bandwidths, bandwidth_figure, bandwidth_page
from parsim.report.labels import apart
from parsim.spec import load_cluster

SIZES = [2**power for power in range(10, 35)]
NAMES = {
    "ring LL",
    "ring LL128",
    "ring Simple",
    "tree LL",
    "tree LL128",
    "tree Simple",
    "NVLS tree",
    "CollNet (SHARP)",
}


def plot_of(kind: str, reach: Reach, measured: bool = False) -> Bandwidths:
    lines: dict[tuple[str, str], list[Estimate]] = {}
    for size in SIZES:
        for one in options(kind, size, reach):
            lines.setdefault((one.algorithm, one.protocol), []).append(one)
    chosen = [estimate(kind, size, reach) for size in SIZES]
    return Bandwidths(
        lines=list(lines.values()),
        chosen=chosen,
        corrected=chosen if measured else [],
        measured=[(one.size_bytes, one.seconds * 1.2) for one in chosen[::4]] if measured else [],
        limit_bytes_per_s=400e9,
        limit="a limit",
    )


def roles(figure: Any, role: str) -> list[Any]:
    return [trace for trace in figure.data if trace.meta["role"] == role]


MANY = reach_of_size(load_cluster("dgx-h100"), 4)


def test_every_option_is_a_line_in_both_panels() -> None:
    figure = bandwidth_figure(plot_of("all_reduce", MANY))
    for axis in (None, "y2"):
        drawn = [trace for trace in roles(figure, "option") if (trace.yaxis or "y") == (axis or "y")]
        assert {trace.name for trace in drawn} == NAMES
        assert len(drawn) == len(NAMES)
        assert len({(trace.line.color, trace.line.dash) for trace in drawn}) == len(NAMES)
    labels = [note.text for note in figure.layout.annotations]
    assert all(any(name in label for label in labels) for name in NAMES)


def test_lines_hold_what_was_estimated() -> None:
    plot = plot_of("all_reduce", MANY)
    figure = bandwidth_figure(plot)
    above, below = roles(figure, "chosen")
    assert list(above.x) == SIZES == list(below.x)
    assert list(above.y) == [one.busbw_bytes_per_s / 1e9 for one in plot.chosen]
    assert list(below.y) == [one.seconds * 1e6 for one in plot.chosen]
    for trace, line in zip(roles(figure, "option"), plot.lines, strict=False):
        assert list(trace.y) == [one.busbw_bytes_per_s / 1e9 for one in line]
    high = max(max(trace.y) for trace in figure.data if trace.yaxis in (None, "y"))
    assert figure.layout.yaxis.range[1] >= high


def test_measured_points_are_where_they_were_measured() -> None:
    plot = plot_of("all_reduce", MANY, measured=True)
    above, below = roles(bandwidth_figure(plot), "measured")
    factor = bus_factor("all_reduce", MANY.ranks)
    assert list(above.x) == [size for size, _ in plot.measured]
    assert list(above.y) == pytest.approx([size / seconds * factor / 1e9 for size, seconds in plot.measured])
    assert list(below.y) == pytest.approx([seconds * 1e6 for _, seconds in plot.measured])
    assert not roles(bandwidth_figure(plot_of("all_reduce", MANY)), "measured")


@pytest.mark.parametrize("kind", ["all_to_all", "send", "broadcast"])
def test_kinds_of_one_algorithm(kind: str) -> None:
    figure = bandwidth_figure(plot_of(kind, MANY))
    assert roles(figure, "option")


@pytest.mark.parametrize("sizes", [(1, 2), (2**20, 2**20), (8, 2**59)])
def test_any_range_has_ticks(sizes: tuple[int, int]) -> None:
    chosen = [estimate("all_gather", size, MANY) for size in sizes]
    figure = bandwidth_figure(Bandwidths([chosen], chosen))
    low, high = figure.layout.xaxis.range
    assert low < high
    assert 1 <= len(figure.layout.xaxis.tickvals) <= 16


places = st.lists(st.floats(-50, 600), min_size=1, max_size=20)


@given(wanted=places)
def test_labels_are_moved_apart_and_keep_their_order(wanted: list[float]) -> None:
    found = apart(wanted, 17, 500)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    for lower, upper in pairwise(order):
        assert found[upper] - found[lower] >= 17 - 1e-6
    assert min(found) >= 0
    if 17 * (len(wanted) - 1) <= 500:
        assert max(found) <= 500 + 1e-6


def test_labels_with_room_stay() -> None:
    assert apart([0, 100, 50], 17, 500) == [0, 100, 50]


def test_the_page_is_offline_and_escapes(browser: Any) -> None:
    page = bandwidth_page(
        plot_of("all_reduce", MANY, measured=True),
        title="<script>alert(1)</script>",
        facts=[("time", "1 us", "<b>")],
        columns=["bytes", "time"],
        rows=[["1 <MiB>", "2 us"]],
        notes=["from <nowhere>"],
    )
    assert "default-src 'none'" in page
    assert "<script>alert(1)" not in page
    dom = browser.dom(page)
    assert dom.count('class="scatterlayer') >= 1
    for words in ("ring Simple", "NVLS tree", "corrected by the log", "a limit", "16 GiB", "from &lt;nowhere&gt;"):
        assert words in dom
