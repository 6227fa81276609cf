"""The longest-path player: every row as early as its inputs allow, without a clock.

For few lanes a plain loop over the rows, for many a handful of array operations a level. The two give the same
numbers; a level of arrays costs about as much as fifty rows of the loop, whatever it holds.
"""

from itertools import pairwise

import numpy as np

from parsim.errors import ScheduleError
from parsim.sim.played import Played
from parsim.sim.prices import Floats, Prices, duration_table, row_delays, row_seconds
from parsim.sim.program import Program

__all__ = ["lanes_of", "play", "play_levels", "play_rows"]

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


def lanes_of(program: Program, prices: Prices, multipliers: Floats | None, join: int) -> int:
    """How many lanes these make. ScheduleError unless shapes agree and `join` divides the lanes."""
    if len(prices.durations) != len(program.priced) or len(prices.delays) != len(program.boundaries) + 1:
        raise ScheduleError(
            f"prices of {len(prices.durations)} slots and {len(prices.delays)} delays: "
            f"the program has {len(program.priced)} and {len(program.boundaries) + 1}"
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
    lanes = lanes_of(program, prices, multipliers, join)
    table, delays = duration_table(program, prices), prices.delays
    one_price = prices.lanes == 1
    if one_price:  # a column of numbers by row, instead of a row of lanes by duration
        row_table = table.reshape(len(table), -1)[program.duration]
        row_delay = delays.reshape(len(delays), -1)[program.edge]
    joined = np.split(program.reductions, np.searchsorted(program.reductions, program.cuts[1:-1]))
    widest = int(np.diff(program.cuts).max(initial=0))
    arrival_of, delay_of = np.empty((widest, lanes)), np.empty((widest, lanes))
    ends = np.zeros((program.rows + 1, lanes))
    for level, (a, b) in enumerate(pairwise(program.cuts.tolist())):
        played, ready = ends[: a + 1], ends[a + 1 : b + 1]  # apart, so that take writes straight into the rows
        arrival, scratch = arrival_of[: b - a], delay_of[: b - a]
        played.take(program.prev[a:b], 0, ready, "clip")  # mode clip: with an out, take would else copy it
        for number, (dep, edge) in enumerate(zip(program.dep, program.edge, strict=True)):
            played.take(dep[a:b], 0, arrival, "clip")
            if one_price:
                arrival += row_delay[number, a:b]
            else:
                arrival += delays.take(edge[a:b], 0, scratch, "clip")
            np.maximum(ready, arrival, out=ready)
        if join > 1 and len(joined[level]):
            rows = joined[level] - a
            groups = ready[rows].reshape(len(rows), lanes // join, join)
            ready[rows] = np.repeat(groups.max(axis=2), join, axis=1)
        seconds = row_table[a:b] if one_price else table.take(program.duration[a:b], 0, scratch, "clip")
        ready += seconds if multipliers is None else seconds * multipliers[a:b]
    return Played(program, prices, ends, multipliers, join)
