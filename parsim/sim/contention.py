"""Contention: the event player with the segments themselves on the shared links.

Collectives of tp, cp, ep and dp, gradient reductions and the messages of the pipeline become flows on the links that
they share; where they meet they slow each other. The groups of an axis on a pipeline rank move together, as one
activity (`network.traffic`); all replicas do the same at the same time, so one lane stands for them.

What shares nothing takes the time it is priced at: then the ends are those of the other players. A row is never
shorter than its price and a message never faster than its delay, so no row ends earlier than without contention.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import simpy

from parsim.cost.segments import Block, Collective, TwoStreams, play, play_pair
from parsim.errors import ScheduleError
from parsim.network.traffic import Traffic, Use
from parsim.plan.op import Slot
from parsim.sim.levels import lanes_of
from parsim.sim.played import Played
from parsim.sim.prices import Floats, Prices, row_seconds
from parsim.sim.program import COLLECTIVE, COMPUTE, COPY_IN, COPY_OUT, Program
from parsim.sim.shared_links import SharedLinks

__all__ = ["Load", "Loads", "play_loads"]

_Process = Generator[simpy.Event, Any, None]
_ROUNDING = 1e-10  # what a played slot may differ from its price without anything having slowed it


class Load(NamedTuple):
    """What something does to the shared links: what it uses, and the bytes/s it has by itself."""

    use: Use
    bytes_per_s: float


class Loads(Protocol):
    """What the rows of a program do to shared links. None: nothing that others could notice."""

    @property
    def traffic(self) -> Traffic:
        """The shared links."""
        ...

    def segments(self, slot: Slot) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each op of a compute slot; empty for a slot that has none."""
        ...

    def collective(self, rank: int, segment: Collective) -> Load | None:
        """A collective inside a slot of a pipeline rank."""
        ...

    def reduction(self, slot: Slot, seconds: float) -> Load | None:
        """A gradient reduction that by itself lasts `seconds`."""
        ...

    def message(self, source: int, target: int, seconds: float) -> Load | None:
        """A message between two stages that by itself takes `seconds`."""
        ...


def play_loads(program: Program, prices: Prices, loads: Loads, multipliers: Floats | None = None) -> Played:
    """Play one lane with contention.

    The result is a program of its own, in which every row has its own duration and every input its own delay, as
    they came out: whatever reads a `Played` reads the contended times. ScheduleError for more than one lane.
    """
    lanes = lanes_of(program, prices, multipliers, 1)
    if lanes != 1:
        raise ScheduleError(f"{lanes} lanes: contention is played for one lane, in which all replicas do the same")
    return _Play(program, prices, loads, multipliers).played()


class _Play:
    """One lane on SimPy's clock: a process for each stream, and one for each message."""

    def __init__(self, program: Program, prices: Prices, loads: Loads, multipliers: Floats | None) -> None:
        self.program, self.loads = program, loads
        self.environment = simpy.Environment()
        self.links = SharedLinks(self.environment, loads.traffic.links)
        self.seconds = row_seconds(program, prices, 0, multipliers).tolist()
        delays = prices.delays if prices.delays.ndim == 1 else prices.delays[:, 0]
        self.delays: list[float] = delays.tolist()
        self.ends: list[float | None] = [0.0, *[None] * program.rows]
        self.waited: dict[tuple[int, int], simpy.Event] = {}
        self.arrivals: dict[tuple[int, int], float] = {}
        self.receivers: dict[int, list[int]] = {}
        self.slots = [self._slot_of(slot) for slot in program.priced]
        for dep, edge in zip(program.dep.ravel().tolist(), program.edge.ravel().tolist(), strict=True):
            known = self.receivers.setdefault(dep, [])
            if dep and edge not in known:
                known.append(edge)

    def played(self) -> Played:
        for rank, _, rows in self.program.lines:
            self.environment.process(self._stream(rank, rows))
        self.environment.run()
        ends = np.array(self.ends, float)
        return _as_program(self.program, ends, self.arrivals, np.array(self.delays))

    # Rows

    def _stream(self, rank: int, rows: list[int]) -> _Process:
        program, end_s = self.program, 0.0
        for row in rows:
            index = row - 1
            inputs = [(int(program.prev[index]), -1)]
            inputs += [(int(d), int(e)) for d, e in zip(program.dep[:, index], program.edge[:, index], strict=True)]
            start_s = end_s
            for key in inputs:
                start_s = max(start_s, (yield from self._arrival(*key)))
            if program.stream[index] in (COPY_OUT, COPY_IN):  # shares no link: told ahead, for a lag reads it early
                end_s = start_s + self.seconds[index]
                self._end(row, end_s)
                continue
            yield from self._until(start_s)
            seconds = self.seconds[index]
            end_s = yield from self._row(rank, row, start_s, seconds)
            # The clock adds up what was waited for; the end is the sum of the same terms as everywhere.
            end_s = start_s + seconds if end_s - start_s <= seconds * (1 + _ROUNDING) else end_s
            yield from self._until(end_s)
            self._end(row, end_s)

    def _arrival(self, dep: int, edge: int) -> Generator[simpy.Event, Any, float]:
        """When an input is there; -1: the end itself, without a message or a lag."""
        if dep == 0:
            return 0.0
        if not 0 <= edge < len(self.program.boundaries):
            end_s = self.ends[dep]
            if end_s is None:
                end_s = yield self.waited.setdefault((dep, -1), self.environment.event())
            return end_s if edge < 0 else end_s + self.delays[edge]
        key = dep, edge
        if key not in self.arrivals:
            yield self.waited.setdefault(key, self.environment.event())
        return self.arrivals[key]

    def _end(self, row: int, end_s: float) -> None:
        self.ends[row] = end_s
        if (row, -1) in self.waited:
            self.waited.pop((row, -1)).succeed(end_s)
        for edge in self.receivers.get(row, ()):
            if edge < len(self.program.boundaries):
                self.environment.process(self._message(row, edge, end_s))

    def _message(self, row: int, edge: int, start_s: float) -> _Process:
        delay = self.delays[edge]
        end_s = start_s + delay
        load = self.loads.message(*self.program.boundaries[edge], delay) if delay else None
        if load is not None and load.use.links:
            yield self.links.start(load.use, delay, load.bytes_per_s).done
            now = self.environment.now
            end_s = end_s if now - start_s <= delay * (1 + _ROUNDING) else now
        self.arrivals[row, edge] = end_s
        if (row, edge) in self.waited:
            self.waited.pop((row, edge)).succeed()

    def _row(self, rank: int, row: int, start_s: float, seconds: float) -> Generator[simpy.Event, Any, float]:
        """Play a row that by itself lasts `seconds`; when it is over."""
        program = self.program
        slot, stream = program.slots[row - 1], int(program.stream[row - 1])
        if not seconds:
            return start_s
        load: Load | None = None
        if stream == COLLECTIVE:
            load = self.loads.reduction(slot, seconds)
        elif stream != COMPUTE:  # a transfer of its own
            boundary = program.boundaries[int(program.duration[row - 1]) - len(program.priced)]
            load = self.loads.message(*boundary, seconds)
        else:
            ops, alone_s = self.slots[int(program.duration[row - 1])]
            if ops and any(self._load(rank, segment) for op in ops for block in op for segment in block):
                yield from self._slot(rank, ops, seconds / alone_s)
                return float(self.environment.now)
        if load is not None and load.use.links:
            yield self.links.start(load.use, seconds, load.bytes_per_s).done
            return float(self.environment.now)
        return start_s + seconds

    def _until(self, time_s: float) -> _Process:
        if time_s > self.environment.now:
            yield self.environment.timeout(time_s - self.environment.now)

    # Segments

    def _slot_of(self, slot: Slot) -> tuple[tuple[tuple[Block, ...], ...], float]:
        """The ops to play together and what they last by themselves: a pair one after the other where that is best."""
        ops = self.loads.segments(slot)
        if not ops:
            return (), 0.0
        if len(ops) == 1:
            return ops, play(ops[0]).seconds
        together, apart = play_pair(*ops).seconds, play(ops[0]).seconds + play(ops[1]).seconds
        return (ops, together) if together < apart else (((*ops[0], *ops[1]),), apart)

    def _load(self, rank: int, segment: object) -> Load | None:
        if not isinstance(segment, Collective) or not segment.seconds:
            return None
        load = self.loads.collective(rank, segment)
        return load if load is not None and load.use.links else None

    def _slot(self, rank: int, ops: tuple[tuple[Block, ...], ...], stretch: float) -> _Process:
        """Play segments, all of them `stretch` times as long as priced."""
        environment, streams = self.environment, TwoStreams(ops)
        ahead = 0.0  # seconds that nothing shared has been on: they are waited for at once
        while True:
            kernel, collective = streams.heads()
            if kernel is None and collective is None:
                break
            load = None if collective is None else self._load(rank, collective.segment)
            slow = 1.0
            if kernel is not None and collective is not None and isinstance(collective.segment, Collective):
                slow += collective.segment.contention
            heads = [head for head in (kernel, collective) if head is not None]
            if load is None or collective is None:
                lasting = min(head.left for head in heads)
                ahead += lasting * slow * stretch
                for head in heads:
                    head.left -= lasting
            else:
                if ahead:
                    yield environment.timeout(ahead)
                    ahead = 0.0
                begin_s = environment.now
                full = collective.left * stretch
                carried = self.links.start(load.use, full, load.bytes_per_s / stretch, 1 / slow)
                if kernel is None:
                    yield carried.done
                else:
                    yield carried.done | environment.timeout(kernel.left * slow * stretch)
                    passed = (environment.now - begin_s) / (slow * stretch)
                    kernel.left = _rest(kernel.left, passed, environment.now / stretch)
                collective.left = _rest(self.links.stop(carried) / stretch, 0.0, environment.now / stretch)
            for head in heads:
                if head.left <= 0.0:
                    streams.end(head)
        if ahead:
            yield environment.timeout(ahead)


def _rest(left: float, passed: float, now_s: float) -> float:
    """What is left, without what is a rounding of the clock."""
    rest = left - passed
    return rest if rest > 4e-16 * now_s + 1e-13 * left else 0.0


def _as_program(program: Program, ends: Floats, arrivals: Mapping[tuple[int, int], float], priced: Floats) -> Played:
    """The play as a program in which each row lasts, and each message takes, what it did."""
    inputs, rows = program.dep.shape
    keys = list(zip(program.dep.ravel().tolist(), program.edge.ravel().tolist(), strict=True))
    there = np.array([arrivals.get(key, ends[key[0]]) for key in keys], float)
    edge = program.edge.ravel()
    messages = np.maximum(there - ends[program.dep.ravel()], 0.0)
    delays = np.where(edge < len(program.boundaries), messages, priced[edge])
    ready = ends[program.prev]
    for number in range(inputs):
        ready = np.maximum(ready, ends[program.dep[number]] + delays[number * rows : (number + 1) * rows])
    unfolded = replace(
        program,
        duration=np.arange(rows, dtype=np.intp),
        edge=np.arange(inputs * rows, dtype=np.intp).reshape(inputs, rows),
        priced=program.slots,
        boundaries=tuple([(-1, -1)] * (inputs * rows)),
        lags=(),
    )
    return Played(unfolded, Prices(ends[1:] - ready, np.append(delays, 0.0)), ends.reshape(-1, 1))
