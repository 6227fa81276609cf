"""Programs: what their arrays hold, and which plans are refused."""

from dataclasses import replace

import numpy as np
import pytest

from parsim.cost.unit import UnitCost
from parsim.errors import DeadlockError, ScheduleError
from parsim.plan import (
    Kind,
    Placement,
    Plan,
    Slot,
    add_gradient_reduction,
    add_optimizer_step,
    parse_csv,
    parse_slot,
    straight,
)
from parsim.schedules import build, names
from parsim.sim import compile_plan, play, prices


def plan_of(*rows: str) -> Plan:
    """A straight plan, as it is: sound or not."""
    orders = tuple(tuple(parse_slot(cell) for cell in row.split()) for row in rows)
    mbs = 1 + max(op.mb or 0 for order in orders for slot in order for op in slot.ops)
    return Plan("given", straight(len(rows)), mbs, orders)


def test_two_ranks_by_hand() -> None:
    program = compile_plan(plan_of("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"))
    assert " ".join(map(str, program.slots)) == "0F0 0F1 1F0 1B0 0B0 1F1 1B1 0B1"
    assert program.cuts.tolist() == [0, 1, 3, 4, 6, 7, 8]
    assert program.prev.tolist() == [0, 1, 0, 3, 2, 4, 6, 5]
    assert program.dep.tolist() == [[0, 0, 1, 0, 4, 2, 0, 7]]
    assert program.boundaries == ((0, 1), (1, 0))
    assert program.edge.tolist() == [[2, 2, 0, 2, 1, 0, 2, 1]]
    assert [str(slot) for slot in program.priced] == ["0F0", "0B0", "1F0", "1B0"]
    assert program.last.tolist() == [7, 8]
    assert program.lines == ((0, 0, [1, 2, 5, 8]), (1, 0, [3, 4, 6, 7]))


@pytest.mark.parametrize(
    ("name", "pp", "inputs"),
    [("1f1b", 1, 0), ("1f1b", 4, 1), ("interleaved", 4, 1), ("zb-h2", 4, 1), ("zb-v", 4, 1), ("dualpipe", 4, 2)],
)
def test_rows_have_as_few_inputs_as_possible(name: str, pp: int, inputs: int) -> None:
    plan = build(name, pp, 8)
    assert len(compile_plan(plan).dep) == inputs
    # DualPipe's reductions wait for the twin stage on another rank too, besides their own.
    assert len(compile_plan(add_optimizer_step(add_gradient_reduction(plan))).dep) == max(inputs, 1)


@pytest.mark.parametrize("name", names())
def test_levels_follow_each_other_and_ranks_follow_in_a_level(name: str) -> None:
    program = compile_plan(add_optimizer_step(add_gradient_reduction(build(name, 4, 8))))
    level = np.concatenate(([0], np.repeat(np.arange(1, program.levels + 1), np.diff(program.cuts))))
    inputs = np.vstack((program.prev, program.dep))
    assert (level[inputs].max(axis=0) + 1 == level[1:]).all()
    assert all((np.diff(program.rank[a:b]) >= 0).all() for a, b in zip(program.cuts, program.cuts[1:], strict=False))


def test_messages_are_delays_and_one_of_each_is_priced() -> None:
    small, large = compile_plan(build("1f1b", 4, 8)), compile_plan(build("1f1b", 4, 64))
    assert small.boundaries == large.boundaries
    assert [(slot.first[:2]) for slot in small.priced] == [(slot.first[:2]) for slot in large.priced]
    assert len(large.priced) == 8


def test_a_step_waits_for_its_reduction_and_computing_does_not() -> None:
    """F = 1, B = 2, a reduction of 5 beside the backwards of the rank's other stage, then steps of 1."""

    class Cost(UnitCost):
        def seconds(self, slot: Slot) -> float:
            return {Kind.REDUCE_GRAD: 5.0, Kind.STEP: 1.0}.get(slot.first.kind) or super().seconds(slot)

    plan = add_optimizer_step(add_gradient_reduction(build("interleaved", 1, 1, 2)))
    assert " ".join(map(str, plan.orders[0])) == "0F0 1F0 1B0 1REDUCE_GRAD 0B0 0REDUCE_GRAD 0STEP 1STEP"
    program = compile_plan(plan)
    ends = dict(zip(map(str, program.slots), play(program, prices(program, Cost())).ends[1:, 0].tolist(), strict=True))
    assert ends == {
        "0F0": 1, "1F0": 2, "1B0": 4, "1REDUCE_GRAD": 9, "0B0": 6, "0REDUCE_GRAD": 14, "0STEP": 15, "1STEP": 16,
    }  # fmt: skip


def test_rendezvous_by_hand() -> None:
    """F = B = 1, delay 0.5. Rank 1 is busy with mb 0 while 0F1 ends at 2.5: its message waits, and so does rank 0."""
    plan = plan_of("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1")
    for sends, expected in [
        ("buffered", {"0F0": 1, "0F1": 2, "1F0": 2.5, "1B0": 3.5, "0B0": 5, "1F1": 4.5, "1B1": 5.5, "0B1": 7}),
        (
            "rendezvous",
            {
                "0F0": 1, "0SEND_F0": 1.5, "0F1": 2.5, "1F0": 2.5, "1B0": 3.5, "0SEND_F1": 4, "1SEND_B0": 4,
                "0B0": 5, "1F1": 5, "1B1": 6, "1SEND_B1": 6.5, "0B1": 7.5,
            },
        ),
    ]:  # fmt: skip
        program = compile_plan(plan, sends)
        played = play(program, prices(program, UnitCost({"B": (1.0,), "P2P": (0.5,)})))
        assert dict(zip(map(str, program.slots), played.ends[1:, 0].tolist(), strict=True)) == expected


def test_a_send_that_nobody_will_take_is_named() -> None:
    plan = plan_of("0F0 0F1 0B0 0B1", "1F1 1F0 1B0 1B1")
    compile_plan(plan)
    with pytest.raises(DeadlockError) as refused:
        compile_plan(plan, "rendezvous")
    assert str(refused.value) == (
        "given deadlocks with rendezvous sends on ranks 0, 1: 0F1 on rank 0 waits for 0SEND_F0 on rank 0 waits for "
        "1F1 on rank 1 waits for 0SEND_F1 on rank 0 waits for 0F1 on rank 0; buffered sends would do"
    )


@pytest.mark.parametrize(
    ("rows", "error", "reads"),
    [
        (("0F0 0F1 0B0 0B1", "1F0 1F1 1B1"), ScheduleError, "rank 1 never plays 1B0"),
        (("0F0 0B0 0B0", "1F0 1B0"), ScheduleError, "rank 0 plays 0B0 twice"),
        (("0F0 0B0 2F0", "1F0 1B0"), ScheduleError, "2F0, but the plan has stages 0 to 1"),
        (("0B0 0F0", "1F0 1B0"), DeadlockError, "rank 0 waits at 0B0 for 0F0"),
        (("0F0 0W0 0I0", "1F0 1B0"), DeadlockError, "rank 0 waits at 0W0 for 0I0"),
        (("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"), DeadlockError, "plan deadlocks: rank 0 waits at 0B0 for 1B0"),
        (("0F0 (0F1;0B1)OVERLAP_F_B 0B0", "1F0 1F1 1B0 1B1"), DeadlockError, "in the same slot"),
        (("0UNSHARD 0F0 0B0", "1F0 1B0"), ScheduleError, "0UNSHARD cannot be simulated yet; the players know F, B, I"),
    ],
)
def test_plans_that_cannot_be_played(rows: tuple[str, ...], error: type[Exception], reads: str) -> None:
    for sends in ("buffered", "rendezvous"):
        with pytest.raises(error, match=reads) as refused:
            compile_plan(plan_of(*rows), sends)
        assert "\n" not in str(refused.value)


def test_out_of_range_micro_batches_and_unknown_sends_are_refused() -> None:
    plan = plan_of("0F0 0F1 0B0 0B1")
    with pytest.raises(ScheduleError, match="0F1, but micro-batches go from 0 to 0"):
        compile_plan(replace(plan, microbatches=1))
    with pytest.raises(ScheduleError, match="sends 'eager': one of buffered, rendezvous"):
        compile_plan(plan, "eager")


def test_impossible_times_are_refused() -> None:
    program = compile_plan(build("1f1b", 2, 2))
    for times, reads in [
        ({"F": (float("nan"),)}, "0F0 takes nan"),
        ({"B": (1.0, -1.0)}, "1B0 takes -1.0"),
        ({"P2P": (float("inf"),)}, "stage 0 to stage 1 takes inf"),
    ]:
        with pytest.raises(ScheduleError, match=reads):
            prices(program, UnitCost(times))


def test_placements_without_order_play_too() -> None:
    """Stages scattered over ranks, one rank with three of them: a local hand-over has no delay."""
    placement = Placement(((0, 1, 2, 3),), (1, 1, 0, 1), (0, 1, 2, 3))
    orders = tuple(tuple(parse_slot(cell) for cell in row.split()) for row in ("2F0 2B0", "0F0 1F0 3F0 3B0 1B0 0B0"))
    program = compile_plan(Plan("scattered", placement, 1, orders))
    assert program.boundaries == ((1, 2), (2, 1), (2, 3), (3, 2))
    played = play(program, prices(program, UnitCost({"P2P": (0.25,)})))
    assert played.makespan == 4 + 8 + 4 * 0.25


def test_a_csv_plays_as_the_schedule_it_spells() -> None:
    program = compile_plan(parse_csv("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"))
    assert play(program, prices(program, UnitCost())).makespan == 9
