"""Noise: what makes two steps of the same run differ. Jitter on every op, slow ranks, and a seed.

It is a table of multipliers by row and lane, made before anything is played; so both players stretch the same rows by
the same numbers.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from parsim.errors import SpecError
from parsim.sim.prices import Floats
from parsim.sim.program import COMPUTE, Program

__all__ = ["Noise", "parse_jitter", "parse_slow_rank"]

_POOL = 2**20
_NUMBER = re.compile(r"\d+\.?\d*([eE][+-]?\d+)?|\.\d+")


@dataclass(frozen=True)
class Noise:
    """Jitter and slow ranks.

    - `jitter`: sigma of a lognormal factor exp(sigma z - sigma^2 / 2), z standard normal, on every row; its mean is 1.
    - `slow`: factor on the compute stream by (lane, pipeline rank); a lane is a data-parallel replica.
    - `seed`: the same seed gives the same bytes.

    Raises SpecError for a sigma outside 0 to 1, a factor that is not finite and positive, a negative seed.
    """

    jitter: float = 0.0
    slow: Mapping[tuple[int, int], float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= 1:
            raise SpecError(f"jitter {self.jitter:g}: sigma of the lognormal must be from 0 to 1; 0.03 is about 3 %")
        if self.seed < 0:
            raise SpecError(f"seed {self.seed}: must be 0 or more")
        for (lane, rank), factor in self.slow.items():
            if not 0 < factor < math.inf:
                raise SpecError(
                    f"slow rank {rank} of replica {lane}: the factor must be finite and more than 0, not {factor:g}; "
                    "1.3 is 30 % slower"
                )

    @property
    def silent(self) -> bool:
        """Whether every multiplier is 1."""
        return self.jitter == 0 and all(factor == 1 for factor in self.slow.values())

    def multipliers(self, program: Program, lanes: int = 1, step: int = 0, together: int = 1) -> Floats:
        """The factor of each row of a program in each lane, shape [n, lanes]; every `step` draws anew.

        `together` ranks of a lane advance as one, at the pace of the slowest: a tensor-parallel group, of which each
        draws for itself. Beyond a million draws the rows are windows, at random places, of a pool of a million draws:
        each row's lanes are independent, and two rows of one lane share a draw once in as many times as the pool has
        entries. Drawing would otherwise take longer than playing. Raises SpecError for a slow rank that the program
        does not have.
        """
        draw = np.random.default_rng((self.seed, step))
        if self.jitter == 0:
            table = np.ones((program.rows, lanes))
        elif program.rows * lanes * together <= _POOL:
            table = self._factors(_slowest(draw, program.rows * lanes, together)).reshape(program.rows, lanes)
        else:
            pool = self._factors(_slowest(draw, max(_POOL // together, 4 * lanes), together))
            windows = np.lib.stride_tricks.sliding_window_view(pool, lanes)
            table = windows[draw.integers(len(windows), size=program.rows)]
        for (lane, rank), factor in self.slow.items():
            if not (0 <= lane < lanes and 0 <= rank < program.plan.placement.ranks):
                raise SpecError(
                    f"slow rank {rank} of replica {lane}: there are {program.plan.placement.ranks} pipeline ranks "
                    f"in {lanes} replicas, counted from 0"
                )
            table[(program.rank == rank) & (program.stream == COMPUTE), lane] *= factor
        return table

    def _factors(self, normal: Floats) -> Floats:
        normal *= self.jitter
        normal -= self.jitter**2 / 2
        return np.exp(normal, out=normal)


def _slowest(draw: np.random.Generator, count: int, together: int) -> Floats:
    """The largest of `together` standard normal draws, `count` times."""
    found: Floats = draw.standard_normal((together, count)).max(axis=0)
    return found


def parse_jitter(text: str) -> float:
    """The sigma of `lognormal:SIGMA`. SpecError for anything else."""
    kind, colon, sigma = text.partition(":")
    if kind != "lognormal" or not colon or not _NUMBER.fullmatch(sigma):
        raise SpecError(f"jitter {text!r}: write lognormal:SIGMA, for example lognormal:0.03 for about 3 %")
    return Noise(float(sigma)).jitter


def parse_slow_rank(text: str) -> tuple[int, float]:
    """Rank and factor of `RANK=FACTOR`. SpecError for anything else."""
    rank, equals, factor = text.partition("=")
    if not equals or not re.fullmatch(r"\d{1,9}", rank) or not _NUMBER.fullmatch(factor):
        raise SpecError(f"slow rank {text!r}: write RANK=FACTOR, for example 17=1.3 for 30 % slower")
    if not 0 < float(factor) < math.inf:
        raise SpecError(f"slow rank {text!r}: the factor must be finite and more than 0; 1.3 is 30 % slower")
    return int(rank), float(factor)
