"""Replicas: groups drawn from plays of one replica last as long as the group played together."""

import numpy as np
import pytest

from parsim.plan import add_gradient_reduction, add_optimizer_step
from parsim.schedules import build
from parsim.sim import Noise, Prices, Program, compile_plan, play
from parsim.sim.replicas import joined_makespans, step_samples


def programs() -> list[Program]:
    sizes = [("1f1b", 4, 8, 1), ("interleaved", 2, 8, 3), ("zb-v", 3, 6, 2), ("gpipe", 1, 4, 1)]
    return [compile_plan(add_optimizer_step(add_gradient_reduction(build(*size)))) for size in sizes]


def prices_for(program: Program, seed: int) -> Prices:
    draw = np.random.default_rng(seed)
    delays = draw.uniform(0, 0.2, len(program.delayed) + 1)
    delays[-1] = 0.0
    return Prices(draw.uniform(1, 2, len(program.priced)), delays)


@pytest.mark.parametrize("replicas", [1, 2, 5])
@pytest.mark.parametrize("number", range(4))
def test_groups_of_plays_are_joined_plays(number: int, replicas: int) -> None:
    program = programs()[number]
    prices = prices_for(program, number)
    table = Noise(0.2, seed=number).multipliers(program, 4 * replicas)
    together = play(program, prices, table, join=replicas).makespans.reshape(4, replicas).max(axis=1)
    groups = np.arange(4 * replicas).reshape(4, replicas)
    assert joined_makespans(play(program, prices, table), groups) == pytest.approx(together, rel=1e-12)


def test_samples_follow_the_seed_and_grow_with_the_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    program = programs()[0]
    prices = prices_for(program, 0)
    one, many = (step_samples(program, prices, Noise(0.05, seed=1), 400, n) for n in (1, 32))
    assert np.median(many) > np.median(one)
    assert (step_samples(program, prices, Noise(0.05, seed=1), 400, 32) == many).all()
    assert not (step_samples(program, prices, Noise(0.05, seed=2), 400, 32) == many).any()
    silent = step_samples(program, prices, Noise(), 3, 4)
    assert silent == pytest.approx([play(program, prices).makespan] * 3, rel=1e-12)
    # Drawn from plays of one, a group is as slow as one whose replicas are all played.
    table = Noise(0.05, seed=3).multipliers(program, 32 * 400)
    joined = play(program, prices, table, join=32).makespans.reshape(400, 32).max(axis=1)
    assert np.median(many) == pytest.approx(np.median(joined), rel=2e-3)
    monkeypatch.setattr("parsim.sim.replicas._PLAYED_CELLS", program.rows * 50)
    monkeypatch.setattr("parsim.sim.replicas._JOINED_CELLS", 1)
    assert np.median(step_samples(program, prices, Noise(0.05, seed=1), 400, 32)) == pytest.approx(
        np.median(joined), rel=2e-3
    )
