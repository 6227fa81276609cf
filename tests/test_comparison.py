"""Comparisons: the causes sum to the difference, and only like is compared with like."""

import json

import pytest

from parsim.comparison import compare, compare_results, parse_recording
from parsim.errors import SpecError
from parsim.plan import parse_op
from parsim.timeline import Span, Timeline, timeline_document


def recording(*spans: tuple[int, str, float, float], run: dict[str, object] | None = None) -> Timeline:
    return Timeline(2, tuple(Span(r, "compute", parse_op(op), a, b) for r, op, a, b in spans), run=run or {})


A = recording(
    (0, "0F0", 0, 1), (0, "0B0", 3, 5), (1, "1F0", 1, 2), (1, "1B0", 2, 3), run={"layout": {"tp": 1, "pp": 2}}
)
B = recording(
    (0, "0F0", 0, 2), (0, "0B0", 5, 7), (1, "1F0", 2, 3), (1, "1B0", 3, 5), run={"layout": {"tp": 2, "pp": 2}}
)


def test_causes_sum_to_the_difference() -> None:
    result = compare(A, B)
    assert result.total.delta == 2
    assert sum(cause.delta for cause in result.causes) == pytest.approx(2)
    assert {(op.name, op.delta) for op in result.ops} == {("0F", 1), ("1B", 1)}
    assert result.differences == (("layout.tp", 1, 2),)


def test_a_recording_reads_back_and_compares_equal() -> None:
    again = parse_recording(json.dumps(timeline_document(A)))
    assert again == A
    result = compare(A, again)
    assert result.total.delta == 0
    assert not result.ops


def test_results_compare_by_exposed_time() -> None:
    a = {"step_time_s": 10.0, "exposed_s": {"pipeline": 2.0, "tp": 1.0}}
    b = {"step_time_s": 12.0, "exposed_s": {"pipeline": 5.0, "tp": 0.5, "dp": 0.5}}
    result = compare_results(a, b)
    assert sum(cause.delta for cause in result.causes) == pytest.approx(2.0)
    assert result.causes[0].name == "pipeline"


@pytest.mark.parametrize(
    "text", ["{}", "[]", "3", '{"spans": 3}', '{"step_time_s": "x", "exposed_s": {}}', '{"spans": [}']
)
def test_refuses_what_is_neither(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_recording(text)
    assert "\n" not in str(caught.value)


def test_refuses_one_of_each_and_unequal_ranks() -> None:
    with pytest.raises(SpecError, match="same kind"):
        compare(A, {"step_time_s": 1.0, "exposed_s": {}})
    with pytest.raises(SpecError, match="2 and 1 ranks"):
        compare(A, Timeline(1, ()))
