"""Blocks: where a program repeats itself, found in its arrays without knowing the schedule.

In a block every row stands q rows before the row that plays the same slot gamma micro-batches later, and the two read
from rows that stand q apart as well. A plan with gamma micro-batches more is then this one with q rows more in each
block. 1F1B repeats every micro-batch (gamma = 1), interleaving every group, DualPipe every micro-batch of each chain;
GPipe has two blocks, forwards and backwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from parsim.plan.op import Kind
from parsim.sim.program import Index, Program

__all__ = ["Block", "Blocks", "find_blocks"]

_KINDS = (Kind.F, Kind.B, Kind.I, Kind.W)
_PROBES = (1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)  # of the rows: a block covers one of these places


@dataclass(frozen=True)
class Block:
    """Rows `first` to `end` - 1, of which each but the last `period` repeats `period` rows later."""

    first: int
    end: int
    period: int

    @property
    def periods(self) -> int:
        """Whole periods in the block."""
        return (self.end - self.first) // self.period


@dataclass(frozen=True)
class Blocks:
    """The blocks of a program in order, and how many micro-batches of each chain a period of all of them plays."""

    gamma: int
    blocks: tuple[Block, ...]


def find_blocks(program: Program) -> Blocks | None:
    """The blocks with the fewest micro-batches a period; None for a program that does not repeat.

    A period of all blocks together plays gamma micro-batches on every stage, forward and back.
    """
    first = np.array([-1 if slot[0][2] is None else slot[0][2] for slot in program.slots])
    second = np.array([-1 if slot[1] is None else slot[1][2] for slot in program.slots])
    kinds, most = len(program.priced) + len(program.boundaries), int(first.max(initial=0)) + 1
    place = np.zeros((kinds, most), int)
    played = first >= 0
    place[program.duration[played], first[played]] = np.flatnonzero(played) + 1
    for gamma in range(1, most // 2 + 1):
        later = np.zeros(program.rows, int)  # the row that plays the same, gamma micro-batches later
        ahead = played & (first + gamma < most)
        later[ahead] = place[program.duration[ahead], first[ahead] + gamma]
        if not _may_repeat(program, later):
            continue
        blocks = _runs(program, later, second, gamma)
        if blocks and _covers(program, blocks, gamma):
            return Blocks(gamma, blocks)
    return None


def _ops_of_rows(program: Program) -> Index:
    """`[n, 2]`: stage * 4 + (0 F, 1 B, 2 I, 3 W) for each op of each row, -1 where there is none."""
    of_priced = np.full((len(program.priced) + len(program.boundaries), 2), -1)
    for row, slot in enumerate(program.priced):
        for column, op in enumerate(slot.ops):
            if op.kind in _KINDS:
                of_priced[row, column] = op.stage * len(_KINDS) + _KINDS.index(op.kind)
    found: Index = of_priced[program.duration]
    return found


def _may_repeat(program: Program, later: Index) -> bool:
    """Whether around one of the probes the slots repeat: a cheap look before all rows are compared."""
    for probe in _PROBES:
        row = int(probe * program.rows)
        q = int(later[row]) - row - 1
        this, next_ = program.duration[row : row + q], program.duration[row + q : row + 2 * q]
        if q > 0 and np.array_equal(this, next_):
            return True
    return False


def _runs(program: Program, later: Index, second: Index, gamma: int) -> tuple[Block, ...]:
    """The runs of rows that repeat the same number of rows later, if at least as long as that number."""
    rows = np.arange(1, program.rows + 1)
    there = later > 0
    twin = np.where(there, later, rows) - 1  # index of the later row
    q = np.where(there, later - rows, 0)
    alike = (q > 0) & (program.prev > 0) & (program.prev[twin] - program.prev == q)
    alike &= (second < 0) | (second[twin] - second == gamma)
    for dep, edge in zip(program.dep, program.edge, strict=True):
        alike &= (edge[twin] == edge) & ((dep[twin] - dep == q) & (dep > 0) | (dep == 0) & (dep[twin] == 0))
    q = np.where(alike, q, 0)
    starts = np.flatnonzero(np.diff(q, prepend=0))
    lengths = np.diff(starts, append=program.rows)
    found = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        period = int(q[start])
        if 0 < period <= length:
            found.append(Block(start + 1, start + 1 + length + period, period))
    return tuple(_apart(found))


def _apart(blocks: list[Block]) -> Iterator[Block]:
    """Blocks in order, of two that overlap the longer."""
    kept: list[Block] = []
    for block in sorted(blocks, key=lambda block: block.first - block.end):
        if all(block.end <= other.first or other.end <= block.first for other in kept):
            kept.append(block)
    yield from sorted(kept, key=lambda block: block.first)


def _covers(program: Program, blocks: tuple[Block, ...], gamma: int) -> bool:
    """Whether one period of each block plays gamma micro-batches forward and back on every stage."""
    ops = _ops_of_rows(program)
    played = np.concatenate([ops[block.end - 1 - block.period : block.end - 1].ravel() for block in blocks])
    shape = (program.plan.placement.stages, len(_KINDS))
    counts = np.bincount(played[played >= 0], minlength=shape[0] * shape[1]).reshape(shape)
    forward, whole, gradient, weight = counts.T
    return bool((forward == gamma).all() and (whole + gradient == gamma).all() and (weight == gradient).all())
