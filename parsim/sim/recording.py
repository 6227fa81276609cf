"""The recording of a played program: a span for each op, as a timeline."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parsim.sim.copies import copy_waits
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
    """One lane as a timeline. A pair is two spans with the same times, each with the other op as `detail["pair"]`; an
    op that waits for copies to or from the host when all else is there says how long as `detail["copy_wait_s"]`.
    """
    ends, starts = played.ends[:, lane], played.starts(lane)
    idle = np.zeros_like(ends)
    for _, _, line in program.lines:
        idle[line] = starts[line] - np.concatenate(([0.0], ends[line[:-1]]))
    waits = copy_waits(played, lane)
    order = np.lexsort((ends[1:], starts[1:], program.rank))
    rows = order + 1
    columns = (
        array.tolist() for array in (order, program.rank[order], program.stream[order], starts[rows], ends[rows])
    )
    spans: list[Span] = []
    further = idle[rows].tolist(), waits[order].tolist()
    for index, rank, stream, start, end, waiting, copying in zip(*columns, *further, strict=True):
        first, second = program.slots[index]
        name = STREAM_NAMES[stream]
        if second is None:
            detail = {"copy_wait_s": copying} if copying else _NO_DETAIL
            spans.append(Span(rank, name, first, start, end, waiting, detail))
        else:
            for op, other in ((first, second), (second, first)):
                detail = {"pair": str(other), **({"copy_wait_s": copying} if copying else {})}
                spans.append(Span(rank, name, op, start, end, waiting, detail))
    return Timeline(program.plan.placement.ranks, tuple(spans), tuple(memory), "sim", run or {}, evidence or {})
