"""Noise: reproducible, of mean 1, in the right rows and lanes; and its two spellings on the command line."""

import math

import numpy as np
import pytest

from parsim.errors import SpecError
from parsim.plan import add_gradient_reduction
from parsim.schedules import build
from parsim.sim import Noise, Program, compile_plan, parse_jitter, parse_slow_rank


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_plan(add_gradient_reduction(build("1f1b", 4, 64)))


# A few lanes are drawn one by one, many are cut from a pool.
@pytest.mark.parametrize("lanes", [1, 64, 4096])
def test_the_same_seed_gives_the_same_bytes(program: Program, lanes: int) -> None:
    noise = Noise(0.05, {(0, 1): 2.0}, seed=3)
    table = noise.multipliers(program, lanes)
    assert table.shape == (program.rows, lanes)
    assert table.tobytes() == Noise(0.05, {(0, 1): 2.0}, seed=3).multipliers(program, lanes).tobytes()
    for other in (Noise(0.05, seed=4).multipliers(program, lanes), noise.multipliers(program, lanes, step=1)):
        assert np.mean(table == other) < 0.01


@pytest.mark.parametrize("lanes", [64, 4096])
@pytest.mark.parametrize("sigma", [0.01, 0.03, 0.3])
def test_draws_are_lognormal_of_mean_one(program: Program, lanes: int, sigma: float) -> None:
    table = Noise(sigma, seed=1).multipliers(program, lanes)
    draws = min(table.size, 2**20)
    assert table.mean() == pytest.approx(1, abs=5 * sigma / math.sqrt(draws))
    assert np.log(table).mean() == pytest.approx(-(sigma**2) / 2, abs=5 * sigma / math.sqrt(draws))
    assert np.log(table).std() == pytest.approx(sigma, rel=0.02)
    skewness = (((np.log(table) + sigma**2 / 2) / sigma) ** 3).mean()
    assert abs(skewness) < 0.1
    # Rows of one lane, and lanes of one row, are strangers to each other.
    normal = np.log(table) / sigma
    for shift in (normal[1:] * normal[:-1], normal[:, 1:] * normal[:, :-1]):
        assert abs((shift - (sigma / 2) ** 2).mean()) < 0.03


# A few draws, and a pool of them.
@pytest.mark.parametrize(("lanes", "together"), [(64, 2), (64, 8), (4096, 8)])
def test_ranks_that_advance_together_go_at_the_pace_of_the_slowest(program: Program, lanes: int, together: int) -> None:
    table = Noise(0.05, seed=2).multipliers(program, lanes, together=together)
    assert table.shape == (program.rows, lanes)
    alone = Noise(0.05, seed=3).multipliers(program, together * 40)
    expected = alone.reshape(-1, together).max(axis=1)
    assert table.mean() == pytest.approx(expected.mean(), rel=0.002)
    assert table.std() == pytest.approx(expected.std(), rel=0.05)
    np.testing.assert_allclose(
        np.quantile(table, [0.05, 0.5, 0.95]), np.quantile(expected, [0.05, 0.5, 0.95]), rtol=0.005
    )
    assert abs(np.corrcoef(table[:, 0], table[:, 1])[0, 1]) < 0.15


def test_a_slow_rank_slows_its_computing_in_its_lane(program: Program) -> None:
    table = Noise(slow={(1, 2): 1.5, (0, 0): 0.5}).multipliers(program, 3)
    slow = np.zeros(table.shape, bool)
    slow[:, 1] = (program.rank == 2) & (program.stream == 0)
    fast = np.zeros(table.shape, bool)
    fast[:, 0] = (program.rank == 0) & (program.stream == 0)
    assert slow.sum() == fast.sum() == 128
    assert (table == np.where(slow, 1.5, np.where(fast, 0.5, 1.0))).all()


def test_silence() -> None:
    assert Noise().silent
    assert Noise(slow={(0, 0): 1.0}).silent
    assert not Noise(0.01).silent
    assert not Noise(slow={(0, 0): 1.1}).silent


@pytest.mark.parametrize("text", ["lognormal:0.03", "lognormal:3e-2", "lognormal:.03"])
def test_jitter_is_read(text: str) -> None:
    assert parse_jitter(text) == 0.03


WRONG_JITTER = ["", "0.03", "lognormal", "lognormal:", "normal:0.1", "lognormal:-0.1", "lognormal:nan", "lognormal:3"]


@pytest.mark.parametrize("text", [*WRONG_JITTER, "lognormal:1e999", "lognormal:0.03 "])
def test_jitter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^jitter .*(lognormal:0\.03|0 to 1; 0\.03) ") as refused:
        parse_jitter(text)
    assert "\n" not in str(refused.value)


def test_slow_ranks_are_read() -> None:
    assert parse_slow_rank("17=1.3") == (17, 1.3)
    assert parse_slow_rank("0=.5") == (0, 0.5)


@pytest.mark.parametrize(
    "text", ["", "17", "=1.3", "17=", "-1=2", "1.5=2", "17=0", "17=1e999", "17=nan", "17=-1", "a=b"]
)
def test_slow_ranks_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"^slow rank .* 30 % slower$"):
        parse_slow_rank(text)


@pytest.mark.parametrize(
    ("arguments", "reads"),
    [
        ({"jitter": -0.1}, "jitter -0.1: sigma"),
        ({"jitter": math.nan}, "jitter nan: sigma"),
        ({"jitter": 2}, "jitter 2: .* 0 to 1"),
        ({"seed": -1}, "seed -1: must be 0 or more"),
        ({"slow": {(0, 0): 0.0}}, "slow rank 0 of replica 0: the factor must be finite and more than 0, not 0"),
        ({"slow": {(0, 3): math.inf}}, "slow rank 3 of replica 0: .* not inf"),
        ({"slow": {(0, 4): 1.1}}, "slow rank 4 of replica 0: there are 4 pipeline ranks in 2 replicas"),
        ({"slow": {(2, 0): 1.1}}, "slow rank 0 of replica 2: there are 4 pipeline ranks in 2 replicas"),
    ],
)
def test_impossible_noise_is_refused(program: Program, arguments: dict[str, object], reads: str) -> None:
    with pytest.raises(SpecError, match=reads):
        Noise(**arguments).multipliers(program, 2)
