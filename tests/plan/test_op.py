"""Ops and slots print and parse back, and nothing else parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import ScheduleError
from parsim.plan import Kind, Op, Slot, parse_op, parse_slot
from parsim.plan.op import is_op, overlaps

WHOLE_STAGE = (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD, Kind.STEP)

numbers = st.integers(0, 10**9 - 1)
ops = st.one_of(
    st.builds(Op, numbers, st.sampled_from([kind for kind in Kind if kind not in WHOLE_STAGE]), numbers),
    st.builds(Op, numbers, st.sampled_from(WHOLE_STAGE), st.none()),
)
pairs = st.builds(
    Slot,
    st.builds(Op, numbers, st.just(Kind.F), numbers),
    st.builds(Op, numbers, st.sampled_from([Kind.B, Kind.I]), numbers),
)


@given(ops)
def test_an_op_prints_and_parses_back(op: Op) -> None:
    assert parse_op(str(op)) == op
    assert is_op(op)


@given(st.builds(Slot, ops, st.none()) | pairs)
def test_a_slot_prints_and_parses_back(slot: Slot) -> None:
    assert parse_slot(str(slot)) == slot


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("2F0", Op(2, Kind.F, 0)),
        ("1SEND_B3", Op(1, Kind.SEND_B, 3)),
        ("4REDUCE_GRAD", Op(4, Kind.REDUCE_GRAD)),
        ("0I12", Op(0, Kind.I, 12)),
        ("7RESHARD", Op(7, Kind.RESHARD)),
        ("3RELOAD1", Op(3, Kind.RELOAD, 1)),
        ("3STEP", Op(3, Kind.STEP)),
    ],
)
def test_the_spelling_is_pytorchs(text: str, op: Op) -> None:
    assert parse_op(text) == op
    assert str(op) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0F3x",
        "x0F3",
        "0F-1",
        "-1F0",
        "00F1",
        "0F01",
        "0F",
        "F0",
        "0f3",
        "0 F3",
        "0F3 ",
        "0F3\n",
        "\ufeff0F3",
        "0REDUCE_GRAD3",
        "0STEP0",
        "0SEND_F",
        "0X3",
        "0SEND_W1",
        "٣F0",
        "0F²",
        "1e3F0",
        "0F1F2",
        "1234567890F0",
        "0F9999999999",
        "(0F0;0B0)OVERLAP_F_B",
        "9" * 5000 + "F0",
    ],
)
def test_nothing_else_is_an_op(text: str) -> None:
    with pytest.raises(ScheduleError, match="is not an op"):
        parse_op(text)


@pytest.mark.parametrize(
    "text",
    [
        "(2F3)OVERLAP_F_B",
        "(2F3;5B1)",
        "(2F3;5B1)OVERLAP_F_Bx",
        "(2F3;5B1;1W0)OVERLAP_F_B",
        "((2F3;5B1);5B1)OVERLAP_F_B",
        "(2F3,5B1)OVERLAP_F_B",
        "(2F3; 5B1)OVERLAP_F_B",
        "2F3;5B1",
        "(;)OVERLAP_F_B",
        "OVERLAP_F_B",
    ],
)
def test_no_other_pair_is_a_slot(text: str) -> None:
    with pytest.raises(ScheduleError, match="is not an op"):
        parse_slot(text)


@pytest.mark.parametrize("text", ["(5B1;2F3)OVERLAP_F_B", "(2F3;5F1)OVERLAP_F_B", "(2F3;5W1)OVERLAP_F_B"])
def test_only_a_forward_and_a_backward_overlap(text: str) -> None:
    with pytest.raises(ScheduleError, match="only a forward and a backward overlap, in this order"):
        parse_slot(text)


@given(st.builds(Op, st.integers(-2, 2), st.sampled_from(Kind), st.none() | st.integers(-2, 2)))
def test_what_is_an_op_is_what_parses(op: Op) -> None:
    try:
        parses = parse_op(str(op)) == op
    except ScheduleError:
        parses = False
    assert is_op(op) == parses


@given(ops, ops)
def test_what_overlaps_is_what_parses(first: Op, second: Op) -> None:
    try:
        parses = parse_slot(str(Slot(first, second))) == Slot(first, second)
    except ScheduleError:
        parses = False
    assert overlaps(first, second) == parses
