"""What holds copies to and from the host and the slots beside them together, from the order of each rank.

The dependency rule says which op needs which; a copy is layer by layer, so most of it is beside the slot it follows or
precedes: see `Lag`. The order says more. The slot behind an OFFLOAD finds no more of it left than the window of layers
that a framework keeps on the device while it copies. A RELOAD starts no sooner than the compute slot that stands before
it has ended, and at the end of the slot before its backward it has no more than that window on the device.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from parsim.plan.op import Kind, Op, Slot
from parsim.sim.played import Played
from parsim.sim.prices import Floats, row_delays
from parsim.sim.program import COMPUTE, COPY_IN, COPY_OUT, Index, Lag

__all__ = ["copy_inputs", "copy_waits"]

_Input = tuple[int, int, Lag | None]


def copy_inputs(slots: Sequence[Slot], rank: Index, stream: Index, row_of: Callable[[Op], int]) -> Iterator[_Input]:
    """Inputs (row, the row it needs, its lag) of the rows of copies and of those beside them.

    `slots` stand in plan order, rank after rank; row i, on `stream[i]` of `rank[i]`, plays `slots[i - 1]`, and row 0
    nothing.
    """
    lines: dict[int, list[int]] = {}
    for row in range(1, len(slots) + 1):
        if stream[row] in (COMPUTE, COPY_OUT, COPY_IN):
            lines.setdefault(int(rank[row]), []).append(row)
    for line in lines.values():
        if any(stream[row] != COMPUTE for row in line):
            yield from _of_rank(line, slots, stream, row_of)


def _of_rank(
    line: Sequence[int], slots: Sequence[Slot], stream: Index, row_of: Callable[[Op], int]
) -> Iterator[_Input]:
    played, leaving, coming = 0, list[int](), list[tuple[int, int]]()
    before: dict[int, int] = {}  # the compute row before each
    for row in line:
        stage, _, mb = op = slots[row - 1].first
        copy = op._replace(mb=None)
        if stream[row] == COMPUTE:
            yield from ((row, left, Lag(slots[left - 1].first._replace(mb=None), None)) for left in leaving)
            leaving, before[row], played = [], played, row
        elif stream[row] == COPY_OUT:
            made = row_of(Op(stage, Kind.F, mb))
            yield row, made, Lag(copy, _any_microbatch(slots[made - 1]))
            leaving.append(row)
        else:
            user = row_of(Op(stage, Kind.B, mb)) or row_of(Op(stage, Kind.I, mb))
            yield user, row, Lag(copy, _any_microbatch(slots[user - 1]))
            if played:
                yield row, played, None
            coming.append((row, user))
    next_user = len(slots) + 1
    for row, user in reversed(coming):
        # Where reloads stand in another order than their backwards, the slot before one may wait for a later reload.
        if user < next_user and before[user]:
            yield row, before[user], Lag(slots[row - 1].first._replace(mb=None), None)
        next_user = min(next_user, user)


def _any_microbatch(slot: Slot) -> Slot:
    """The slot as it stands for all that are alike."""
    first, second = slot
    return Slot(first._replace(mb=0), None if second is None else second._replace(mb=0))


def copy_waits(played: Played, lane: int = 0) -> Floats:
    """Seconds that each row of the compute streams waits for copies alone, when all else it needs is there, [n]."""
    program, ends = played.program, played.ends[:, lane]
    copies = np.append(False, np.isin(program.stream, (COPY_OUT, COPY_IN)))
    if not copies.any():
        return np.zeros(program.rows)
    without = ends[program.prev]
    for dep, delay in zip(program.dep, row_delays(program, played.prices, lane), strict=True):
        np.maximum(without, np.where(copies[dep], 0.0, ends[dep] + delay), out=without)
    waits: Floats = np.where(program.stream == COMPUTE, played.starts(lane)[1:] - without, 0.0)
    return waits
