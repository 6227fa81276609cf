"""Cut: the end of a block, where a steady program can be left early or go on for more periods than it has."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parsim.sim.blocks import Block
from parsim.sim.prices import Floats
from parsim.sim.program import STREAM_NAMES, Index, Program

__all__ = ["Cut", "cut_after"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Of what stands before the cut, rows behind it read only `rows`, the state (`[states]`, ascending).

    The same state is in the block up to `history` periods before.
    """

    program: Program
    block: Block
    rows: Index
    history: int

    @property
    def row(self) -> int:
        """The last row before the cut."""
        return self.block.end - 1

    def earlier(self, ends: Floats, periods: Index) -> Floats:
        """The state of each lane `periods[B]` periods before the cut, `[states, B]`."""
        rows = self.rows[:, None] - periods * self.block.period
        found: Floats = ends[rows, np.arange(ends.shape[1])]
        return found

    def work(self, table: Floats) -> Floats:
        """What the stream of each row of the state plays in a period, `[states, B]`, from the durations `table`."""
        durations, counts, starts, of_state = self._uses
        found: Floats = np.add.reduceat(table[durations] * counts, starts, axis=0)[of_state]
        return found

    @cached_property
    def _uses(self) -> tuple[Index, Index, Index, Index]:
        """Which durations are played in a period and how often, stream after stream; where each stream starts among
        them; and the stream of each row of the state.
        """
        program = self.program
        line = program.rank * len(STREAM_NAMES) + program.stream
        period = slice(self.row - self.block.period, self.row)
        most = int(program.duration.max()) + 1
        pairs, counts = np.unique(line[period] * most + program.duration[period], return_counts=True)
        lines, starts = np.unique(pairs // most, return_index=True)
        return pairs % most, counts[:, None], starts, np.searchsorted(lines, line[self.rows - 1])


def cut_after(program: Program, block: Block) -> Cut:
    """The cut at the end of a block: its state is what a further period and the rest of the program read, and the
    last row of each stream that has ended.
    """
    row, period = block.end - 1, block.period
    sources = np.vstack((program.prev, program.dep))
    repeated = sources[:, row - period : row]
    repeated = repeated[repeated > 0]  # 0 pads
    reach = int((row - repeated.min()) // period) + 1
    read = (repeated[..., None] + period * np.arange(1, reach + 1)).ravel()
    state = np.concatenate((read, sources[:, row:].ravel(), program.last))
    state = state[(state >= block.first) & (state <= row)]
    oldest = int(state.min())
    ages = state[:, None] + period * np.arange((row - oldest) // period + 1)
    rows = np.unique(ages[ages <= row])
    return Cut(program, block, rows, (int(rows[0]) - block.first) // period)
