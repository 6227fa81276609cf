"""The event player: SimPy processes, one for each stream of each rank of each lane.

A process runs ahead on its own clock: an input that is known already is arithmetic, and only for one that is not yet
known does it wait for an event. That is safe because the order on a stream is fixed: what a stream plays next never
depends on when something arrives. Nothing contends here, so the ends are those of the longest path.
"""

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import simpy

from parsim.sim.levels import lanes_of
from parsim.sim.played import Played
from parsim.sim.prices import Floats, Prices, row_delays, row_seconds
from parsim.sim.program import COLLECTIVE, SEND_BACKWARD, SEND_FORWARD, Program

__all__ = ["play"]

_Process = Generator[simpy.Event, Any, None]
_Step = tuple[int, list[int], list[float], float]  # row, the rows it needs, their delays, its own duration


def play(program: Program, prices: Prices, multipliers: Floats | None = None, join: int = 1) -> Played:
    """As `longest_path.play`, played by events: the same arguments, results and errors."""
    lanes = lanes_of(program, prices, multipliers, join)
    environment = simpy.Environment()
    ends: list[list[float | None]] = []
    for lane in range(lanes):
        if lane % join == 0:
            meetings = _Meetings(environment, join)
        row_ends: list[float | None] = [0.0, *[None] * program.rows]
        awaited: dict[int, simpy.Event] = {}
        for stream, steps in _parts(program, prices, lane, multipliers):
            meets = meetings if join > 1 and stream == COLLECTIVE else None
            environment.process(_stream(environment, steps, row_ends, awaited, meets))
        ends.append(row_ends)
    environment.run()
    return Played(program, prices, np.array(ends, float).T, multipliers, join)


class _Meetings:
    """Where the lanes of a data-parallel group wait for each other: a reduction starts with the last of them."""

    def __init__(self, environment: simpy.Environment, size: int) -> None:
        self.environment = environment
        self.size = size
        self.arrived: dict[int, tuple[simpy.Event, list[float]]] = {}

    def arrive(self, row: int, clock: float) -> simpy.Event:
        """The event at which all lanes have arrived at `row`; its value is the clock of the last."""
        event, clocks = self.arrived.setdefault(row, (self.environment.event(), []))
        clocks.append(clock)
        if len(clocks) == self.size:
            event.succeed(max(clocks))
        return event


def _parts(
    program: Program, prices: Prices, lane: int, multipliers: Floats | None
) -> Iterator[tuple[int, Iterator[_Step]]]:
    """The part of each stream of a lane: its number and its steps."""
    seconds = row_seconds(program, prices, lane, multipliers)
    delays = row_delays(program, prices, lane)
    for _, stream, rows in program.lines:
        index = np.array(rows) - 1
        needs, waits = program.dep[:, index], delays[:, index]
        if stream in (SEND_FORWARD, SEND_BACKWARD):  # a transfer also waits for the op whose message it carries
            needs = np.vstack((program.prev[index], needs))
            waits = np.vstack((np.zeros(len(rows)), waits))
        yield stream, zip(rows, needs.T.tolist(), waits.T.tolist(), seconds[index].tolist(), strict=True)


def _stream(
    environment: simpy.Environment,
    steps: Iterator[_Step],
    ends: list[float | None],
    awaited: dict[int, simpy.Event],
    meetings: _Meetings | None,
) -> _Process:
    """Play a stream: wait for each row's inputs, then let its time pass, then wake who waits for it."""
    clock = 0.0
    for row, needs, waits, duration in steps:
        for need, wait in zip(needs, waits, strict=True):
            end = ends[need]
            if end is None:
                end = yield awaited.setdefault(need, environment.event())
            if end + wait > clock:
                clock = end + wait
        if meetings is not None:
            clock = yield meetings.arrive(row, clock)
        clock += duration
        ends[row] = clock
        if row in awaited:
            awaited.pop(row).succeed(clock)
