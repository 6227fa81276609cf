"""The recording of a played program: a span for each op, as a timeline."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parsim.sim.played import Played
from parsim.sim.program import STREAM_NAMES, Program
from parsim.timeline import MemorySample, Span, Timeline

__all__ = ["recording"]

_NO_DETAIL: Mapping[str, Any] = {}


def recording(
    program: Program,
    played: Played,
    lane: int = 0,
    run: Mapping[str, Any] | None = None,
    evidence: Mapping[str, Any] | None = None,
    memory: Iterable[MemorySample] = (),
) -> Timeline:
    """One lane as a timeline. A pair is two spans with the same times, each with the other op as `detail["pair"]`."""
    ends, starts = played.ends[:, lane], played.starts(lane)
    idle = np.zeros_like(ends)
    for _, _, line in program.lines:
        idle[line] = starts[line] - np.concatenate(([0.0], ends[line[:-1]]))
    order = np.lexsort((ends[1:], starts[1:], program.rank))
    rows = order + 1
    columns = (
        array.tolist() for array in (order, program.rank[order], program.stream[order], starts[rows], ends[rows])
    )
    spans: list[Span] = []
    for index, rank, stream, start, end, waiting in zip(*columns, idle[rows].tolist(), strict=True):
        first, second = program.slots[index]
        name = STREAM_NAMES[stream]
        if second is None:
            spans.append(Span(rank, name, first, start, end, waiting, _NO_DETAIL))
        else:
            spans.append(Span(rank, name, first, start, end, waiting, {"pair": str(second)}))
            spans.append(Span(rank, name, second, start, end, waiting, {"pair": str(first)}))
    return Timeline(program.plan.placement.ranks, tuple(spans), tuple(memory), "sim", run or {}, evidence or {})
