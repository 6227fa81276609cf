"""Steady: a program that stands for its schedule at any number of micro-batches.

A lane with the program's own m is played as it is; one with fewer leaves the blocks early, which is exact; one with
more goes on for more periods than the program has (`Jump`): exact where a proof holds, otherwise an interval.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from parsim.errors import ScheduleError
from parsim.sim.blocks import Blocks, find_blocks
from parsim.sim.cut import Cut, cut_after
from parsim.sim.jump import Jump
from parsim.sim.levels import Levels
from parsim.sim.makespans import chunks_of, last_ends
from parsim.sim.prices import Floats, Prices, duration_table
from parsim.sim.program import Index, Program

__all__ = ["Interval", "Steady", "steady_state"]

_ROUNDING = 1e-10  # an interval no wider than this part of it is one number


@dataclass(frozen=True, eq=False)
class Interval:
    """Step times of B lanes: the truth lies from `lower[B]` to `upper[B]`, and where `exact[B]` is both."""

    lower: Floats
    upper: Floats
    exact: npt.NDArray[np.bool_]

    @classmethod
    def unknown(cls, lanes: int) -> "Interval":
        """Anything from 0 on."""
        return cls(np.zeros(lanes), np.full(lanes, np.inf), np.zeros(lanes, bool))

    def put(self, lanes: slice | Index, found: "Interval") -> None:
        """Fill in what is found of some lanes, in place: what was known before still holds."""
        self.lower[lanes] = np.where(found.exact, found.lower, np.maximum(self.lower[lanes], found.lower))
        self.upper[lanes] = np.where(found.exact, found.upper, np.minimum(self.upper[lanes], found.upper))
        self.exact[lanes] = found.exact


@dataclass(frozen=True, eq=False)
class Steady:
    """A program and its blocks."""

    program: Program
    found: Blocks

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The end of each block."""
        return tuple(cut_after(self.program, block) for block in self.found.blocks)

    @property
    def step(self) -> int:
        """Micro-batches of a period, all chains together."""
        return self.found.gamma * len(self.program.plan.placement.chains)

    @property
    def fewest(self) -> int:
        """The fewest micro-batches that this program can play."""
        return self.program.plan.microbatches - self.step * min(cut.history for cut in self.cuts)

    def plays(self, microbatches: Index) -> npt.NDArray[np.bool_]:
        """Which numbers of micro-batches this program can play."""
        away = np.asarray(microbatches) - self.program.plan.microbatches
        found: npt.NDArray[np.bool_] = (away % self.step == 0) & (microbatches >= self.fewest)
        return found

    def play(
        self, prices: Prices, microbatches: Index, tails: Floats | None = None, chunk: int | None = None
    ) -> Interval:
        """Play B lanes, of different prices (or one for all) and of different `microbatches[B]`; `tails` and `chunk` as
        in `makespans`. Raises ScheduleError for a number of micro-batches that the program cannot play.
        """
        microbatches = np.asarray(microbatches, int)
        wrong = np.flatnonzero(~self.plays(microbatches))
        if len(wrong):
            raise ScheduleError(
                f"{self.program.plan.name}: this steady program plays {self.fewest} micro-batches and any multiple of "
                f"{self.step} more, not {microbatches[wrong[0]]}"
            )
        lanes = len(microbatches)
        if prices.lanes != lanes:
            prices = prices.part(np.zeros(lanes, int))
        periods = (microbatches - self.program.plan.microbatches) // self.step
        found = Interval.unknown(lanes)
        for part in chunks_of(self.program, lanes, chunk):
            found.put(part, self._play(prices.part(part), periods[part], None if tails is None else tails[..., part]))
        return found

    def _play(self, prices: Prices, periods: Index, tails: Floats | None) -> Interval:
        """One chunk: all lanes at their greatest, then those with an interval at their least."""
        play = _Play(self, prices, periods)
        play.go_on(0, 1)
        upper = last_ends(self.program, play.ends, tails)
        lower, exact = upper.copy(), np.ones(len(upper), bool)
        for number, undecided, state in play.undecided:
            new = exact[undecided]  # of a lane that parted at an earlier cut that play knows the least
            lanes, least = undecided[new], state[:, new]
            if len(lanes):
                low = _Play(self, prices.part(lanes), periods[lanes], lowest=True)
                low.ends[self.cuts[number].rows] = least
                low.go_on(number + 1, self.cuts[number].row + 1)
                exact[lanes] = False
                lower[lanes] = last_ends(self.program, low.ends, None if tails is None else tails[..., lanes])
        return Interval(np.minimum(lower, upper), upper, exact | (upper - lower <= _ROUNDING * upper))


class _Play:
    """Lanes on their way, `periods[B]` more than the program has; and where the greatest and the least parted:
    (number of the cut, the lanes, their least state).
    """

    def __init__(self, steady: Steady, prices: Prices, periods: Index, lowest: bool = False) -> None:
        self._steady, self._periods, self._lowest = steady, periods, lowest
        self._levels = Levels(steady.program, prices)
        self._table, self._delays = duration_table(steady.program, prices), prices.delays
        self.ends = self._levels.ends
        self.undecided: list[tuple[int, Index, Floats]] = []

    def go_on(self, number: int, first: int) -> None:
        """Play from row `first`, before cut `number`, to the end."""
        for cut in self._steady.cuts[number:]:
            self._levels.advance(first, cut.row + 1)
            self._cross(number, cut)
            number, first = number + 1, cut.row + 1
        self._levels.advance(first, self._steady.program.rows + 1)

    def _cross(self, number: int, cut: Cut) -> None:
        """Put the state of each lane after all its periods where the rows behind the cut read it."""
        state = cut.earlier(self.ends, np.maximum(-self._periods, 0))
        far = np.flatnonzero(self._periods > 0)
        if len(far):
            ends, table, delays = (
                array if len(far) == len(self._periods) else array[:, far]
                for array in (self.ends, self._table, self._delays)
            )
            jump = Jump(cut, ends, table, delays, self._periods[far])
            state[:, far] = jump.least if self._lowest else jump.greatest
            apart = np.flatnonzero(~jump.exact)
            if len(apart):
                self.undecided.append((number, far[apart], jump.least[:, apart]))
        self.ends[cut.rows] = state


def steady_state(program: Program) -> Steady | None:
    """The program with its blocks; None where it does not repeat, or not often enough to go on from."""
    found = find_blocks(program)
    steady = None if found is None else Steady(program, found)
    return steady if steady is not None and all(cut.history > 0 for cut in steady.cuts) else None
