"""Levels: the array form of a play, all lanes together, level by level; it can stop at a row and go on."""

from bisect import bisect_left, bisect_right
from itertools import pairwise

import numpy as np

from parsim.errors import ScheduleError
from parsim.sim.prices import Floats, Prices, duration_table
from parsim.sim.program import Program

__all__ = ["Levels", "lanes_of"]


def lanes_of(program: Program, prices: Prices, multipliers: Floats | None, join: int) -> int:
    """How many lanes these make. ScheduleError unless shapes agree and `join` divides the lanes."""
    if len(prices.durations) != len(program.priced) or len(prices.delays) != len(program.delayed) + 1:
        raise ScheduleError(
            f"prices of {len(prices.durations)} slots and {len(prices.delays)} delays: "
            f"the program has {len(program.priced)} and {len(program.delayed) + 1}"
        )
    lanes = prices.lanes
    if multipliers is not None:
        if multipliers.ndim != 2 or len(multipliers) != program.rows:
            raise ScheduleError(f"multipliers of shape {multipliers.shape}: the program has {program.rows} rows")
        if lanes not in (1, multipliers.shape[1]):
            raise ScheduleError(f"multipliers of {multipliers.shape[1]} lanes for prices of {lanes}; 1 or as many")
        lanes = multipliers.shape[1]
    if join < 1 or lanes % join:
        raise ScheduleError(f"join {join}: must divide the {lanes} lanes")
    return lanes


class Levels:
    """A play under way. `ends[n + 1, B]` are the ends of the rows played so far, row 0 being the origin."""

    def __init__(
        self,
        program: Program,
        prices: Prices,
        multipliers: Floats | None = None,
        join: int = 1,
        ends: Floats | None = None,
    ) -> None:
        lanes = lanes_of(program, prices, multipliers, join)
        self.program = program
        self._multipliers, self._join = multipliers, join
        self._table, self._delays = duration_table(program, prices), prices.delays
        self._one_price = prices.lanes == 1
        if self._one_price:  # a column of numbers by row, instead of a row of lanes by duration
            self._row_table = self._table.reshape(len(self._table), -1)[program.duration]
            self._row_delay = self._delays.reshape(len(self._delays), -1)[program.edge]
        widest = int(np.diff(program.cuts).max(initial=0))
        self._arrival, self._scratch = np.empty((widest, lanes)), np.empty((widest, lanes))
        self._cuts: list[int] = program.cuts.tolist()
        self.ends = np.empty((program.rows + 1, lanes)) if ends is None else ends
        self.ends[0] = 0.0

    def advance(self, first: int, end: int) -> None:
        """Play rows `first` to `end` - 1; what they read is there."""
        a, b = first - 1, end - 1
        inner = self._cuts[bisect_right(self._cuts, a) : bisect_left(self._cuts, b)]
        level = bisect_right(self._cuts, a) - 1
        for number, (start, stop) in enumerate(pairwise((a, *inner, b)), level):
            self._play(start, stop, self.program.inputs[number])

    def _play(self, a: int, b: int, inputs: int) -> None:
        """Rows a + 1 to b of one level, which have at most `inputs` inputs beyond the row before them."""
        program, multipliers = self.program, self._multipliers
        played, ready = self.ends[: a + 1], self.ends[a + 1 : b + 1]  # apart: take writes straight into the rows
        arrival, scratch = self._arrival[: b - a], self._scratch[: b - a]
        played.take(program.prev[a:b], 0, ready, "clip")  # mode clip: with an out, take would else copy it
        for number in range(inputs):
            played.take(program.dep[number, a:b], 0, arrival, "clip")
            if self._one_price:
                arrival += self._row_delay[number, a:b]
            else:
                arrival += self._delays.take(program.edge[number, a:b], 0, scratch, "clip")
            np.maximum(ready, arrival, out=ready)
        if self._join > 1:
            self._wait_for_each_other(a, b, ready)
        if self._one_price:
            seconds = self._row_table[a:b]
        else:
            seconds = self._table.take(program.duration[a:b], 0, scratch, "clip")
        ready += seconds if multipliers is None else seconds * multipliers[a:b]

    def _wait_for_each_other(self, a: int, b: int, ready: Floats) -> None:
        """Reductions start with the last of the lanes of a data-parallel group."""
        reductions = self.program.reductions
        rows = reductions[np.searchsorted(reductions, a) : np.searchsorted(reductions, b)] - a
        if len(rows):
            groups = ready[rows].reshape(len(rows), -1, self._join)
            ready[rows] = np.repeat(groups.max(axis=2), self._join, axis=1)
