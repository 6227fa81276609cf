"""Played: when every row of a program ended, as either player returns it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parsim.sim.prices import Floats, Prices, row_delays, row_seconds
from parsim.sim.program import COMPUTE, Program

__all__ = ["Played", "latest_first_starts"]


@dataclass(frozen=True, eq=False)
class Played:
    """End times `ends[n + 1, B]` of B lanes, row 0 being the origin.

    `multipliers[n, B]` stretched the durations (None: not at all); lanes `i * join` to `(i + 1) * join - 1` form a
    data-parallel group, whose reductions start together.
    """

    program: Program
    prices: Prices
    ends: Floats
    multipliers: Floats | None = None
    join: int = 1

    @property
    def lanes(self) -> int:
        """Number of lanes B."""
        return int(self.ends.shape[1])

    @property
    def makespans(self) -> Floats:
        """End of the last row of each lane, shape [B]."""
        makespans: Floats = self.ends[self.program.last].max(axis=0)
        return makespans

    @property
    def makespan(self) -> float:
        """End of the last row of the slowest lane."""
        return float(self.makespans.max())

    def starts(self, lane: int = 0) -> Floats:
        """Start of every row of a lane, shape [n + 1]: the latest end among what it waits for."""
        program, group = self.program, lane - lane % self.join
        starts = np.zeros(program.rows + 1)
        starts[1:] = self._ready(lane)
        if self.join > 1:
            together = program.reductions
            members = [self._ready(member)[together] for member in range(group, group + self.join)]
            starts[together + 1] = np.max(members, axis=0)
        return starts

    def busy(self, lane: int = 0) -> list[float]:
        """Seconds that each rank's compute stream plays in one lane; a pair counts once."""
        seconds = row_seconds(self.program, self.prices, lane, self.multipliers)
        seconds = np.where(self.program.stream == COMPUTE, seconds, 0.0)
        busy: list[float] = np.bincount(self.program.rank, seconds).tolist()
        return busy

    def _ready(self, lane: int) -> Floats:
        program, ends = self.program, self.ends[:, lane]
        ready: Floats = ends[program.prev]
        for dep, delay in zip(program.dep, row_delays(program, self.prices, lane), strict=True):
            np.maximum(ready, ends[dep] + delay, out=ready)
        return ready


def latest_first_starts(program: Program, played: Played, lane: int = 0) -> Sequence[float]:
    """The latest start of each rank's first compute op that delays no rank's end.

    Backwards through the program, from the ends as played: a row ends at the latest when the first of its followers
    must start, less the delay between them. All ranks may start that late together.
    """
    ends, starts = played.ends[:, lane], played.starts(lane)
    seconds = row_seconds(program, played.prices, lane, played.multipliers).tolist()
    delays = row_delays(program, played.prices, lane)
    latest = [float("inf")] * (program.rows + 1)
    for row in program.last.tolist():
        latest[row] = float(ends[row])
    inputs = [(program.prev.tolist(), [0.0] * program.rows)]
    inputs += [(dep.tolist(), delay.tolist()) for dep, delay in zip(program.dep, delays, strict=True)]
    for index in range(program.rows - 1, -1, -1):
        start = latest[index + 1] - seconds[index]
        for sources, delay in inputs:
            if start - delay[index] < latest[sources[index]]:
                latest[sources[index]] = start - delay[index]
    first = [0.0] * program.plan.placement.ranks
    for rank, stream, rows in program.lines:
        if stream == COMPUTE:
            # The two are sums of the same terms in another order; nobody can start later than he did by being early.
            first[rank] = max(latest[rows[0]] - seconds[rows[0] - 1], float(starts[rows[0]]))
    return first
