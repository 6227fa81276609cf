"""What a recording says about bubbles, with every denominator spelled out.

Idle of a rank is its window minus its busy time; ops that overlap are busy once. Three ratios, because papers
mean different things by "bubble":

- `of_makespan` = sum over ranks of the idle time in [0, makespan] / (ranks * makespan)
- `of_span`     = largest over ranks of (span - busy) / span, the span ending with the rank's last op and beginning
                  with its latest possible first op (the zero-bubble papers' rate; no global barrier at the step end)
- `over_ideal`  = makespan / (work of the busiest rank) - 1
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from parsim.plan.op import Kind
from parsim.plan.plan import Plan
from parsim.timeline import Span, Timeline

__all__ = ["BUBBLE_DEFINITIONS", "Bubble", "RankUse", "activation_peaks", "bubble", "busy_seconds"]

BUBBLE_DEFINITIONS = {
    "of_makespan": "sum over ranks of idle time in [0, makespan] / (ranks * makespan)",
    "of_span": "largest over ranks of (span - busy) / span, with the latest possible first start",
    "over_ideal": "makespan / (work of the busiest rank) - 1",
}


@dataclass(frozen=True)
class RankUse:
    """How a pipeline rank's compute stream was used, in the recording's unit of time (s, or units).

    `span` runs from the latest possible first start to the end of the last op; `idle` = makespan - busy.
    """

    rank: int
    busy: float
    span: float
    idle: float


@dataclass(frozen=True)
class Bubble:
    """The three ratios, and what they were made of."""

    makespan: float
    ideal: float
    ranks: tuple[RankUse, ...]

    @property
    def of_makespan(self) -> float:
        total = len(self.ranks) * self.makespan
        return sum(rank.idle for rank in self.ranks) / total if total else 0.0

    @property
    def of_span(self) -> float:
        return max((1.0 - rank.busy / rank.span for rank in self.ranks if rank.span), default=0.0)

    @property
    def over_ideal(self) -> float:
        return self.makespan / self.ideal - 1.0 if self.ideal else 0.0

    def document(self) -> dict[str, Any]:
        """The ratios as JSON."""
        return {"of_makespan": self.of_makespan, "of_span": self.of_span, "over_ideal": self.over_ideal}


def bubble(timeline: Timeline, first_starts: Sequence[float] | None = None, step_s: float | None = None) -> Bubble:
    """The bubbles of a recording. `first_starts[rank]` are the latest possible first starts (the simulator knows
    them); without them, as for a measured run, a span begins where the rank began. `step_s`: what a step lasts where
    that is not the makespan, because the next one begins before all ranks have ended.
    """
    makespan = timeline.makespan_s if step_s is None else step_s
    uses = []
    for rank, spans in enumerate(timeline.by_rank()):
        busy = busy_seconds(spans)
        end = max((span.end_s for span in spans), default=0.0)
        start = min((span.start_s for span in spans), default=0.0) if first_starts is None else first_starts[rank]
        # The two are sums of the same durations in another order; a rank without a gap has no negative bubble.
        uses.append(RankUse(rank, busy, max(end - start, busy), max(makespan - busy, 0.0)))
    return Bubble(makespan, max((use.busy for use in uses), default=0.0), tuple(uses))


def busy_seconds(spans: Iterable[Span]) -> float:
    """Time covered by at least one span; spans come in order of their start."""
    busy, covered = 0.0, 0.0
    for span in spans:
        if span.end_s > covered:
            busy += span.end_s - max(span.start_s, covered)
            covered = span.end_s
    return busy


def activation_peaks(plan: Plan) -> tuple[int, ...]:
    """The most stage-activations each rank holds at once: from a micro-batch's F to the end of its B (or W).

    A rank's order alone decides it, whatever the times.
    """
    peaks = []
    for order in plan.orders:
        held = peak = 0
        for slot in order:
            held += sum(op.kind is Kind.F for op in slot.ops)
            peak = max(peak, held)
            held -= sum(op.kind in (Kind.B, Kind.W) for op in slot.ops)
        peaks.append(peak)
    return tuple(peaks)
