"""The replay: a rank's order against its stages' bytes. The order alone decides the peak, never the times.

F adds the stage's saved bytes, B removes them, I removes all but what W keeps, W the rest. While an op runs, its
temporaries stand on top. Every state is one moment: the live activations and the temporaries of the running slot.

Two steps are played at the least, for a step may leave behind what was not there in the one before: optimizer states
that are allocated by the first update, gradients by the first backward.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from parsim.memory.reserved import reserved_bytes
from parsim.memory.stage import NOTHING, Reach, StageActivations
from parsim.memory.versions import Versions, is_asynchronous
from parsim.plan.op import COMPUTE, Kind, Op, Slot
from parsim.timeline import MemorySample, Span

__all__ = ["CATEGORIES", "Holding", "Item", "Moment", "RankMemory", "memory_samples", "replay"]

CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "temporaries", "communication", "reserve")


class Item(NamedTuple):
    """Bytes that a rank holds all through a step; `lazy`: from the first optimizer step on; `passes`: only while
    forwards and backwards run, not in the optimizer step (gathered parameters)."""

    category: str
    name: str
    size: float
    lazy: bool = False
    passes: bool = False


class Moment(NamedTuple):
    """While `slot` runs: bytes of activations held (its own results and inputs included) and of temporaries, gradients
    that came into being in this step's backward, and what stays once it has ended. `reach` says which op of the ledger
    needs most; `updated`: whether lazily allocated states are there; `versions`: bytes of older weights that live
    micro-batches need.
    """

    slot: Slot
    activations: float
    temporaries: float
    after: float
    gradients: float = 0.0
    gradients_after: float = 0.0
    reach: Reach = NOTHING
    updated: bool = True
    versions: float = 0.0

    @property
    def size(self) -> float:
        """All that changes within a step."""
        return self.activations + self.temporaries + self.gradients + self.versions

    @property
    def updates(self) -> bool:
        """Whether this is the optimizer step."""
        return self.slot.first.kind is Kind.STEP


@dataclass(frozen=True)
class Holding:
    """A pipeline rank before anything is played: what lies on it all through the step, its stages' bytes for a
    micro-batch, temporary bytes of its optimizer step. `gradients` says when they are there (presets.Habits).
    """

    rank: int
    items: tuple[Item, ...]
    stages: Mapping[int, StageActivations]
    update_bytes: float = 0.0
    gradients: str = "buffer"
    lost_bytes: float = 0.0
    """Freed blocks that nothing else fits into: reserved, not allocated."""
    host: Mapping[str, float] = field(default_factory=dict)
    """States in the node's memory, by name: none of them in `items`."""

    @property
    def persistent(self) -> dict[str, float]:
        """Bytes by category, from the second step on."""
        found = dict.fromkeys(CATEGORIES, 0.0)
        for item in self.items:
            found[item.category] += item.size
        return found

    @property
    def lazy_bytes(self) -> float:
        """Of these what is not there before the first optimizer step."""
        return sum(item.size for item in self.items if item.lazy)

    @property
    def passes_bytes(self) -> float:
        """What is not there in the optimizer step."""
        return sum(item.size for item in self.items if item.passes)


@dataclass(frozen=True)
class RankMemory:
    """What one pipeline rank holds: a moment for each compute slot and optimizer step, of each of `steps`."""

    holding: Holding
    steps: tuple[tuple[Moment, ...], ...]

    @cached_property
    def persistent(self) -> Mapping[str, float]:
        """Bytes by category all through a step, from the second on."""
        return self.holding.persistent

    @property
    def rank(self) -> int:
        """The pipeline rank."""
        return self.holding.rank

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Those of the last step, which all further ones are like."""
        return self.steps[-1]

    @property
    def peak_step(self) -> int:
        """The first step (from 1) that reaches the highest total."""
        peaks = self.peaks_of_steps
        return peaks.index(max(peaks)) + 1

    @cached_property
    def peak(self) -> Moment | None:
        """The first moment of the highest total; None for a rank without compute ops."""
        return self._peak_of(self.peak_step - 1)

    @property
    def peak_bytes(self) -> float:
        """The largest sum over all categories."""
        return max(self.peaks_of_steps)

    @property
    def reserved_bytes(self) -> float:
        """What PyTorch's allocator would have reserved at the peak, on a GPU without limit."""
        return reserved_bytes(self.peak_bytes, self.holding.lost_bytes)

    @cached_property
    def host(self) -> dict[str, float]:
        """Bytes in the node's memory by name: states, and the most of activations that wait there at once."""
        waiting = most = 0.0
        for moment in self.moments:
            for stage, kind, _ in moment.slot.ops:
                if kind in (Kind.F, Kind.B, Kind.I):
                    waiting += self.holding.stages[stage].moved * (1 if kind is Kind.F else -1)
            most = max(most, waiting)
        return {**self.holding.host, **({"activations": most} if most else {})}

    @cached_property
    def peaks_of_steps(self) -> tuple[float, ...]:
        """The same of each step alone."""
        return tuple(
            sum(self.by_category(peak).values()) if (peak := self._peak_of(step)) else sum(self.persistent.values())
            for step in range(len(self.steps))
        )

    def at_peak(self) -> dict[str, float]:
        """Bytes by category at the peak."""
        peak = self.peak
        return self.by_category(peak) if peak else dict(self.persistent)

    def by_category(self, moment: Moment, after: bool = False) -> dict[str, float]:
        """Bytes by category in a moment, or once its slot has ended."""
        held = dict(self.persistent)
        for item in self.holding.items:
            if (item.lazy and not moment.updated) or (item.passes and moment.updates):
                held[item.category] -= item.size
        held["activations"] = moment.after if after else moment.activations
        held["temporaries"] = 0.0 if after else moment.temporaries
        held["gradients"] += moment.gradients_after if after else moment.gradients
        held["parameters"] += moment.versions
        return held

    def _peak_of(self, step: int) -> Moment | None:
        lazy, passes = self.holding.lazy_bytes, self.holding.passes_bytes
        return max(
            self.steps[step],
            key=lambda moment: moment.size + lazy * moment.updated - passes * moment.updates,
            default=None,
        )


def replay(holding: Holding, order: Sequence[Slot]) -> RankMemory:
    """Play a rank's order (of a step, or of several without a flush between them), and once more where the first time
    differs from all others.
    """
    first = _play(holding, order, updated=not holding.lazy_bytes, made=holding.gradients == "buffer")
    if holding.lazy_bytes or holding.gradients == "lazy":
        return RankMemory(holding, (first, _play(holding, order, updated=True, made=holding.gradients != "step")))
    return RankMemory(holding, (first, first))


def _play(holding: Holding, order: Sequence[Slot], updated: bool, made: bool) -> tuple[Moment, ...]:
    """One pass over the order. `updated`: optimizer states are there; `made`: gradients are, before the first
    backward."""
    stages, live, moments = holding.stages, 0.0, list[Moment]()
    fresh = set() if made else set(stages)  # stages whose next weight gradient is the first
    gradients = sum(stage.gradients for stage in stages.values()) if made else 0.0
    versions = Versions(stages) if is_asynchronous(order) else None
    for slot in order:
        is_update = slot.first.kind is Kind.STEP
        if not is_update and slot.first.kind not in COMPUTE:
            continue
        old = 0.0
        if versions is not None:
            versions.begin(slot)
            old = sum(versions.old(stage) * held.weights for stage, held in stages.items())
        if is_update:
            updated, left, stage = True, gradients, slot.first.stage
            if holding.gradients == "step" and stage not in fresh:
                left -= stages[stage].gradients
                fresh.add(stage)
            reach = Reach(holding.update_bytes, "optimizer step", "temporaries", holding.update_bytes)
            moment = Moment(slot, live, holding.update_bytes, live, gradients, left, reach, updated, old)
        else:
            moment = _computing(slot, stages, live, gradients, fresh)._replace(updated=updated, versions=old)
        if versions is not None:
            versions.end(slot)
        moments.append(moment)
        live, gradients = moment.after, moment.gradients_after
    return tuple(moments)


def _computing(
    slot: Slot, stages: Mapping[int, StageActivations], live: float, gradients: float, fresh: set[int]
) -> Moment:
    """A slot of forwards and backwards. Stages whose gradients it makes are `fresh` no more."""
    top, held, after, more, highest = live, live, live, 0.0, NOTHING
    for op in slot.ops:
        stage = stages[op.stage]
        first = op.stage in fresh and op.kind in (Kind.B, Kind.W)
        reach, base, gain, change = _effect(op, stage, first)
        top, held, after = top + reach.size - base, held + gain, after + change
        highest = reach if reach.own >= highest.own else highest
        if first:
            fresh.discard(op.stage)
            more += stage.gradients
    return Moment(slot, held, max(top - held, 0.0), max(after, 0.0), gradients, gradients + more, highest)


def _effect(op: Op, stage: StageActivations, first: bool) -> tuple[Reach, float, float, float]:
    """How an op moves what is live: up to its reach less what of that was live before, by what it saves while it runs,
    and once it has ended. `first`: its weight gradients come into being.
    """
    if op.kind is Kind.F:
        return stage.forward, 0.0, stage.saved, stage.saved
    if op.kind is Kind.B:
        return stage.first_backward if first else stage.backward, stage.saved, 0.0, -stage.saved
    if op.kind is Kind.I:
        return stage.input, stage.saved, 0.0, stage.kept - stage.saved
    return stage.first_weight if first else stage.weight, stage.kept, 0.0, -stage.kept


def memory_samples(memory: RankMemory, spans: Sequence[Span]) -> Iterator[MemorySample]:
    """The rank's memory over time, in a step behind the first: a sample at the start and at the end of each slot.

    `spans` are the rank's spans of the recording, in order; both ops of a pair share one slot.
    """
    ends = {span.op: (span.start_s, span.end_s) for span in spans}
    for moment in memory.moments:
        if moment.slot.first not in ends:
            continue
        start, end = ends[moment.slot.first]
        yield MemorySample(memory.rank, start, memory.by_category(moment))
        yield MemorySample(memory.rank, end, memory.by_category(moment, after=True))
