"""The longest-path player: every row as early as its inputs allow, without a clock.

For few lanes a plain loop over the rows, for many a handful of array operations a level. The two give the same
numbers; a level of arrays costs about as much as fifty rows of the loop, whatever it holds.
"""

import numpy as np

from parsim.sim.levels import Levels, lanes_of
from parsim.sim.played import Played
from parsim.sim.prices import Floats, Prices, row_delays, row_seconds
from parsim.sim.program import Program

__all__ = ["play", "play_levels", "play_rows"]

_ROWS_PER_LEVEL = 50.0  # times lanes: below it the loop is faster


def play(program: Program, prices: Prices, multipliers: Floats | None = None, join: int = 1) -> Played:
    """Play all lanes: of the prices, of `multipliers[n, B]` (see `Noise`), or one.

    `join` consecutive lanes are replicas of one data-parallel group: their REDUCE_GRADs wait for the slowest.
    Raises ScheduleError where the numbers of lanes do not fit together.
    """
    lanes = lanes_of(program, prices, multipliers, join)
    if join == 1 and program.rows * lanes < _ROWS_PER_LEVEL * program.levels:
        return play_rows(program, prices, multipliers)
    return play_levels(program, prices, multipliers, join)


def play_rows(program: Program, prices: Prices, multipliers: Floats | None = None) -> Played:
    """The loop: lane by lane, row by row."""
    lanes = lanes_of(program, prices, multipliers, 1)
    prev, dep = program.prev.tolist(), program.dep.tolist()
    ends = np.empty((program.rows + 1, lanes))
    for lane in range(lanes):
        seconds = row_seconds(program, prices, lane, multipliers).tolist()
        delays = row_delays(program, prices, lane).tolist()
        row_ends = [0.0]
        if len(dep) == 1:
            for before, need, delay, duration in zip(prev, dep[0], delays[0], seconds, strict=True):
                start, arrival = row_ends[before], row_ends[need] + delay
                row_ends.append((arrival if arrival > start else start) + duration)
        else:
            for row, (before, duration) in enumerate(zip(prev, seconds, strict=True)):
                start = row_ends[before]
                for needs, waits in zip(dep, delays, strict=True):
                    arrival = row_ends[needs[row]] + waits[row]
                    if arrival > start:
                        start = arrival
                row_ends.append(start + duration)
        ends[:, lane] = row_ends
    return Played(program, prices, ends, multipliers)


def play_levels(program: Program, prices: Prices, multipliers: Floats | None = None, join: int = 1) -> Played:
    """The array form: all lanes together, level by level."""
    levels = Levels(program, prices, multipliers, join)
    levels.advance(1, program.rows + 1)
    return Played(program, prices, levels.ends, multipliers, join)
