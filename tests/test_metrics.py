"""Bubbles: known answers, and the three ratios told apart."""

import pytest

from parsim.metrics import bubble, busy_seconds
from parsim.plan import parse_op
from parsim.timeline import Span, Timeline


def span(rank: int, op: str, start: float, end: float, **detail: object) -> Span:
    return Span(rank, "compute", parse_op(op), start, end, 0.0, detail)


def test_two_ranks_by_hand() -> None:
    """Rank 0 works 3 of 4, rank 1 works 2 of 4 and could start at 1: spans 4 and 3."""
    timeline = Timeline(2, (span(0, "0F0", 0, 1), span(0, "0B0", 2, 4), span(1, "1F0", 1, 2), span(1, "1B0", 2.5, 3.5)))
    result = bubble(timeline, first_starts=[0.0, 1.0])
    assert result.makespan == 4
    assert result.ideal == 3
    assert result.of_makespan == pytest.approx((1 + 2) / (2 * 4))
    assert result.of_span == pytest.approx(max(1 / 4, 0.5 / 2.5))
    assert result.over_ideal == pytest.approx(4 / 3 - 1)


def test_an_overlapped_pair_is_busy_once() -> None:
    pair = [span(0, "0F1", 0, 2, pair="3B0"), span(0, "3B0", 0, 2, pair="0F1")]
    assert busy_seconds(pair) == 2
    timeline = Timeline(1, tuple(pair))
    assert bubble(timeline).of_makespan == 0


def test_an_empty_recording_has_no_bubble() -> None:
    result = bubble(Timeline(1, ()))
    assert (result.of_makespan, result.of_span, result.over_ideal) == (0, 0, 0)
