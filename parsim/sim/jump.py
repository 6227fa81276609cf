"""Jump: the state of a steady program n periods after a cut, exactly where a proof holds and else between two bounds.

Let x(t) be the state after t periods and d = x(t) - x(t - c).

1. If all entries of d are equal, x(t + c) is x(t) + d, for ever: a period is a map of maxima and sums, and what is
   added to all it reads is added to all it gives. c > 1 where messages set the pace: then the state repeats only after
   as many periods as a loop of messages takes, at most one for each rank.
2. If over the last period no input of a row moved more than the row did, and one that decides its start moved just
   as much, then each row goes on to move by as much: the decider stays the latest, by induction in the order of play.
   So it is where ranks drift apart because nothing holds up the first ones.
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


class Jump:
    """`least` and `greatest` `[states, B]`, and `exact[B]` where they are one.

    `ends[n + 1, B]` holds the rows before the cut, `table` and `delays` the prices of all lanes, `periods[B]` how many
    periods to go, each at least 1.
    """

    def __init__(self, cut: Cut, ends: Floats, table: Floats, delays: Floats, periods: Index) -> None:
        self._cut, self._ends, self._table, self._delays, self._periods = cut, ends, table, delays, periods
        self._rounding = _SAME * ends[cut.row]
        now, before = ends[cut.rows], ends[cut.rows - cut.block.period]
        self.least = now + periods * cut.work(table)
        self.greatest = np.full_like(now, np.inf)
        self.exact = np.zeros(len(periods), bool)
        self._all_move_alike(np.arange(len(periods)), periods, now, now - before)
        if not self.exact.all():
            self._rows_drift_apart()
        if not self.exact.all():
            self._repeats_later()

    def _all_move_alike(self, lanes: Index, jumps: Index, base: Floats, d: Floats) -> None:
        """Rules 1 and 3: `jumps` times d from the state `base`."""
        low, high = d.min(axis=0), d.max(axis=0)
        greatest = base + jumps * high
        self.least[:, lanes] = np.maximum(self.least[:, lanes], base + jumps * low)
        self.greatest[:, lanes] = np.minimum(self.greatest[:, lanes], greatest)
        self._settle(lanes, high - low <= self._rounding[lanes], greatest)

    def _repeats_later(self) -> None:
        """Rules 1 and 3 with cycles of more than one period, for the lanes that are left."""
        cut = self._cut
        longest = min(cut.history, cut.program.plan.placement.ranks)
        left = np.flatnonzero(~self.exact)
        rows = cut.rows - cut.block.period * np.arange(longest + 1)[:, None]
        history = self._ends[rows.ravel()][:, left].reshape(*rows.shape, len(left))  # [periods ago, states, lanes]
        for c in range(2, longest + 1):
            open_ = np.flatnonzero(~self.exact[left])
            if len(open_) == 0:
                return
            if len(open_) < len(left) / 2:
                left, history, open_ = left[open_], history[..., open_], np.arange(len(open_))
            n = self._periods[left[open_]]
            jumps = -(-n // c)
            base = history[jumps * c - n, :, open_].T
            self._all_move_alike(left[open_], jumps, base, history[0][:, open_] - history[c][:, open_])

    def _rows_drift_apart(self) -> None:
        """Rule 2."""
        cut, program, period = self._cut, self._cut.program, self._cut.block.period
        before = cut.row - period  # the last row before the last period
        if cut.block.periods < 2 or cut.rows[0] <= before:
            return
        lanes = np.flatnonzero(~self.exact)
        window, rounding = np.arange(before + 1, cut.row + 1), self._rounding[lanes]
        inputs = np.vstack((program.prev, program.dep))[:, window - 1]
        oldest = min(before - period + 1, int(inputs[inputs > 0].min()))
        ends = self._ends[oldest : cut.row + 1, lanes]
        moved = ends[window - oldest] - ends[window - oldest - period]
        starts = ends[window - oldest] - self._table[program.duration[window - 1]][:, lanes]
        holds = np.ones(len(lanes), bool)
        decided = np.zeros(moved.shape, bool)
        for source, edges in zip(inputs, (None, *program.edge), strict=True):
            real = (source > 0)[:, None]
            behind = moved[(source - before - 1) % period] - moved  # a source before the window moves as it does in it
            holds &= ((behind <= rounding) | ~real).all(axis=0)
            arrival = ends[np.maximum(source - oldest, 0)]
            if edges is not None:
                arrival += self._delays[edges[window - 1]][:, lanes]
            decided |= real & (arrival >= starts - rounding) & (behind >= -rounding)
        step = moved[cut.rows - before - 1]
        self._settle(lanes, holds & decided.all(axis=0), ends[cut.rows - oldest] + self._periods[lanes] * step)

    def _settle(self, lanes: Index, holds: npt.NDArray[np.bool_], state: Floats) -> None:
        self.least[:, lanes[holds]] = self.greatest[:, lanes[holds]] = state[:, holds]
        self.exact[lanes[holds]] = True
