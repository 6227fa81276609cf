"""Makespans of many lanes: what a search needs of a play, and nothing kept beside it."""

from collections.abc import Iterator

import numpy as np

from parsim.errors import ScheduleError
from parsim.sim.levels import Levels
from parsim.sim.prices import Floats, Prices
from parsim.sim.program import Program

__all__ = ["chunks_of", "last_ends", "makespans"]

_MOST_BYTES = 2**26  # of the ends of a chunk
_MOST_LANES = 1024


def makespans(program: Program, prices: Prices, tails: Floats | None = None, chunk: int | None = None) -> Floats:
    """When each of B lanes is over, `[B]`: the latest of its ranks' last ends, each and its tail.

    `tails[B]` or `tails[ranks, B]` is what follows on a rank after all the program plays, for example an exposed
    reduction; 0 if not given. `chunk` lanes are played at a time in the same memory: by default as many as 64 MiB hold,
    and 1,024 at most.
    """
    found = np.empty(prices.lanes)
    ends: Floats | None = None
    for part in chunks_of(program, prices.lanes, chunk):
        lanes = part.stop - part.start
        if ends is None or ends.shape[1] != lanes:
            ends = np.empty((program.rows + 1, lanes))
        levels = Levels(program, prices.part(part), ends=ends)
        levels.advance(1, program.rows + 1)
        found[part] = last_ends(program, ends, None if tails is None else tails[..., part])
    return found


def chunks_of(program: Program, lanes: int, chunk: int | None = None) -> Iterator[slice]:
    """The lanes in parts of nearly equal size, none larger than `chunk`. ScheduleError for a chunk below 1."""
    most = min(_MOST_LANES, max(1, _MOST_BYTES // (8 * (program.rows + 1)))) if chunk is None else chunk
    if most < 1:
        raise ScheduleError(f"chunk {chunk}: at least 1 lane at a time")
    size = -(-lanes // -(-lanes // most)) if lanes else 1
    for start in range(0, lanes, size):
        yield slice(start, min(start + size, lanes))


def last_ends(program: Program, ends: Floats, tails: Floats | None = None) -> Floats:
    """When each lane of `ends[n + 1, B]` is over, `[B]`; `tails` as in `makespans`."""
    last = ends[program.last]
    if tails is not None:
        last += tails[program.rank[program.last - 1]] if tails.ndim == 2 else tails
    found: Floats = last.max(axis=0)
    return found
