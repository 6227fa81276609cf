"""Prices: what a program's rows take, and the delays between its stages. In seconds, or in the unit of the cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from parsim.cost.cost import CopyCost, Cost
from parsim.errors import ScheduleError
from parsim.sim.program import Delayed, Index, Lag, Program

__all__ = ["Floats", "Prices", "duration_table", "prices", "row_delays", "row_seconds", "stack"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prices:
    """One cost vector, or B of them side by side (lanes).

    `durations[priced]` or `[priced, B]`: one for each of `program.priced`. `delays[delayed + 1]` or `[.., B]`:
    one for each of `program.delayed`, and a last one that is zero.
    """

    durations: Floats
    delays: Floats

    @property
    def lanes(self) -> int:
        """How many cost vectors stand side by side."""
        return 1 if self.durations.ndim == 1 else self.durations.shape[1]

    def part(self, lanes: slice | Index) -> "Prices":
        """Some of the lanes: a slice of them, or their numbers."""
        durations, delays = (column.reshape(len(column), -1) for column in (self.durations, self.delays))
        return Prices(np.ascontiguousarray(durations[:, lanes]), np.ascontiguousarray(delays[:, lanes]))


def prices(program: Program, cost: Cost) -> Prices:
    """Ask a cost once for every distinct slot and boundary of a program.

    Raises ScheduleError for a time that is negative or not finite, and where the costs know nothing of copies.
    """
    delays = [_delay(delayed, cost) for delayed in program.delayed]
    durations = [(str(slot), cost.seconds(slot)) for slot in program.priced]
    for name, value in chain(durations, delays):
        if not 0 <= (-value if name.startswith("lag") else value) < float("inf"):
            raise ScheduleError(f"{name} takes {value}: a time is finite and not negative")
    return Prices(np.array([value for _, value in durations]), np.array([*(value for _, value in delays), 0.0]))


def _delay(delayed: Delayed, cost: Cost) -> tuple[str, float]:
    if not isinstance(delayed, Lag):
        return "stage {} to stage {}".format(*delayed), cost.hop_seconds(*delayed)
    if not isinstance(cost, CopyCost):
        raise ScheduleError(f"{delayed.copy}: these costs know no copies to the host; a plan without them would do")
    return f"lag of {delayed.copy}", cost.lag_seconds(delayed.copy, delayed.slot)


def stack(lanes: Sequence[Prices]) -> Prices:
    """Cost vectors of one program side by side: lane b is `lanes[b]`."""
    return Prices(
        np.ascontiguousarray(np.stack([lane.durations for lane in lanes], axis=1)),
        np.ascontiguousarray(np.stack([lane.delays for lane in lanes], axis=1)),
    )


def duration_table(program: Program, prices: Prices) -> Floats:
    """The table that `program.duration` points into: the durations, and for transfers the delays behind them."""
    if program.sends == "buffered":
        return prices.durations
    return np.concatenate((prices.durations, prices.delays))


def row_seconds(program: Program, prices: Prices, lane: int, multipliers: Floats | None) -> Floats:
    """How long each row takes in one lane, shape [n]; `multipliers[n, B]` stretch it."""
    table = duration_table(program, prices)
    seconds: Floats = (table if table.ndim == 1 else table[:, lane])[program.duration]
    return seconds if multipliers is None else seconds * multipliers[:, lane]


def row_delays(program: Program, prices: Prices, lane: int) -> Floats:
    """The delay of each further input of each row in one lane, shape [nd, n]."""
    delays = prices.delays if prices.delays.ndim == 1 else prices.delays[:, lane]
    found: Floats = delays[program.edge]
    return found
