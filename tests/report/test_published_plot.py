"""The published plot shows every run twice, groups by their mean error, and far errors at its edge."""

from typing import Any

import pytest

from parsim.report.page import Section
from parsim.report.published_plot import PublishedRun, published_figure, published_page

RUNS = [
    *(PublishedRun(f"a{n}", "good", "h100", 1.0 + n, (1.0 + n) * 1.01) for n in range(7)),
    PublishedRun("b", "bad", "a100", 4.0, 8.0, experts=True),
    PublishedRun("<c>", "bad", "a100", 4.0, 3.0),
]


def roles(role: str) -> list[Any]:
    return [trace for trace in published_figure(RUNS).data if trace.meta["role"] == role]


def test_every_run_is_drawn_in_both_panels() -> None:
    for role in ("times", "errors"):
        assert sum(len(trace.x) for trace in roles(role)) == len(RUNS)
    assert sorted(trace.name for trace in roles("times")) == ["a100", "a100, experts", "h100"]


def test_groups_stand_by_their_mean_error() -> None:
    axis = published_figure(RUNS).layout.yaxis2
    assert [text.split()[0] for text in axis.ticktext] == ["bad", "good"]
    assert "62.5 %" in axis.ticktext[0]


def test_an_error_beyond_the_edge_is_drawn_at_it_and_told() -> None:
    far = next(trace for trace in roles("errors") if trace.name == "a100, experts")
    assert far.x[0] == pytest.approx(60)
    assert "+100.0 %" in far.hovertext[0]


def test_points_of_a_row_stay_in_it() -> None:
    for trace in roles("errors"):
        assert all(abs(y - round(y)) < 0.4 for y in trace.y)


def test_the_page_is_offline_and_escapes_what_it_is_given() -> None:
    text = published_page(RUNS, title="A <title>", sections=[Section("T", ("run", "error"), [["<c>", "-25.0 %"]])])
    assert "A &lt;title&gt;" in text
    assert '<td class="words">&lt;c&gt;</td>' in text
    assert 'src="http' not in text


def test_no_runs_no_failure() -> None:
    assert published_figure([]).data
