"""Board: what every rank is doing now, where those who watch can see it.

A rank writes three numbers of shared memory for every slot: no lock, no call into the system but reading the clock.
"""

import time
from collections.abc import MutableSequence
from enum import IntEnum
from typing import NamedTuple

__all__ = ["FIELDS", "Phase", "Row", "State", "row_of"]

FIELDS = 3
"""Numbers of a rank's row: slot, phase, since when (ns of the monotonic clock)."""


class Phase(IntEnum):
    """IDLE: set-up, or between steps. WAITING: for a message or a reduction. DONE: its result is under way."""

    IDLE = 0
    COMPUTING = 1
    WAITING = 2
    DONE = 3


class Row(NamedTuple):
    """A rank's row: the slot of its order it plays (or played last; -1 before the first), and for how long."""

    slot: int
    phase: Phase
    age_s: float


class State:
    """A rank's own row, as the interpreter writes it."""

    def __init__(self, row: MutableSequence[int], at: int = 0) -> None:
        self._row, self._at = row, at
        self._write(-1, Phase.IDLE)

    def enter(self, index: int) -> None:
        """It plays slot `index` from now on."""
        row, at = self._row, self._at
        row[at] = index
        row[at + 1] = 1
        row[at + 2] = time.monotonic_ns()

    def wait(self, index: int) -> None:
        """It waits for what slot `index` needs."""
        row, at = self._row, self._at
        row[at] = index
        row[at + 1] = 2
        row[at + 2] = time.monotonic_ns()

    def leave(self) -> None:
        """It plays nothing: between steps."""
        self._write(self._row[self._at], Phase.IDLE)

    def finish(self) -> None:
        """It has done its part."""
        self._write(self._row[self._at], Phase.DONE)

    def _write(self, slot: int, phase: Phase) -> None:
        self._row[self._at] = slot
        self._row[self._at + 1] = int(phase)
        self._row[self._at + 2] = time.monotonic_ns()


def row_of(board: MutableSequence[int], at: int = 0) -> Row:
    """What stands in a row now."""
    age_s = (time.monotonic_ns() - board[at + 2]) / 1e9
    return Row(board[at], Phase(board[at + 1]), max(age_s, 0.0))
