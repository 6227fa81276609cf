"""Family: the plans of one schedule on p ranks for every number of micro-batches, played from few small programs.

Of a steady schedule one program of about 4p micro-batches (6 groups, if it repeats by groups) stands for all numbers
that differ by whole periods; where the blocks do not reach, and for a schedule that is not steady, the plan itself is
compiled. Programs are kept, and all take the same prices, so that lanes of any numbers are played together.
"""

from collections.abc import Callable
from functools import cached_property

import numpy as np

from parsim.errors import ScheduleError
from parsim.plan.op import Kind, Slot
from parsim.plan.plan import Plan
from parsim.sim.compiler import compile_plan
from parsim.sim.makespans import makespans
from parsim.sim.prices import Floats, Prices
from parsim.sim.program import Index, Program
from parsim.sim.steady_state import Interval, Steady, steady_state

__all__ = ["Family"]

_MICROBATCHES_PER_RANK = 4
_GROUPS = 6
_FEWEST = 16


class Family:
    """`plan_of(m)` is the plan for m micro-batches on `ranks`; `period_of(m)` (`Schedule.period`) after how many more
    it repeats, None if it does not. `model` is the number of micro-batches that fixes the order of prices: a usual one.
    """

    def __init__(
        self,
        plan_of: Callable[[int], Plan],
        period_of: Callable[[int], int | None],
        ranks: int,
        model: int,
    ) -> None:
        self._plan_of, self._period_of, self._ranks, self._model = plan_of, period_of, ranks, model
        self._programs: dict[int, Program] = {}
        self._steadies: dict[int, Steady | None] = {}
        self._columns: dict[int, tuple[Index, Index]] = {}

    @cached_property
    def model(self) -> Program:
        """The program whose `priced` and `delayed` all prices of the family follow."""
        return self._program(self._small(self._model) or self._model)

    def play(
        self,
        prices: Prices,
        microbatches: Index,
        tails: Floats | None = None,
        chunk: int | None = None,
        doublings: int = 0,
    ) -> Interval:
        """Step times of B lanes of different prices (as `model` orders them) and `microbatches[B]`; `tails` and `chunk`
        as in `makespans`. Each doubling of the small programs makes intervals narrower, at last the plan itself is
        played.
        """
        microbatches = np.asarray(microbatches, int)
        lanes_of: dict[int, list[Index]] = {}
        for number in np.unique(microbatches).tolist():
            lanes_of.setdefault(self._played_from(number, doublings), []).append(np.flatnonzero(microbatches == number))
        found = Interval.unknown(len(microbatches))
        for compiled, parts in lanes_of.items():
            lanes = np.concatenate(parts)
            ordered = self._ordered(compiled, prices if prices.lanes == 1 else prices.part(lanes))
            theirs = None if tails is None else tails[..., lanes]
            steady = self._steadies.get(compiled)
            if steady is not None:
                played = steady.play(ordered, microbatches[lanes], theirs, chunk)
            else:
                wide = ordered if ordered.lanes == len(lanes) else ordered.part(np.zeros(len(lanes), int))
                ends = makespans(self._program(compiled), wide, theirs, chunk)
                played = Interval(ends, ends, np.ones(len(lanes), bool))
            found.put(lanes, played)
        return found

    def settle(
        self,
        prices: Prices,
        microbatches: Index,
        incumbent: float | None = None,
        tails: Floats | None = None,
        chunk: int | None = None,
    ) -> Interval:
        """As `play`; lanes whose interval has the incumbent inside are played again, each time from a program twice as
        large, until theirs lies on one side or is exact. Without an incumbent until all are exact.
        """
        microbatches = np.asarray(microbatches, int)
        found = self.play(prices, microbatches, tails, chunk)
        doublings = 0
        while True:
            open_ = ~found.exact
            if incumbent is not None:
                open_ &= (found.lower < incumbent) & (found.upper >= incumbent)
            lanes = np.flatnonzero(open_)
            if not len(lanes):
                return found
            doublings += 1
            part = prices.part(lanes) if prices.lanes > 1 else prices
            again = self.play(part, microbatches[lanes], None if tails is None else tails[..., lanes], chunk, doublings)
            found.put(lanes, again)

    def _played_from(self, microbatches: int, doublings: int) -> int:
        """The micro-batches of the program that plays this number: of a small steady one, or the number itself."""
        small = self._small(microbatches, doublings)
        if small is None or (doublings and small >= microbatches):
            return microbatches
        steady = self._steady(small)
        return small if steady is not None and microbatches >= steady.fewest else microbatches

    def _small(self, microbatches: int, doublings: int = 0) -> int | None:
        """The micro-batches of the small program that this number is whole periods away from; None if there is none."""
        period = self._period_of(microbatches)
        if period is None:
            return None
        least = max(_FEWEST, _MICROBATCHES_PER_RANK * self._ranks, _GROUPS * period * (period > 2)) << doublings
        small = least + (microbatches - least) % period
        return small if self._period_of(small) == period else None

    def _program(self, microbatches: int) -> Program:
        if microbatches not in self._programs:
            self._programs[microbatches] = compile_plan(self._plan_of(microbatches))
        return self._programs[microbatches]

    def _steady(self, microbatches: int) -> Steady | None:
        if microbatches not in self._steadies:
            self._steadies[microbatches] = steady_state(self._program(microbatches))
        return self._steadies[microbatches]

    def _ordered(self, microbatches: int, prices: Prices) -> Prices:
        """Prices in the order of this program, which may lack some of the model's slots."""
        program, model = self._program(microbatches), self.model
        if program is model:
            return prices
        if microbatches not in self._columns:
            durations = {_key(slot): row for row, slot in enumerate(model.priced)}
            delays = {boundary: row for row, boundary in enumerate(model.delayed)}
            unknown = [slot for slot in program.priced if _key(slot) not in durations]
            if unknown or set(program.delayed) - set(delays):
                raise ScheduleError(
                    f"{program.plan.name} with {microbatches} micro-batches plays {', '.join(map(str, unknown))}, "
                    f"which the family's model with {model.plan.microbatches} does not; a model with more would do"
                )
            self._columns[microbatches] = (
                np.array([durations[_key(slot)] for slot in program.priced]),
                np.array([*(delays[boundary] for boundary in program.delayed), len(delays)]),
            )
        duration_rows, delay_rows = self._columns[microbatches]
        return Prices(prices.durations[duration_rows], prices.delays[delay_rows])


def _key(slot: Slot) -> tuple[tuple[int, Kind], ...]:
    """What a slot is priced by."""
    return tuple((op.stage, op.kind) for op in slot.ops)
