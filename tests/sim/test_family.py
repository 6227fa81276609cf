"""Any number of micro-batches from one small program: the interval always holds the truth, and exact is exact."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parsim.errors import ScheduleError
from parsim.plan import Plan, add_gradient_reduction, add_offload, add_optimizer_step
from parsim.schedules import Size, build, get, names
from parsim.sim import Family, Prices, Program, compile_plan, makespans, play, prices, steady_state
from parsim.sim.makespans import chunks_of, last_ends

STEADY = [name for name in names() if get(name).period(4, 8, get(name).default_stages) is not None]
TIMES = {"F": 1.0, "I": 1.1, "W": 0.8, "B": 1.9, "REDUCE_GRAD": 0.5, "STEP": 0.1, "OFFLOAD": 0.6, "RELOAD": 0.7}

Make = Callable[..., object]
seeds = st.integers(0, 10**9)


def plan_of(name: str, pp: int, m: int, v: int, offload: bool = False) -> Plan:
    plan = build(name, pp, m, v)
    plan = add_offload(plan, range(plan.placement.stages)) if offload else plan
    return add_optimizer_step(add_gradient_reduction(plan))


def family_of(name: str, pp: int, v: int, m: int, offload: bool = False) -> Family:
    return Family(
        lambda count: plan_of(name, pp, count, v, offload), lambda count: get(name).period(pp, count, v), pp, m
    )


def random_prices(program: Program, lanes: int, seed: int, spread: float, p2p: float, slow: float) -> Prices:
    """Stage times up to `spread` off, one stage `slow` times as slow, every boundary its own delay up to p2p * F."""
    chance = np.random.default_rng(seed)
    stages = program.plan.placement.stages
    factor = {kind: 1 + spread * chance.uniform(-1, 1, (stages, lanes)) for kind in TIMES}
    slow_stage = chance.integers(0, stages, lanes)
    durations = np.zeros((len(program.priced), lanes))
    for row, slot in enumerate(program.priced):
        for stage, kind, _ in slot.ops:
            durations[row] += TIMES[kind] * factor[kind][stage] * np.where(slow_stage == stage, slow, 1.0)
    hops, lags = len(program.boundaries), len(program.lags)
    delays = np.zeros((hops + lags + 1, lanes))
    even = chance.random(lanes) < 0.5
    delays[:hops] = np.where(even, p2p, chance.uniform(0, p2p, (hops, lanes)))
    delays[hops:-1] = chance.uniform(-0.5, 0, (lags, lanes))
    return Prices(durations, delays)


def priced_alone(program: Program, model: Program, lanes: Prices, lane: int) -> Prices:
    """One lane of the model's prices, as another program of the family orders them."""
    key = [tuple((op.stage, op.kind) for op in slot.ops) for slot in model.priced]
    rows = [key.index(tuple((op.stage, op.kind) for op in slot.ops)) for slot in program.priced]
    hops = [model.delayed.index(delayed) for delayed in program.delayed]
    return Prices(lanes.durations[rows, lane], lanes.delays[[*hops, -1], lane])


def legal_numbers(name: str, pp: int, v: int, most: int) -> list[int]:
    found = []
    for m in range(1, most):
        with suppress(ScheduleError):
            get(name).check(Size(pp, m, v))
            found.append(m)
    return found


@settings(max_examples=60)
@given(
    name=st.sampled_from(names()),
    pp=st.integers(1, 6),
    v=st.integers(1, 3),
    seed=seeds,
    spread=st.sampled_from((0.0, 0.02, 0.3)),
    p2p=st.sampled_from((0.0, 0.1, 0.5)),
    slow=st.sampled_from((1.0, 1.3)),
    offload=st.booleans(),
)
@example("gpipe", 4, 1, 0, 0.3, 0.5, 1.3, False)
@example("zb-v", 3, 2, 1, 0.02, 0.5, 1.0, False)
@example("interleaved", 4, 3, 2, 0.02, 0.1, 1.0, False)
@example("dualpipe", 4, 2, 3, 0.3, 0.5, 1.3, True)
def test_the_interval_holds_the_truth_and_settles_on_it(
    name: str, pp: int, v: int, seed: int, spread: float, p2p: float, slow: float, offload: bool
) -> None:
    pp += pp % 2 if name == "dualpipe" else 0
    v = v if v in get(name).legal_stages else get(name).default_stages
    chance = np.random.default_rng(seed)
    numbers = chance.choice(legal_numbers(name, pp, v, 40 * pp), 6)
    family = family_of(name, pp, v, 8 * pp, offload)
    priced = random_prices(family.model, len(numbers), seed, spread, p2p, slow)
    tails = chance.uniform(0, 5, (pp, len(numbers)))
    found = family.play(priced, numbers, tails, chunk=int(chance.integers(1, 8)))
    truth = np.empty(len(numbers))
    for lane, number in enumerate(numbers.tolist()):
        program = compile_plan(plan_of(name, pp, number, v, offload))
        ends = play(program, priced_alone(program, family.model, priced, lane)).ends
        truth[lane] = last_ends(program, ends, tails[:, [lane]])[0]
    close = 1e-9 * truth
    assert (found.lower <= truth + close).all()
    assert (found.upper >= truth - close).all()
    if not offload:  # copies drift away from the ops beside them at rates of their own
        assert (found.upper - found.lower <= 0.08 * truth).all()
    for exact in (found, family.settle(priced, numbers, None, tails)):
        np.testing.assert_allclose(exact.lower[exact.exact], truth[exact.exact], rtol=1e-9)
        np.testing.assert_allclose(exact.upper[exact.exact], truth[exact.exact], rtol=1e-9)
    assert exact.exact.all()
    incumbent = float(np.median(truth))
    settled = family.settle(priced, numbers, incumbent, tails)
    assert (settled.exact | (settled.lower >= incumbent) | (settled.upper < incumbent)).all()


@pytest.mark.parametrize("name", STEADY)
def test_equal_stages_are_exact_and_one_program_plays_all_numbers(name: str) -> None:
    pp, v = 4, get(name).default_stages
    program = compile_plan(plan_of(name, pp, 24, v))
    steady = steady_state(program)
    assert steady is not None
    assert steady.fewest < 24
    numbers = np.arange(steady.fewest, 200, steady.step)
    found = steady.play(random_prices(program, 1, 0, 0.0, 0.0, 1.0), numbers)
    assert found.exact.all()
    assert (np.diff(found.upper) > 0).all()
    assert found.upper[-1] - found.upper[-2] == pytest.approx(found.upper[-2] - found.upper[-3])
    for wrong in (steady.fewest - steady.step, *([25] if steady.step > 1 else [])):
        with pytest.raises(ScheduleError, match=rf"plays {steady.fewest} micro-batches and any .*, not {wrong}$"):
            steady.play(random_prices(program, 1, 0, 0.0, 0.1, 1.0), np.array([wrong]))


@pytest.mark.parametrize("name", sorted(set(names()) - set(STEADY)))
def test_what_does_not_repeat_is_played_itself(name: str) -> None:
    v = get(name).default_stages
    family = family_of(name, 3, v, 7)
    found = family.play(random_prices(family.model, 3, 1, 0.3, 0.1, 1.0), np.array([7, 7, 7]))
    assert found.exact.all()
    assert family.model.plan.microbatches == 7


def test_a_family_is_refused_prices_of_a_model_that_lacks_slots() -> None:
    family = family_of("dualpipe", 2, 1, 4)
    lacking = Family(lambda m: plan_of("dualpipe", 2, m, 1), lambda m: None, 2, 4)
    with pytest.raises(ScheduleError, match=r"^dualpipe with 12 .* plays \(.*OVERLAP_F_B, which .* with 4 does not"):
        lacking.play(random_prices(lacking.model, 1, 0, 0.0, 0.0, 1.0), np.array([12]))
    assert family.play(random_prices(family.model, 1, 0, 0.0, 0.0, 1.0), np.array([12])).exact.all()


@settings(max_examples=40)
@given(seed=seeds, lanes=st.integers(1, 9), chunk=st.none() | st.integers(1, 10))
def test_makespans_are_those_of_a_play_and_its_tails(
    make_plan: Make, make_cost: Make, seed: int, lanes: int, chunk: int | None
) -> None:
    program = compile_plan(add_optimizer_step(add_gradient_reduction(make_plan(seed))))
    one = prices(program, make_cost(seed))
    stretch = np.random.default_rng(seed).uniform(1, 2, lanes)
    many = Prices(one.durations[:, None] * stretch, one.delays[:, None] * stretch)
    played = play(program, many)
    np.testing.assert_array_equal(makespans(program, many, chunk=chunk), played.makespans)
    tails = np.random.default_rng(seed).uniform(0, 9, (program.plan.placement.ranks, lanes))
    last = {
        rank: np.max([played.ends[rows[-1]] for r, _, rows in program.lines if r == rank], axis=0)
        for rank in range(program.plan.placement.ranks)
    }
    expected = np.max([last[rank] + tails[rank] for rank in last], axis=0)
    np.testing.assert_array_equal(makespans(program, many, tails, chunk), expected)
    np.testing.assert_array_equal(makespans(program, many, tails[0], chunk), played.makespans + tails[0])


def test_chunks_cover_the_lanes() -> None:
    program = compile_plan(build("1f1b", 2, 4))
    for lanes, chunk in ((1, None), (1000, None), (7, 3), (7, 7), (0, None)):
        parts = list(chunks_of(program, lanes, chunk))
        assert [lane for part in parts for lane in range(part.start, part.stop)] == list(range(lanes))
        assert all(part.stop - part.start <= (chunk or 1024) for part in parts)
    with pytest.raises(ScheduleError, match="chunk 0: at least 1"):
        list(chunks_of(program, 3, 0))
