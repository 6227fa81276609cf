"""Two recordings, or two results, side by side: how far apart, and which causes add up to the difference.

A rank's makespan is its busy time by kind plus its idle time; averaged over ranks the differences of these terms sum
to the difference of the makespans exactly. A result's step time is the sum of its waterfall, or of its compute and its
exposed times where one of the two does not tell more.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError
from parsim.files import parse_json_text
from parsim.metrics import busy_seconds
from parsim.plan import Op
from parsim.timeline import COMPUTE_STREAM, Span, Timeline, timeline_from_document

__all__ = ["Comparison", "Difference", "compare", "compare_results", "compare_timelines", "parse_recording"]

SCHEMA_VERSION = "1.0"
_LARGEST = 1e300
_MOST_OPS = 20
_NUMBERS = ("tokens_per_s", "model_tflops_per_gpu", "mfu", "peak_memory_bytes")


@dataclass(frozen=True)
class Difference:
    """One number in A, in B, and how they differ: a cause in seconds (or units) averaged over ranks, a headline
    number, or the total durations of the `count` ops of one stage and kind that both recordings hold on `rank`.
    """

    name: str
    a: float
    b: float
    rank: int | None = None
    count: int | None = None

    @property
    def delta(self) -> float:
        return self.b - self.a

    def document(self) -> dict[str, float]:
        """Both values and their difference, as JSON."""
        return {"a": self.a, "b": self.b, "delta": self.delta}


@dataclass(frozen=True)
class Comparison:
    """`total` is the makespan or step time; the causes' differences sum to its difference."""

    kind: str
    total: Difference
    causes: tuple[Difference, ...]
    ops: tuple[Difference, ...] = ()
    differences: tuple[tuple[str, Any, Any], ...] = ()
    numbers: tuple[Difference, ...] = ()
    """Results alone: other headline numbers, such as `peak_memory_bytes` and `mfu`."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        ratio = self.total.b / self.total.a if self.total.a else None
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "total": {"cause": self.total.name, **self.total.document(), "ratio": ratio},
            "causes": [{"cause": cause.name, **cause.document()} for cause in self.causes],
            "numbers": [{"number": number.name, **number.document()} for number in self.numbers],
            "ops": [{"rank": op.rank, "op": op.name, "count": op.count, **op.document()} for op in self.ops],
            "differences": [{"field": field, "a": a, "b": b} for field, a, b in self.differences],
        }


def parse_recording(text: str) -> Timeline | dict[str, Any]:
    """A timeline, or the document of a `simulate` result. Raises SpecError if the text is neither."""
    document = parse_json_text(text)
    if isinstance(document, dict) and "spans" in document:
        return timeline_from_document(document)
    if (
        isinstance(document, dict)
        and _is_number(document.get("step_time_s"))
        and _is_numbers(document.get("exposed_s"))
    ):
        return document
    raise SpecError("neither a timeline (key 'spans') nor a result (finite 'step_time_s' and 'exposed_s')")


def compare(a: Timeline | Mapping[str, Any], b: Timeline | Mapping[str, Any]) -> Comparison:
    """Compare two recordings or two results; SpecError for one of each."""
    if isinstance(a, Timeline) and isinstance(b, Timeline):
        return compare_timelines(a, b)
    if isinstance(a, Timeline) or isinstance(b, Timeline):
        raise SpecError("one is a timeline and the other a result: compare two of the same kind")
    return compare_results(a, b)


def compare_timelines(a: Timeline, b: Timeline) -> Comparison:
    """Two recordings: busy time by kind and idle time, averaged over ranks, and the ops that differ most."""
    if a.ranks != b.ranks:
        raise SpecError(f"the recordings have {a.ranks} and {b.ranks} ranks: compare two of the same plan")
    uses = [_time_by_kind(a), _time_by_kind(b)]
    kinds = [*dict.fromkeys((*uses[0], *uses[1]))]
    causes = [Difference(kind, uses[0].get(kind, 0.0), uses[1].get(kind, 0.0)) for kind in kinds]
    return Comparison(
        "timelines",
        Difference("makespan", a.makespan_s, b.makespan_s),
        _largest_first(causes),
        _differing_ops(a, b),
        _differing_fields(a.run, b.run),
    )


def compare_results(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Two results of `simulate`: their waterfalls, or compute and exposed times; and how their runs differ."""
    fine = [_waterfall(result) for result in (a, b)]
    terms = fine if all(fine) else [{"compute": _compute(result), **result["exposed_s"]} for result in (a, b)]
    names = [*dict.fromkeys((*terms[0], *terms[1]))]
    causes = [Difference(name, terms[0].get(name, 0.0), terms[1].get(name, 0.0)) for name in names]
    return Comparison(
        "results",
        Difference("step_time", a["step_time_s"], b["step_time_s"]),
        _largest_first(causes),
        differences=_differing_fields(a.get("run"), b.get("run")),
        numbers=tuple(Difference(name, a[name], b[name]) for name in _NUMBERS if _is_number(a.get(name), b.get(name))),
    )


def _largest_first(causes: list[Difference]) -> tuple[Difference, ...]:
    return tuple(sorted(causes, key=lambda cause: -abs(cause.delta)))


def _compute(result: Mapping[str, Any]) -> float:
    exposed = sum(float(time) for time in result["exposed_s"].values())
    return float(result["step_time_s"]) - exposed


def _waterfall(result: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by cause; nothing where a result has none, or one that does not add up to its step."""
    rows = result.get("waterfall")
    if not isinstance(rows, list) or not all(
        isinstance(row, Mapping) and _is_number(row.get("seconds")) for row in rows
    ):
        return {}
    found = {str(row.get("cause")): float(row["seconds"]) for row in rows}
    adds_up = math.isclose(sum(found.values()), result["step_time_s"], rel_tol=1e-6)
    return found if adds_up and len(found) == len(rows) else {}


def _time_by_kind(timeline: Timeline) -> dict[str, float]:
    """Busy time by kind and "idle", averaged over ranks; an overlapped pair is a kind of its own."""
    sums: dict[str, float] = {}
    for spans in timeline.by_rank(COMPUTE_STREAM):
        for span in spans:
            sums[_kind(span)] = sums.get(_kind(span), 0.0) + (span.end_s - span.start_s) / _sharers(span)
        sums["idle"] = sums.get("idle", 0.0) + timeline.makespan_s - busy_seconds(spans)
    return {kind: total / timeline.ranks for kind, total in sums.items()}


def _kind(span: Span) -> str:
    return "F and B overlapped" if "pair" in span.detail else str(span.op.kind)


def _sharers(span: Span) -> int:
    return 2 if "pair" in span.detail else 1


def _differing_ops(a: Timeline, b: Timeline) -> tuple[Difference, ...]:
    durations, others = _op_times(a), _op_times(b)
    groups: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for (rank, op), duration in others.items():
        if (rank, op) in durations:
            groups.setdefault((rank, f"{op.stage}{op.kind}"), []).append((durations[rank, op], duration))
    found = (
        Difference(op, sum(a for a, _ in pairs), sum(b for _, b in pairs), rank, len(pairs))
        for (rank, op), pairs in groups.items()
    )
    ranked = sorted((op for op in found if op.delta), key=lambda op: (-abs(op.delta), op.rank, op.name))
    return tuple(ranked[:_MOST_OPS])


def _op_times(timeline: Timeline) -> dict[tuple[int, Op], float]:
    """Durations by rank and op, of one that a rank plays several times their sum. Spans of a profile that are only
    numbered (`detail`) are no ops of a plan.
    """
    found: dict[tuple[int, Op], float] = {}
    for span in timeline.spans:
        if not span.detail.get("numbered"):
            key = span.rank, span.op
            found[key] = found.get(key, 0.0) + span.end_s - span.start_s
    return found


def _differing_fields(a: Any, b: Any) -> tuple[tuple[str, Any, Any], ...]:
    """Fields of two runs that differ; none where a recording does not say of which run it is. What was measured of a
    run, beside its fields, is no difference.
    """
    if not a or not b:
        return ()
    return tuple(field for field in _differences(a, b) if field[0].partition(".")[0] != "measured")


def _differences(a: Any, b: Any, path: str = "") -> Iterable[tuple[str, Any, Any]]:
    """Dotted fields in which two documents differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield path, a, b


def _is_number(*values: object) -> bool:
    """Whether all are numbers that sums and differences of a few stay finite of."""
    return all(type(value) in (int, float) and abs(value) < _LARGEST for value in values)  # type: ignore[arg-type]


def _is_numbers(value: object) -> bool:
    return isinstance(value, dict) and _is_number(*value.values())
