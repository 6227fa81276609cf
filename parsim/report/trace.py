"""The trace: Chrome's trace-event JSON, which Perfetto and chrome://tracing open.

One process for each pipeline rank, one thread for each stream. Spans of a stream that overlap in time, as the two ops
of a pair do, stand on threads of their own, so that no event lies inside another. Times are in microseconds.
"""

from collections.abc import Iterator
from typing import Any

from parsim.timeline import COMPUTE_STREAM, Span, Timeline

__all__ = ["trace"]


def trace(timeline: Timeline) -> dict[str, Any]:
    """The recording as a trace-event document of plain JSON values; unit costs count as seconds.

    `distributedInfo` is what PyTorch's profiler writes and its readers ask for.
    """
    streams = sorted({span.stream for span in timeline.spans}, key=lambda name: (name != COMPUTE_STREAM, name))
    names: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for rank in range(timeline.ranks):
        names.append(_name("process_name", rank, 0, f"rank {rank}"))
        names.append(
            {"ph": "M", "name": "process_sort_index", "pid": rank, "tid": 0, "args": {"sort_index": rank}},
        )
        thread = 0
        for stream in streams:
            for lane, spans in enumerate(_lanes(timeline.stream(rank, stream))):
                names.append(_name("thread_name", rank, thread, f"{stream} {lane + 1}" if lane else stream))
                events += (_event(span, thread) for span in spans)
                thread += 1
    events += _counters(timeline)
    events.sort(key=lambda event: event["ts"])
    return {
        "schemaVersion": 1,
        "displayTimeUnit": "ms",
        "distributedInfo": {"rank": 0, "world_size": timeline.ranks},
        "traceEvents": names + events,
    }


def _name(what: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": rank, "tid": thread, "args": {"name": name}}


def _lanes(spans: tuple[Span, ...]) -> list[list[Span]]:
    """The spans on as few lanes as keep those of one lane apart in time."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.start_s, span.op.kind.value != "F")):
        free = next((lane for lane in lanes if lane[-1].end_s <= span.start_s), None)
        if free is None:
            lanes.append([span])
        else:
            free.append(span)
    return lanes


def _event(span: Span, thread: int) -> dict[str, Any]:
    start, end = _us(span.start_s), _us(span.end_s)
    return {
        "ph": "X",
        "name": str(span.op),
        "cat": span.op.kind.value,
        "pid": span.rank,
        "tid": thread,
        "ts": start,
        "dur": round(end - start, 3),
        "args": {
            "stage": span.op.stage,
            "microbatch": span.op.mb,
            "waiting_us": _us(span.waiting_s),
            **span.detail,
        },
    }


def _counters(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for sample in timeline.memory:
        yield {
            "ph": "C",
            "name": "memory (bytes)",
            "pid": sample.rank,
            "ts": _us(sample.t_s),
            "args": {name: round(size) for name, size in sample.bytes.items()},
        }


def _us(time_s: float) -> float:
    """Microseconds, to the nanosecond."""
    return round(time_s * 1e6, 3)
