"""Steps without a barrier: their period against many steps played one after the other, op by op."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cost import UnitCost
from parsim.plan import Plan, add_optimizer_step
from parsim.plan.deps import needs
from parsim.plan.op import COMPUTE
from parsim.schedules import build
from parsim.sim import compile_plan, play, prices
from parsim.sim.period import largest_circle_mean, lasting, step_period

SCHEDULES = [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1), ("zb-h2", 1), ("zb-v", 2), ("dualpipe", 2)]


def played_steps(plan: Plan, cost: UnitCost, steps: int) -> list[float]:
    """The latest end of each of several steps, found op by op: a rank begins when it has ended the step before."""
    present = {op for _, op in plan.ops()}
    placement, free, found = plan.placement, [0.0] * plan.placement.ranks, []
    for _ in range(steps):
        ends: dict[object, float] = {}
        at = [0] * placement.ranks
        while any(at[rank] < len(order) for rank, order in enumerate(plan.orders)):
            for rank, order in enumerate(plan.orders):
                while at[rank] < len(order):
                    slot = order[at[rank]]
                    inputs = [
                        (op, need)
                        for op in slot.ops
                        for need in needs(op, placement, present, plan.microbatches_per_chain)
                    ]
                    if any(need not in ends for _, need in inputs):
                        break
                    arrivals = [
                        ends[need] + (cost.hop_seconds(need.stage, op.stage) if _apart(plan, need, op) else 0.0)
                        for op, need in inputs
                    ]
                    free[rank] = max([free[rank], *arrivals]) + cost.seconds(slot)
                    ends |= dict.fromkeys(slot.ops, free[rank])
                    at[rank] += 1
        found.append(max(free))
    return found


def _apart(plan: Plan, first: object, second: object) -> bool:
    rank_of = plan.placement.rank_of
    message = first.kind in COMPUTE and second.kind in COMPUTE  # type: ignore[attr-defined]
    return message and rank_of[first.stage] != rank_of[second.stage]  # type: ignore[attr-defined]


def cost_of(stages: int, last: float, hop: float) -> UnitCost:
    forward = tuple([1.0] * (stages - 1) + [last])
    return UnitCost({"F": forward, "I": forward, "W": tuple(0.8 * f for f in forward), "P2P": (hop,)})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(SCHEDULES),
    st.integers(2, 3),
    st.integers(2, 6),
    st.sampled_from([1.0, 1.5, 0.6]),
    st.sampled_from([0.0, 0.3]),
)
def test_steps_settle_to_the_period(schedule: tuple[str, int], half: int, m: int, last: float, hop: float) -> None:
    name, v = schedule
    plan = add_optimizer_step(build(name, 2 * half, 2 * half * m, v))
    cost = cost_of(plan.placement.stages, last, hop)
    program = compile_plan(plan)
    found = play(program, prices(program, cost))
    ends = played_steps(plan, cost, 41)
    assert ends[0] == pytest.approx(found.makespan)
    assert (ends[40] - ends[16]) / 24 == pytest.approx(step_period(found))  # whole turns of periods up to four steps
    assert max(found.busy()) * (1 - 1e-12) <= step_period(found) <= found.makespan * (1 + 1e-12)
    assert (lasting(found, True), lasting(found, False)) == (found.makespan, step_period(found))


@pytest.mark.parametrize(("pp", "m"), [(4, 8), (8, 32)])
def test_zb_h2_has_no_bubble_left(pp: int, m: int) -> None:
    """2401.10241, figure 3: a parallelogram; its ranks work without a gap if no barrier waits for its far corner."""
    plan = build("zb-h2", pp, m)
    program = compile_plan(plan)
    found = play(program, prices(program, UnitCost()))
    assert step_period(found) == pytest.approx(3 * m)
    assert found.makespan == pytest.approx(3 * m + pp - 1)


def test_one_rank_and_a_flush_gain_nothing() -> None:
    program = compile_plan(build("gpipe", 1, 4))
    found = play(program, prices(program, UnitCost()))
    assert step_period(found) == found.makespan


def test_circles() -> None:
    """Of 0 -> 1 -> 0 with 3 and 5 the mean is 4; a loop of 4.5 on its own is more."""
    none = -np.inf
    assert largest_circle_mean(np.array([[1.0, 3.0], [5.0, none]])) == 4.0
    assert largest_circle_mean(np.array([[1.0, 3.0], [5.0, 4.5]])) == 4.5
