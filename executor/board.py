"""Board: what every rank is doing now, where those who watch can see it.

A rank writes three numbers of shared memory for every slot: no lock, no call into the system but reading the clock.
"""

import mmap
import os
import socket
import time
from collections.abc import MutableSequence
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

__all__ = ["FIELDS", "Phase", "Row", "State", "host_name", "row_of", "row_of_process", "shared_row"]

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
        row[at + 2] = time.monotonic_ns()  # first: whoever reads between two writes sees it too young, never too old
        row[at] = index
        row[at + 1] = 1

    def wait(self, index: int) -> None:
        """It waits for what slot `index` needs."""
        row, at = self._row, self._at
        row[at + 2] = time.monotonic_ns()
        row[at] = index
        row[at + 1] = 2

    def leave(self) -> None:
        """It plays nothing: between steps."""
        self._write(self._row[self._at], Phase.IDLE)

    def finish(self) -> None:
        """It has done its part."""
        self._write(self._row[self._at], Phase.DONE)

    def _write(self, slot: int, phase: Phase) -> None:
        self._row[self._at + 2] = time.monotonic_ns()
        self._row[self._at] = slot
        self._row[self._at + 1] = int(phase)


def row_of(board: MutableSequence[int], at: int = 0) -> Row:
    """What stands in a row now."""
    age_s = (time.monotonic_ns() - board[at + 2]) / 1e9
    return Row(board[at], Phase(board[at + 1]), max(age_s, 0.0))


def shared_row() -> tuple[int | None, MutableSequence[int]]:
    """A row in memory that other processes of the host can map: its file descriptor, None where there is no such."""
    if not hasattr(os, "memfd_create"):
        return None, [0] * FIELDS
    memory = os.memfd_create("parsim")
    os.truncate(memory, 8 * FIELDS)
    return memory, _as_row(mmap.mmap(memory, 8 * FIELDS))


def row_of_process(pid: int, memory: int) -> MutableSequence[int]:
    """The shared row of another process of the host, which outlives it. OSError if it cannot be had."""
    with open(f"/proc/{pid}/fd/{memory}", "rb") as shared:
        return _as_row(mmap.mmap(shared.fileno(), 8 * FIELDS, prot=mmap.PROT_READ))


def _as_row(memory: mmap.mmap) -> MutableSequence[int]:
    return memoryview(memory).cast("q")  # type: ignore[return-value]


def host_name() -> str:
    """What tells this machine, and the processes of this container, from others of the same name."""
    name = socket.gethostname()
    with suppress(OSError):
        name += Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return name
