"""Curves: what each rank holds over time, from the recorded samples or, without any, activations in flight."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parsim.plan.op import Kind
from parsim.timeline import MemorySample, Span, Timeline

__all__ = ["Curve", "curves_of"]


_SAME_MOMENT = 1e-9
"""Samples closer than this share of the makespan are one moment: sums of the same times in another order."""


@dataclass(frozen=True)
class Curve:
    """A step function of one rank: from `times_s[i]` on it holds `totals[i]`, made of `categories[name][i]`.

    Bytes if `measures_bytes`, else stage-activations (a micro-batch's, from the start of F to the end of B or W).
    `peak` is the index of the first highest total, `during` the op that was running then.
    """

    rank: int
    times_s: tuple[float, ...]
    totals: tuple[float, ...]
    categories: Mapping[str, tuple[float, ...]]
    measures_bytes: bool
    peak: int
    during: str


def curves_of(timeline: Timeline) -> list[Curve]:
    """A curve for each rank that holds anything."""
    rows = timeline.by_rank()
    if timeline.memory:
        samples: list[list[MemorySample]] = [[] for _ in range(timeline.ranks)]
        for sample in timeline.memory:
            samples[sample.rank].append(sample)
        steps = (_steps_of_samples(row) for row in samples)
    else:
        steps = (_steps_in_flight(row) for row in rows)
    return [
        _curve(rank, held, rows[rank], bool(timeline.memory), timeline.makespan_s)
        for rank, held in enumerate(steps)
        if held
    ]


def _steps_of_samples(samples: Iterable[MemorySample]) -> list[tuple[float, Mapping[str, float]]]:
    return [(sample.t_s, sample.bytes) for sample in sorted(samples, key=lambda sample: sample.t_s)]


def _steps_in_flight(spans: Iterable[Span]) -> list[tuple[float, Mapping[str, float]]]:
    """+1 where an F starts, -1 where its B or W ends; at the same moment what ends goes first."""
    changes: list[tuple[float, int]] = []
    for span in spans:
        if span.op.kind is Kind.F:
            changes.append((span.start_s, 1))
        elif span.op.kind in (Kind.B, Kind.W):
            changes.append((span.end_s, -1))
    held = 0
    steps: list[tuple[float, Mapping[str, float]]] = []
    for time, change in sorted(changes):
        held += change
        steps.append((time, {"activations": float(held)}))
    return steps


def _curve(
    rank: int, steps: list[tuple[float, Mapping[str, float]]], spans: list[Span], measures_bytes: bool, end_s: float
) -> Curve:
    moment = end_s * _SAME_MOMENT
    kept: list[tuple[float, Mapping[str, float]]] = []
    for time, held in steps:
        if kept and time - kept[-1][0] <= moment:
            kept[-1] = (kept[-1][0], held)
        elif not kept or kept[-1][1] != held:
            kept.append((time, held))
    if kept[-1][0] < end_s:
        kept.append((end_s, kept[-1][1]))
    totals = tuple(sum(held.values()) for _, held in kept)
    peak = totals.index(max(totals))
    names = dict.fromkeys(name for _, held in kept for name in held)
    return Curve(
        rank,
        tuple(time for time, _ in kept),
        totals,
        {name: tuple(held.get(name, 0.0) for _, held in kept) for name in names},
        measures_bytes,
        peak,
        _running(spans, kept[peak][0]),
    )


def _running(spans: list[Span], time_s: float) -> str:
    """The ops that run from `time_s` on, as they print; empty when the rank is idle."""
    moment = (spans[-1].end_s if spans else 0.0) * _SAME_MOMENT
    last = bisect_right(spans, time_s + moment, key=lambda span: span.start_s)
    return " and ".join(str(span.op) for span in spans[max(last - 2, 0) : last] if span.end_s > time_s + moment)
