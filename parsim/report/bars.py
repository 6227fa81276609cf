"""Bars: the spans of a recording, grouped by how they are drawn: kind, shade of the local stage, lane of the row.

A row is one pipeline rank, one unit high. Compute ops fill it; of an overlapped pair the forward takes the upper
half and the backward the lower. Other streams, where recorded, are thin strips along the foot of the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parsim.plan.op import Kind
from parsim.timeline import COMPUTE_STREAM, Span, Timeline

__all__ = ["Bars", "Lane", "bars_of", "local_levels"]

_TOP, _BOTTOM, _FOOT = -0.43, 0.43, 0.22


@dataclass(frozen=True, order=True)
class Lane:
    """A strip of a row: `top` and `height` in rows, from the middle of the row, downwards."""

    top: float
    height: float


@dataclass(frozen=True)
class Bars:
    """Spans that share a look. `level` is the local stage, `paired` tells overlapped pairs from single ops."""

    kind: Kind
    level: int
    levels: int
    paired: bool
    lane: Lane
    spans: Sequence[Span]


def local_levels(timeline: Timeline) -> dict[int, int]:
    """Stage -> its place among the stages of its rank, in ascending order."""
    held: dict[int, set[int]] = {}
    for span in timeline.spans:
        if span.stream == COMPUTE_STREAM:
            held.setdefault(span.rank, set()).add(span.op.stage)
    return {stage: level for stages in held.values() for level, stage in enumerate(sorted(stages))}


def bars_of(timeline: Timeline) -> list[Bars]:
    """The groups, in the order of the kinds. Spans that take no time have no bar."""
    levels = local_levels(timeline)
    count = max(levels.values(), default=0) + 1
    others = sorted({span.stream for span in timeline.spans} - {COMPUTE_STREAM})
    lanes = _lanes(others)
    groups: dict[tuple[Kind, int, bool, Lane], list[Span]] = {}
    for span in timeline.spans:
        if span.end_s > span.start_s:
            half = ("upper" if span.op.kind is Kind.F else "lower") if "pair" in span.detail else "whole"
            lane = lanes[half if span.stream == COMPUTE_STREAM else span.stream]
            key = (span.op.kind, levels.get(span.op.stage, 0), half != "whole", lane)
            groups.setdefault(key, []).append(span)
    order = {kind: place for place, kind in enumerate(Kind)}
    return [
        Bars(kind, level, count, paired, lane, spans)
        for (kind, level, paired, lane), spans in sorted(groups.items(), key=lambda item: (order[item[0][0]], *item[0]))
    ]


def _lanes(others: Sequence[str]) -> dict[str, Lane]:
    bottom = _BOTTOM - _FOOT if others else _BOTTOM
    half = (bottom - _TOP) / 2
    lanes = {"whole": Lane(_TOP, 2 * half), "upper": Lane(_TOP, half), "lower": Lane(_TOP + half, half)}
    strip = _FOOT / len(others) if others else 0.0
    return lanes | {stream: Lane(bottom + place * strip, strip * 0.85) for place, stream in enumerate(others)}
