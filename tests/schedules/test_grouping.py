"""Interleaving's groups of micro-batches: PyTorch's equal rounds, and Megatron's groups with a short last one."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parsim.errors import ScheduleError
from parsim.plan import Kind, check
from parsim.schedules import build, get


def ops(plan, rank: int, kind: Kind) -> str:
    return " ".join(str(op) for slot in plan.orders[rank] for op in slot.ops if op.kind is kind)


def test_megatrons_short_last_group_by_hand() -> None:
    """Two ranks, two stages each, five micro-batches in groups of three: 0 1 2, then 3 4."""
    plan = build("interleaved", 2, 5, 2, group_size=3)
    assert ops(plan, 0, Kind.F) == "0F0 0F1 0F2 2F0 2F1 2F2 0F3 0F4 2F3 2F4"
    assert ops(plan, 0, Kind.B) == "2B0 2B1 2B2 0B0 0B1 0B2 2B3 2B4 0B3 0B4"
    # Warm-up (v-1)g + 2(p-1-r): 3 + 2 on rank 0, 3 on rank 1.
    assert " ".join(map(str, plan.orders[0])) == (
        "0F0 0F1 0F2 2F0 2F1 2F2 2B0 0F3 2B1 0F4 2B2 2F3 0B0 2F4 0B1 0B2 2B3 2B4 0B3 0B4"
    )
    assert [str(slot) for slot in plan.orders[1][:5]] == ["1F0", "1F1", "1F2", "3F0", "3B0"]
    check(plan)


@given(pp=st.integers(1, 8), rounds=st.integers(1, 4), v=st.integers(1, 4), extra=st.integers(0, 7))
def test_equal_groups_by_either_rule(pp: int, rounds: int, v: int, extra: int) -> None:
    """PyTorch's rounds of g micro-batches are Megatron's groups of that size."""
    assume(extra < pp)
    m = rounds * (pp + extra)
    assume(max(1, m // pp) == rounds)
    assert build("interleaved", pp, m, v) == build("interleaved", pp, m, v, group_size=pp + extra)


@given(pp=st.integers(1, 8), m=st.integers(1, 40), v=st.integers(1, 4), group=st.integers(1, 40))
def test_every_group_from_p_to_m_whose_rest_is_none_or_at_least_p(pp: int, m: int, v: int, group: int) -> None:
    legal = pp <= group <= m and (m % group == 0 or m % group >= pp)
    if not legal:
        with pytest.raises(ScheduleError, match="group"):
            build("interleaved", pp, m, v, group_size=group)
        return
    plan = build("interleaved", pp, m, v, group_size=group)
    check(plan)
    peak = get("interleaved").peak_activations(pp, m, v, 0, group_size=group)
    assert peak == min(m * v, (v - 1) * group + 2 * (pp - 1) + 1)


def test_interleaving_one_stage_a_rank() -> None:
    """The rule holds at v = 1 too: 1F1B's ops with a longer warm-up; the split one is ZB-H1 itself."""
    assert build("interleaved-zb", 4, 8, 1).orders == build("zb-h1", 4, 8).orders
    assert build("interleaved", 4, 8, 1).orders[-1] == build("1f1b", 4, 8).orders[-1]
    assert [str(slot) for slot in build("interleaved", 4, 8, 1).orders[0][:7]] == [f"0F{k}" for k in range(7)]


def test_dualpipe_counts_its_stages_both_ways() -> None:
    """One part a rank, held twice: as parts it is one a rank, as stages two; the plan is the same."""
    assert build("dualpipe", 4, 8, 1) == build("dualpipe", 4, 8, 2) == build("dualpipe", 4, 8)
