"""The recording: what was played when, and what each rank's memory held. Simulator and executor both write it.

JSON: `schema_version, source "sim"|"run", ranks, spans [{rank, stream, op, start_s, end_s, waiting_s, detail}],
memory [{rank, t_s, bytes by category}], run, evidence`. Within a major version names are only added.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeGuard

from parsim.errors import ScheduleError, SpecError
from parsim.plan.op import Op, parse_op

__all__ = [
    "COMPUTE_STREAM",
    "MemorySample",
    "Span",
    "Timeline",
    "span_document",
    "timeline_document",
    "timeline_from_document",
]

SCHEMA_VERSION = "1.0"
COMPUTE_STREAM = "compute"
_MOST_RANKS = 1_000_000
_MOST_BYTES = 2.0**60


class Span(NamedTuple):
    """One op with a start and an end on a stream ("compute", "p2p", "collective", "copy") of a pipeline rank.

    Two ops of an overlapped pair are two spans with the same times; `detail["pair"]` is then the other op. Where a
    profile does not tell which op of a plan it saw, the spans of a kind are numbered and `detail["numbered"]` is true.
    `waiting_s` is how long the stream stood idle for this op's inputs just before it started.
    """

    rank: int
    stream: str
    op: Op
    start_s: float
    end_s: float
    waiting_s: float = 0.0
    detail: Mapping[str, Any] = {}


class MemorySample(NamedTuple):
    """What rank `rank` holds from `t_s` on, in bytes by category."""

    rank: int
    t_s: float
    bytes: Mapping[str, float]


@dataclass(frozen=True)
class Timeline:
    """A recording of one step. `ranks` is the number of ranks recorded; spans are ordered by rank and start."""

    ranks: int
    spans: tuple[Span, ...]
    memory: tuple[MemorySample, ...] = ()
    source: Literal["sim", "run"] = "sim"
    run: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def makespan_s(self) -> float:
        """End of the last span; a recording starts at 0."""
        return max((span.end_s for span in self.spans), default=0.0)

    def stream(self, rank: int, stream: str = COMPUTE_STREAM) -> tuple[Span, ...]:
        """The spans of one stream of one rank, by start."""
        return tuple(span for span in self.spans if span.rank == rank and span.stream == stream)

    def by_rank(self, stream: str = COMPUTE_STREAM) -> list[list[Span]]:
        """The spans of one stream, a list for each rank."""
        rows: list[list[Span]] = [[] for _ in range(self.ranks)]
        for span in self.spans:
            if span.stream == stream:
                rows[span.rank].append(span)
        return rows


def timeline_document(timeline: Timeline) -> dict[str, Any]:
    """The recording as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": timeline.source,
        "ranks": timeline.ranks,
        "spans": [span_document(span) for span in timeline.spans],
        "memory": [{**sample._asdict(), "bytes": dict(sample.bytes)} for sample in timeline.memory],
        "run": dict(timeline.run),
        "evidence": dict(timeline.evidence),
    }


def span_document(span: Span) -> dict[str, Any]:
    """A span as plain JSON values."""
    return {**span._asdict(), "op": str(span.op), "detail": dict(span.detail)}


def timeline_from_document(document: object) -> Timeline:
    """The recording that a JSON document (already plain values) spells. SpecError with the first thing wrong."""
    if not isinstance(document, dict) or not isinstance(document.get("spans"), list):
        raise SpecError("not a timeline: the JSON must be an object with a list 'spans'")
    version = document.get("schema_version")
    if not isinstance(version, str) or version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise SpecError(f"schema_version {version!r}: this parsim reads {SCHEMA_VERSION.split('.')[0]}.x")
    source = document.get("source")
    if source not in ("sim", "run"):
        raise SpecError(f'source {source!r}: a timeline is from "sim" or "run"')
    ranks = document.get("ranks")
    if type(ranks) is not int or not 1 <= ranks <= _MOST_RANKS:
        raise SpecError(f"ranks {str(ranks)[:40]}: a whole number from 1 to {_MOST_RANKS}")
    return Timeline(
        ranks=ranks,
        spans=tuple(_read_span(item, index, ranks) for index, item in enumerate(document["spans"])),
        memory=tuple(_read_samples(document.get("memory", []), ranks)),
        source=source,
        run=_mapping(document.get("run"), "run"),
        evidence=_mapping(document.get("evidence"), "evidence"),
    )


def _mapping(value: object, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise SpecError(f"{what}: must be an object")
    return value or {}


def _read_span(item: object, index: int, ranks: int) -> Span:
    if not isinstance(item, dict):
        raise SpecError(f"span {index}: must be an object")
    rank, stream = item.get("rank"), item.get("stream")
    if type(rank) is not int or not 0 <= rank < ranks:
        raise SpecError(f"span {index}: rank {rank!r} is not one of the {ranks} ranks")
    if not isinstance(stream, str):
        raise SpecError(f"span {index}: stream {stream!r} is not a name")
    try:
        op = parse_op(str(item.get("op")))
    except ScheduleError as error:
        raise SpecError(f"span {index}: {error}") from None
    start, end = _time(item.get("start_s"), index), _time(item.get("end_s"), index)
    if end < start:
        raise SpecError(f"span {index}: {op} ends at {end} before it starts at {start}")
    detail = _mapping(item.get("detail"), f"span {index}: detail")
    return Span(rank, stream, op, start, end, _time(item.get("waiting_s", 0.0), index), detail)


def _read_samples(items: object, ranks: int) -> Iterator[MemorySample]:
    if not isinstance(items, list):
        raise SpecError("memory: must be a list of samples")
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("bytes"), dict):
            raise SpecError(f"memory sample {index}: must be an object with 'rank', 't_s' and 'bytes'")
        rank = item.get("rank")
        if type(rank) is not int or not 0 <= rank < ranks:
            raise SpecError(f"memory sample {index}: rank {rank!r} is not one of the {ranks} ranks")
        for category, size in item["bytes"].items():
            if not _is_finite(size) or not 0 <= size <= _MOST_BYTES:
                raise SpecError(f"memory sample {index}: {category} {str(size)[:40]!r} is not a number of bytes")
        yield MemorySample(rank, _time(item.get("t_s"), index), item["bytes"])


def _time(value: object, index: int) -> float:
    if not _is_finite(value) or value < 0:
        raise SpecError(f"entry {index}: time {str(value)[:40]!r} is not a finite number of seconds >= 0")
    return float(value)


def _is_finite(value: object) -> TypeGuard[int | float]:
    """JSON's integers may be longer than any float."""
    if isinstance(value, float):
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**1000
