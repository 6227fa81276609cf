"""Three players and the tests' own give the same ends for any sound plan, and what must hold of any play does."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan import Plan, add_gradient_reduction, add_optimizer_step, check
from parsim.schedules import build, names
from parsim.sim import Noise, Prices, compile_plan, play, play_events, prices, stack
from parsim.sim.longest_path import play_levels, play_rows
from tests.sim.lower_bound import lower_bound

Make = Callable[..., object]
seeds = st.integers(0, 10**9)


def with_step_end(plan: Plan) -> Plan:
    return add_optimizer_step(add_gradient_reduction(plan))


def perturbed(name: str, seed: int) -> Plan:
    """A named schedule in which slots of random ranks have been moved later as long as the plan stays sound."""
    chance = random.Random(seed)
    plan = build(name, 4, 8)
    for _ in range(12):
        rank = chance.randrange(4)
        order = list(plan.orders[rank])
        at = chance.randrange(len(order))
        order.insert(min(at + chance.choice((1, 1, 2, 5)), len(order)), order.pop(at))
        moved = replace(plan, orders=(*plan.orders[:rank], tuple(order), *plan.orders[rank + 1 :]))
        try:
            check(moved)
        except ScheduleError:
            continue
        plan = moved
    return plan


def all_agree(plan: Plan, make_cost: Make, play_by_dict: Make, seed: int) -> None:
    costs = [make_cost(seed + lane) for lane in range(3)]
    for sends in ("buffered", "rendezvous"):
        expected = [play_by_dict(plan, cost, sends == "rendezvous") for cost in costs]
        if expected[0] is None:
            with pytest.raises(DeadlockError, match=r"^.* deadlocks with rendezvous sends on ranks \d.* would do$"):
                compile_plan(plan, sends)
            continue
        program = compile_plan(plan, sends)
        lanes = [prices(program, cost) for cost in costs]
        batch = play_levels(program, stack(lanes))
        assert (play_events(program, stack(lanes)).ends == batch.ends).all()
        for lane, (alone, ends) in enumerate(zip(lanes, expected, strict=True)):
            close = 1e-9 * max(ends.values())
            for played in (play_rows(program, alone), play_levels(program, alone), play_events(program, alone)):
                assert played.ends.shape == (program.rows + 1, 1)
                np.testing.assert_allclose(played.ends[:, 0], batch.ends[:, lane], rtol=0, atol=close)
                assert played.makespan == pytest.approx(max(ends.values()), abs=close)
            found = dict(zip(program.slots, batch.ends[1:, lane].tolist(), strict=True))
            assert {slot: found[slot] for slot in ends} == pytest.approx(ends, rel=0, abs=close)
            assert played.makespan >= lower_bound(program, alone)[0] - close


@settings(max_examples=150)
@given(seed=seeds, step_end=st.booleans())
def test_random_plans(make_plan: Make, make_cost: Make, play_by_dict: Make, seed: int, step_end: bool) -> None:
    plan = make_plan(seed)
    all_agree(with_step_end(plan) if step_end else plan, make_cost, play_by_dict, seed)


@settings(max_examples=40)
@given(seed=seeds, name=st.sampled_from(names()))
def test_named_schedules_with_slots_moved(make_cost: Make, play_by_dict: Make, seed: int, name: str) -> None:
    all_agree(with_step_end(perturbed(name, seed)), make_cost, play_by_dict, seed)


@settings(max_examples=60)
@given(
    seed=seeds, which=st.integers(0, 10**6), more=st.floats(0, 10), sends=st.sampled_from(("buffered", "rendezvous"))
)
def test_no_op_or_message_gets_faster_by_another_being_slower(
    make_plan: Make, make_cost: Make, seed: int, which: int, more: float, sends: str
) -> None:
    plan = with_step_end(make_plan(seed))
    try:
        program = compile_plan(plan, sends)
    except DeadlockError:
        program = compile_plan(plan)
    before = prices(program, make_cost(seed))
    durations, delays = before.durations.copy(), before.delays.copy()
    every = np.concatenate((durations, delays[:-1]))
    every[which % len(every)] += more
    slower = Prices(every[: len(durations)], np.append(every[len(durations) :], 0.0))
    assert (play(program, slower).ends >= play(program, before).ends).all()


@settings(max_examples=60)
@given(seed=seeds)
def test_rendezvous_is_never_faster(make_plan: Make, make_cost: Make, seed: int) -> None:
    plan = with_step_end(make_plan(seed))
    buffered = compile_plan(plan)
    try:
        blocking = compile_plan(plan, "rendezvous")
    except DeadlockError:
        return
    cost = make_cost(seed)
    fast, slow = play(buffered, prices(buffered, cost)), play(blocking, prices(blocking, cost))
    ends = dict(zip(blocking.slots, slow.ends[1:, 0].tolist(), strict=True))
    assert all(ends[slot] >= end for slot, end in zip(buffered.slots, fast.ends[1:, 0].tolist(), strict=True))


@settings(max_examples=60)
@example(seed=0, lanes=4, join=2, jitter=0.3)
@given(seed=seeds, lanes=st.integers(1, 6), join=st.integers(1, 6), jitter=st.sampled_from((0.0, 0.03, 0.5)))
def test_replicas_meet_in_their_reductions(
    make_plan: Make, make_cost: Make, seed: int, lanes: int, join: int, jitter: float
) -> None:
    """Lanes by lane of their own, but every REDUCE_GRAD of a group starts when the last lane is ready for it."""
    program = compile_plan(with_step_end(make_plan(seed)))
    priced = prices(program, make_cost(seed))
    table = Noise(jitter, {(lanes - 1, 0): 1.5}, seed).multipliers(program, lanes)
    if lanes % join:
        for player in (play, play_events):
            with pytest.raises(ScheduleError, match=f"join {join}: must divide the {lanes} lanes"):
                player(program, priced, table, join)
        return
    played, alone = play(program, priced, table, join), play(program, priced, table)
    np.testing.assert_array_equal(play_events(program, priced, table, join).ends, played.ends)
    starts = np.stack([played.starts(lane) for lane in range(lanes)], axis=1)
    for row in program.reductions + 1:
        groups = starts[row].reshape(-1, join)
        assert (groups == groups.max(axis=1, keepdims=True)).all()
    assert (played.ends >= alone.ends).all()
    computes = np.flatnonzero([slot.first.mb is not None for slot in program.slots]) + 1
    np.testing.assert_array_equal(played.ends[computes], alone.ends[computes])
    seconds = priced.durations[program.duration][:, None] * table
    np.testing.assert_array_equal(played.ends[1:], starts[1:] + seconds)


def test_any_number_of_equal_lanes_gives_equal_numbers(make_cost: Make) -> None:
    """On both sides of the switch between the loop and the arrays."""
    program = compile_plan(build("1f1b", 4, 16))
    lane = prices(program, make_cost(1))
    for lanes in (1, 2, 8, 64):
        wide = play(program, stack([lane] * lanes))
        assert wide.ends.shape == (program.rows + 1, lanes)
        assert (wide.ends == play(program, lane).ends).all()


def test_shapes_that_do_not_fit_are_refused_in_a_line(make_cost: Make) -> None:
    program, other = compile_plan(build("1f1b", 4, 8)), compile_plan(build("gpipe", 2, 8))
    lane = prices(program, make_cost(1))
    ones = np.ones((program.rows, 3))
    for wrong, table, reads in [
        (prices(other, make_cost(1)), None, "prices of 4 slots and 3 delays: the program has 8 and 7"),
        (lane, ones[1:], r"multipliers of shape \(63, 3\): the program has 64 rows"),
        (lane, ones[:, 0], r"multipliers of shape \(64,\)"),
        (stack([lane, lane]), ones, "multipliers of 3 lanes for prices of 2; 1 or as many"),
    ]:
        for player in (play, play_events):
            with pytest.raises(ScheduleError, match=reads):
                player(program, wrong, table)
