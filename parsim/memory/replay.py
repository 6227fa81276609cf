"""The replay: a rank's order against its stages' bytes. The order alone decides the peak, never the times.

F adds the stage's saved bytes, B removes them, I removes all but what W keeps, W the rest. While an op runs, its
temporaries stand on top. Every state is one moment: the live activations and the temporaries of the running slot.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from parsim.memory.stage import StageActivations
from parsim.plan.op import COMPUTE, Kind, Op, Slot
from parsim.timeline import MemorySample, Span

__all__ = ["CATEGORIES", "Moment", "RankMemory", "memory_samples", "replay"]

CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "temporaries", "communication", "reserve")


@dataclass(frozen=True)
class Moment:
    """While `slot` runs: bytes of activations held (its own results and inputs included) and of temporaries, and
    the activations that stay once it has ended."""

    slot: Slot
    activations: float
    temporaries: float
    after: float


@dataclass(frozen=True)
class RankMemory:
    """What one pipeline rank holds: `persistent` bytes by category, and a moment for each of its compute slots."""

    rank: int
    persistent: Mapping[str, float]
    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment | None:
        """The first moment of the highest total; None for a rank without compute ops."""
        return max(self.moments, key=lambda moment: moment.activations + moment.temporaries, default=None)

    @property
    def peak_bytes(self) -> float:
        """The largest sum over all categories."""
        return sum(self.at_peak().values())

    def at_peak(self) -> dict[str, float]:
        """Bytes by category at the peak."""
        peak = self.peak
        return self.by_category(peak.activations, peak.temporaries) if peak else self.by_category(0.0, 0.0)

    def by_category(self, activations: float, temporaries: float) -> dict[str, float]:
        held = {**self.persistent, "activations": activations, "temporaries": temporaries}
        return {category: held.get(category, 0.0) for category in CATEGORIES}


def replay(
    rank: int, order: Sequence[Slot], stages: Mapping[int, StageActivations], persistent: Mapping[str, float]
) -> RankMemory:
    """Play a rank's order on its ledger. `stages[s]` are the bytes of stage s."""
    live, moments = 0.0, []
    for slot in order:
        if slot.first.kind not in COMPUTE:
            continue
        top, held, after = live, live, live
        for op in slot.ops:
            rise, gain, change = _effect(op, stages[op.stage])
            top, held, after = top + rise, held + gain, after + change
        moments.append(Moment(slot, held, max(top - held, 0.0), max(after, 0.0)))
        live = after
    return RankMemory(rank, dict(persistent), tuple(moments))


def _effect(op: Op, stage: StageActivations) -> tuple[float, float, float]:
    """How an op moves what is live: up to its peak, by what it saves while it runs, and once it has ended."""
    if op.kind is Kind.F:
        return stage.forward_peak, stage.saved, stage.saved
    if op.kind is Kind.B:
        return stage.backward_peak - stage.saved, 0.0, -stage.saved
    if op.kind is Kind.I:
        return stage.input_peak - stage.saved, 0.0, stage.kept - stage.saved
    return stage.weight_peak - stage.kept, 0.0, -stage.kept


def memory_samples(memory: RankMemory, spans: Sequence[Span]) -> Iterator[MemorySample]:
    """The rank's memory over time: a sample at the start and at the end of each compute slot.

    `spans` are the rank's compute spans of the recording, in order; both ops of a pair share one slot.
    """
    ends = {span.op: (span.start_s, span.end_s) for span in spans}
    for moment in memory.moments:
        start, end = ends[moment.slot.first]
        yield MemorySample(memory.rank, start, memory.by_category(moment.activations, moment.temporaries))
        yield MemorySample(memory.rank, end, memory.by_category(moment.after, 0.0))
