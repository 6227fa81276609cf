"""Measured costs: seconds of every kind of op on every stage, as a machine played them.

Read from a cost file (`python -m executor calibrate`), or from the recording of a run, whose medians they then are:

    {"schema_version": "1.0", "kind": "cost", "evidence": "calibrated", "device": "cpu", "run": {...},
     "ops": {"F": [0.011, ...], "I": [...], "W": [...], "B": [...], "FB": [...], "REDUCE_GRAD": [...], "STEP": [...]},
     "p2p": {"latency_s": 2e-5, "bytes_per_s": 4e9, "message_bytes": 131072},
     "collectives": [{"kind": "all_reduce", "ranks": 4, "bytes": 65536, "seconds": 1e-4, ...}]}

`ops` lists seconds by stage; a list as long as the model has parts goes by part, null is what was not measured. FB is
an overlapped pair, by the stage of its forward. B is I + W and FB is F + B unless measured; I and W are never made from
B. What a file does not say of REDUCE_GRAD and STEP takes no time, and its evidence says so.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from parsim.cost.cost_file import check_head, check_same_run, non_negative, number_list
from parsim.errors import SpecError
from parsim.plan.op import BACKWARD, COMPUTE, Kind, Op, Slot
from parsim.plan.placement import Placement
from parsim.spec import Run
from parsim.timeline import Span, Timeline, timeline_from_document

__all__ = ["KINDS", "MeasuredCost", "cost_from_document", "durations_of", "medians_of"]

Seconds = tuple[float | None, ...]
KINDS: tuple[str, ...] = (
    *(kind.value for kind in (Kind.F, Kind.I, Kind.W, Kind.B)),
    "FB",
    Kind.REDUCE_GRAD.value,
    Kind.STEP.value,
)
"""Names of a cost file's rows, in their order."""
_END = frozenset({Kind.REDUCE_GRAD, Kind.STEP})
_MESSAGES = frozenset({Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B})


@dataclass(frozen=True)
class MeasuredCost:
    """Seconds by kind (F, I, W, B, FB, REDUCE_GRAD, STEP) and stage of `placement`, and of a message between ranks."""

    placement: Placement
    ops: Mapping[str, Seconds]
    hop_s: float
    grade: str = "calibrated"
    has_hops: bool = True
    """False where nothing told how long a message takes: hops then cost nothing, which is an assumption."""
    straggler: float = field(default=1.0, init=False)

    def seconds(self, slot: Slot) -> float:
        """Duration of a slot. SpecError for an op that was not measured and cannot be put together of others."""
        first, second = slot
        if first.kind not in COMPUTE and first.kind not in _END:
            return 0.0
        if second is None:
            return self._op(first)
        both = self._known("FB", first.stage) if second.kind is Kind.B else None
        return self._op(first) + self._op(second) if both is None else both

    def hop_seconds(self, source: int, target: int) -> float:
        """Delay of a message between two stages; 0 on the same rank."""
        rank_of = self.placement.rank_of
        return 0.0 if rank_of[source] == rank_of[target] else self.hop_s

    def exposed_seconds(self, slot: Slot) -> Mapping[str, float]:
        """Reductions are "dp", steps "optimizer"; what communication an op holds inside was not measured apart."""
        if slot.first.kind is Kind.REDUCE_GRAD:
            return {"dp": self.seconds(slot)}
        return {"optimizer": self.seconds(slot)} if slot.first.kind is Kind.STEP else {}

    @property
    def evidence(self) -> dict[str, str]:
        """The grade of every kind that was measured; what was not measured, and taken to be nothing, is assumed."""
        found = {f"cost.{name}": self.grade for name in self.ops}
        found |= {f"cost.{kind}": "assumed" for kind in sorted(_END) if kind.value not in self.ops}
        return found | {"cost.p2p": self.grade if self.has_hops else "assumed"}

    def _op(self, op: Op) -> float:
        value = self._known(op.kind.value, op.stage)
        if value is None and op.kind is Kind.B:
            halves = [self._known(half, op.stage) for half in ("I", "W")]
            value = sum(half for half in halves if half is not None) if None not in halves else None
        if value is None and op.kind in _END:
            return 0.0
        if value is None:
            known = ", ".join(name for name in self.ops if self._known(name, op.stage) is not None) or "nothing"
            also = "; a full backward does not tell its halves" if op.kind in (Kind.I, Kind.W) else ""
            raise SpecError(
                f"cost: {op.kind} of stage {op.stage} was not measured ({known} was){also}; "
                "measure with a schedule that plays it"
            )
        return value

    def _known(self, name: str, stage: int) -> float | None:
        row = self.ops.get(name)
        if row is None:
            return None
        return row[stage if len(row) == self.placement.stages else self.placement.part_of[stage]]


def cost_from_document(document: object, placement: Placement, run: Run | None = None) -> MeasuredCost:
    """The costs that a cost file or a recording of a run (plain JSON values) tells about the stages of `placement`.

    Raises SpecError with the first thing wrong: not such a file, another number of stages, a time that is none. With
    `run` also if it was measured with a run whose ops are others.
    """
    if not isinstance(document, dict):
        raise SpecError("not a cost file: the JSON must be an object")
    if "spans" in document:
        timeline = timeline_from_document(document)
        if timeline.source != "run":
            raise SpecError(f'a recording of source "{timeline.source}" is a prediction; costs are measured by a run')
        check_same_run(timeline.run, run)
        return _of_timeline(timeline, placement)
    if document.get("kind") != "cost":
        raise SpecError('not a cost file: "kind" must be "cost" (or a recording with "spans")')
    check_head(document)
    check_same_run(document.get("run") or {}, run)
    ops = document.get("ops")
    if not isinstance(ops, dict) or not ops:
        raise SpecError('not a cost file: "ops" must be an object of lists by stage')
    for name in ops:
        if name not in KINDS:
            raise SpecError(f"cost: ops.{str(name)[:40]} is not one of {', '.join(KINDS)}")
    rows = {name: number_list(f"ops.{name}", row) for name, row in ops.items()}
    _check_lengths(rows, placement)
    hop = _hop(document.get("p2p"))
    return MeasuredCost(placement, rows, hop or 0.0, document.get("evidence", "calibrated"), hop is not None)


def durations_of(timeline: Timeline) -> dict[Op, float]:
    """Seconds of every compute op, REDUCE_GRAD and STEP of a recording, without waiting; of a pair the pair's.

    A reduction may begin while the backward is still at work: it takes what is left of it after that.
    """
    last: defaultdict[tuple[int, int], float] = defaultdict(float)
    for span in timeline.spans:
        if span.op.kind in BACKWARD:
            key = span.rank, span.op.stage
            last[key] = max(last[key], span.end_s)
    return {
        span.op: span.end_s - (max(span.start_s, min(last[span.rank, span.op.stage], span.end_s)))
        if span.op.kind is Kind.REDUCE_GRAD
        else span.end_s - span.start_s
        for span in timeline.spans
        if span.op.kind in COMPUTE or span.op.kind in _END
    }


def medians_of(timelines: Sequence[Timeline], stages: int) -> dict[str, Seconds]:
    """Median seconds by kind and stage over recordings of the same plan; pairs are FB, by the stage of the forward."""
    found: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for timeline in timelines:
        durations = durations_of(timeline)
        for span in timeline.spans:
            name = _name(span)
            if name is not None:
                found[name][span.op.stage].append(durations[span.op])
    return {
        name: tuple(median(found[name][stage]) if stage in found[name] else None for stage in range(stages))
        for name in KINDS
        if name in found
    }


def _name(span: Span) -> str | None:
    """Under which name a span's time is kept; None for messages and for the second half of a pair."""
    kind = span.op.kind
    if kind in _END or (kind in COMPUTE and "pair" not in span.detail):
        return kind.value
    # A pair of F and I has no name of its own: nobody knows what its halves took.
    return "FB" if kind is Kind.F and Kind.B.value in str(span.detail.get("pair")) else None


def _of_timeline(timeline: Timeline, placement: Placement) -> MeasuredCost:
    stages = 1 + max((span.op.stage for span in timeline.spans if span.op.kind in COMPUTE), default=-1)
    if not stages:
        raise SpecError("the recording has no compute op; costs are measured by a run that plays some")
    if timeline.ranks > 1 and timeline.ranks > stages:
        raise SpecError(f"the recording has {timeline.ranks} ranks for {stages} stages; each rank holds a stage")
    rows = medians_of((timeline,), stages)
    _check_lengths(rows, placement)
    moved = [span.end_s - span.start_s for span in timeline.spans if span.op.kind in _MESSAGES]
    measured = timeline.run.get("measured")
    emulated = (
        isinstance(measured, dict) and measured.get("emulated") is True
    )  # its ops slept as long as they were told
    return MeasuredCost(
        placement, rows, median(moved) if moved else 0.0, "assumed" if emulated else "calibrated", bool(moved)
    )


def _check_lengths(rows: Mapping[str, Sequence[Any]], placement: Placement) -> None:
    for name, row in rows.items():
        if len(row) not in (placement.stages, placement.parts):
            parts = "" if placement.parts == placement.stages else f" of {placement.parts} parts"
            raise SpecError(
                f"cost: {name} was measured on {len(row)} stages, the plan has {placement.stages} stages{parts}"
            )


def _hop(p2p: object) -> float | None:
    """Seconds of a message: latency + bytes / bandwidth; None where the file does not say."""
    if p2p is None:
        return None
    if not isinstance(p2p, dict):
        raise SpecError("cost: p2p must be an object with latency_s, bytes_per_s and message_bytes")
    latency = non_negative("p2p.latency_s", p2p.get("latency_s"))
    if p2p.get("message_bytes") is None and p2p.get("bytes_per_s") is None:
        return latency
    size, rate = (non_negative(f"p2p.{name}", p2p.get(name)) for name in ("message_bytes", "bytes_per_s"))
    if not rate:
        raise SpecError("cost: p2p.bytes_per_s 0: must be more than 0")
    return latency + size / rate
