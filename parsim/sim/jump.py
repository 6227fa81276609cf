"""Jump: the state of a steady program n periods after a cut, exactly where a proof holds and else between two bounds.

Let x(t) be the state after t periods and d = x(t) - x(t - c).

1. If all entries of d are equal, x(t + c) is x(t) + d, for ever: a period is a map of maxima and sums, and what is
   added to all it reads is added to all it gives.
2. If over the last c periods no input of a row moved more than the row did, and one that decides its start moved just
   as much, then each row goes on to move by as much: the decider stays the latest, by induction in the order of play.
3. Else x(t + c) is at most x(t) + max(d) and at least x(t) + min(d), for such a map is monotone; and at least x(t) and
   the work of c periods on the row's stream, for a stream plays one slot at a time.

n need not be a multiple of c: the jump begins with the state up to c - 1 periods before. Each c has its own bounds, and
the best count.
"""

import numpy as np
import numpy.typing as npt

from parsim.sim.cut import Cut
from parsim.sim.prices import Floats
from parsim.sim.program import Index

__all__ = ["Jump"]

_SAME = 1e-12  # of the time at the cut: what differs by less differs by its rounding
_LONGEST_CYCLE = 64  # periods; a state repeats after at most as many as there are ranks


class Jump:
    """`least` and `greatest` `[states, B]`, and `exact[B]` where they are one.

    `ends[n + 1, B]` holds the rows before the cut, `table` and `delays` the prices of all lanes, `periods[B]` how many
    periods to go, each at least 1.
    """

    def __init__(self, cut: Cut, ends: Floats, table: Floats, delays: Floats, periods: Index) -> None:
        self._cut, self._ends, self._table, self._delays, self._periods = cut, ends, table, delays, periods
        x = ends[cut.rows]
        self._rounding = _SAME * ends[cut.row]
        self.least = x + periods * cut.work(table)
        self.greatest = np.full_like(x, np.inf)
        self.exact = np.zeros(len(periods), bool)
        cycles = range(1, min(cut.history, cut.program.plan.placement.ranks, _LONGEST_CYCLE) + 1)
        for rule in (self._state_moves_alike, self._rows_drift_apart):
            for c in cycles:
                lanes = np.flatnonzero(~self.exact)
                if len(lanes):
                    rule(c, lanes)

    def _state_moves_alike(self, c: int, lanes: Index) -> None:
        """Rules 1 and 3."""
        cut, n = self._cut, self._periods[lanes]
        ends = self._ends if len(lanes) == len(self.exact) else self._ends[:, lanes]
        jumps = -(-n // c)
        base = cut.earlier(ends, jumps * c - n)
        d = ends[cut.rows] - ends[cut.rows - c * cut.block.period]
        low, high = d.min(axis=0), d.max(axis=0)
        self.least[:, lanes] = np.maximum(self.least[:, lanes], base + jumps * low)
        self.greatest[:, lanes] = np.minimum(self.greatest[:, lanes], base + jumps * high)
        self._settle(lanes, high - low <= self._rounding[lanes], base + jumps * high)

    def _rows_drift_apart(self, c: int, lanes: Index) -> None:
        """Rule 2."""
        cut, program = self._cut, self._cut.program
        span = c * cut.block.period
        before = cut.row - span  # the last row before the window of c periods
        if before - span < cut.block.first - 1 or cut.rows[0] <= before - span:
            return
        window = np.arange(before + 1, cut.row + 1)
        ends = self._ends[:, lanes]
        moved = ends[window] - ends[window - span]
        starts = ends[window] - self._table[program.duration[window - 1]][:, lanes]
        rounding = self._rounding[lanes]
        holds = np.ones(len(lanes), bool)
        decided = np.zeros(moved.shape, bool)
        for sources, edges in zip((program.prev, *program.dep), (None, *program.edge), strict=True):
            source = sources[window - 1]
            real = source > 0
            # A source before the window moves as its later self in the window did.
            behind = moved[(source - before - 1) % span] - moved
            holds &= ((behind <= rounding) | ~real[:, None]).all(axis=0)
            arrival = ends[source] if edges is None else ends[source] + self._delays[edges[window - 1]][:, lanes]
            decided |= real[:, None] & (arrival >= starts - rounding) & (behind >= -rounding)
        holds &= decided.all(axis=0)
        n = self._periods[lanes]
        jumps = -(-n // c)
        base = cut.earlier(ends, jumps * c - n)
        rows = cut.rows[:, None] - (jumps * c - n) * cut.block.period
        step = moved[(rows - before - 1) % span, np.arange(len(lanes))]
        self._settle(lanes, holds, base + jumps * step)

    def _settle(self, lanes: Index, holds: npt.NDArray[np.bool_], state: Floats) -> None:
        self.least[:, lanes[holds]] = self.greatest[:, lanes[holds]] = state[:, holds]
        self.exact[lanes[holds]] = True
