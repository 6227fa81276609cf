"""Traces of a run's ranks as one Timeline, so that `compare` lays the run beside its prediction.

A recording has spans of ops. Where the profile says which op ran (annotations such as "PP:2F0", which PyTorch's
pipeline runtime writes), the compute stream holds these ops, and what ran inside them stands on the stream "kernels".
Elsewhere what ran is numbered: forward work is F, work of autograd is B, work inside `Optimizer.step` is STEP, and
`detail` has the name. Communication is on "p2p" (SEND, RECV) and "collective" (reductions are REDUCE_GRAD, others
UNSHARD; `detail` has which one it is), memory copies are on "copy". The duration of every span is the profiler's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parsim.errors import ScheduleError, SpecError
from parsim.exchange.kineto.trace import Row, Trace
from parsim.exchange.table import Note
from parsim.plan import Kind, Op, parse_slot
from parsim.plan.op import COMPUTE
from parsim.timeline import COMPUTE_STREAM, Span, Timeline

__all__ = ["timeline_of_traces"]

_REDUCING = ("all_reduce", "reduce_scatter", "reduce")
_P2P = {"send": Kind.SEND_F, "recv": Kind.RECV_F, "send_recv": Kind.SEND_F}
_BACKWARD = ("autograd::engine::evaluate_function", "Backward")
_PIPELINE = "PP:"


def timeline_of_traces(traces: Sequence[Trace], step: str | None = None) -> tuple[Timeline, list[Note]]:
    """The recording of traces, one a rank, in the order of their ranks; `step` keeps what begins inside an annotation
    of that name. Raises SpecError: two traces of one rank, no such annotation.
    """
    notes: list[Note] = []
    ordered = _by_rank(traces, notes)
    rows = [_within(trace, step, notes if index == 0 else []) for index, trace in enumerate(ordered)]
    base = min(trace.base_ns for trace in ordered)
    shift = [(trace.base_ns - base) / 1e3 for trace in ordered]
    origin = min(row.start_us + shift[index] for index, (found, _) in enumerate(rows) for row in found)
    spans: list[Span] = []
    for index, (trace, (found, annotations)) in enumerate(zip(ordered, rows, strict=True)):
        spans += _Rank(index, trace, origin - shift[index]).spans(found, annotations)
    spans.sort(key=lambda span: (span.rank, span.start_s))
    evidence = {"times": "calibrated", "source": "torch.profiler"}
    return Timeline(len(ordered), tuple(spans), source="run", evidence=evidence), notes


def _by_rank(traces: Sequence[Trace], notes: list[Note]) -> list[Trace]:
    known = [trace.rank for trace in traces if trace.rank is not None]
    if twice := [rank for rank, count in Counter(known).items() if count > 1]:
        raise SpecError(f"two traces are of rank {twice[0]}: one file for each rank")
    if len(known) < len(traces):
        if len(traces) > 1:
            notes.append(Note("ranks", "not every trace says of which rank it is: they are taken in the order given"))
        return list(traces)
    ordered = sorted(traces, key=lambda trace: trace.rank or 0)
    if len(ordered) > 1 and [trace.rank for trace in ordered] != list(range(len(ordered))):
        notes.append(Note("ranks", f"ranks {sorted(known)} are 0 to {len(known) - 1} of the recording"))
    return ordered


def _within(trace: Trace, step: str | None, notes: list[Note]) -> tuple[list[Row], list[Row]]:
    """Rows and annotations of one step, or all."""
    steps = [row for row in trace.annotations if row.name.startswith("ProfilerStep#")]
    if step is None:
        if len(steps) > 1:
            names = f"{steps[0].name} to {steps[-1].name}"
            notes.append(Note("steps", f"the trace holds {len(steps)} steps, {names}: --step takes one of them"))
        return trace.rows, trace.annotations
    window = next((row for row in trace.annotations if row.name == step), None)
    if window is None:
        known = ", ".join(dict.fromkeys(row.name for row in steps)) or "none of ProfilerStep#"
        raise SpecError(f"{trace.path}: no annotation {step[:60]!r}; there are {known}")
    start, end = window.start_us, window.start_us + window.duration_us
    rows = [row for row in trace.rows if start <= row.start_us < end]
    if not rows:
        raise SpecError(f"{trace.path}: nothing begins inside {step[:60]!r}")
    return rows, [row for row in trace.annotations if start <= row.start_us < end]


class _Rank:
    """The spans of one rank; ops that no annotation names are numbered by kind."""

    def __init__(self, index: int, trace: Trace, origin_us: float) -> None:
        self._index, self._trace, self._origin = index, trace, origin_us
        self._numbers: Counter[Kind] = Counter()
        self._details: dict[tuple[str, ...], dict[str, Any]] = {}

    def spans(self, rows: Sequence[Row], annotations: Sequence[Row]) -> Iterator[Span]:
        named = [row for row in annotations if row.name.startswith(_PIPELINE)]
        ops = [span for row in named for span in self._annotated(row)]
        yield from ops
        lanes = Counter[str]()
        for row in rows:
            if row.kind == "compute":
                lanes[row.lane] += int(row.duration_us * 1e3) + 1
        main = lanes.most_common(1)[0][0] if lanes else ""
        updates = [
            (row.start_us, row.start_us + row.duration_us) for row in annotations if "Optimizer.step" in row.name
        ]
        compute = "kernels" if ops else COMPUTE_STREAM
        for row in sorted(rows, key=lambda row: row.start_us):
            if row.kind == "compute":
                stream = compute if row.lane == main else f"{compute} {row.lane}"
                yield self._span(row, stream, self._computing(row, updates))
            elif row.kind == "copy":
                yield self._span(row, "copy", self._number(Kind.OFFLOAD if "DtoH" in row.name else Kind.RELOAD))
            elif row.kind in _P2P:
                yield self._span(row, "p2p", self._number(_P2P[row.kind]))
            else:
                kind = Kind.REDUCE_GRAD if row.kind in _REDUCING else Kind.UNSHARD
                yield self._span(row, "collective", Op(self._index, kind))

    def _annotated(self, row: Row) -> Iterator[Span]:
        try:
            slot = parse_slot(row.name.removeprefix(_PIPELINE))
        except ScheduleError:
            return
        for op in slot.ops:
            other = next((one for one in slot.ops if one is not op), None)
            detail = {"name": row.name} if other is None else {"name": row.name, "pair": str(other)}
            if op.kind in COMPUTE:  # messages and collectives have rows of their own
                yield self._made(row, COMPUTE_STREAM, op, detail)

    def _computing(self, row: Row, updates: Sequence[tuple[float, float]]) -> Op:
        if any(start <= row.start_us < end for start, end in updates):
            return Op(self._index, Kind.STEP)
        backward = row.launch in self._trace.backward_launches if self._trace.on_gpu else _is_backward(row.name)
        return self._number(Kind.B if backward else Kind.F)

    def _number(self, kind: Kind) -> Op:
        self._numbers[kind] += 1
        return Op(self._index, kind, self._numbers[kind] - 1)

    def _span(self, row: Row, stream: str, op: Op) -> Span:
        key = (row.kind, row.name, row.lane)
        if key not in self._details:  # one object for all spans of a name: traces have few names and many spans
            detail = {"name": row.name} if row.kind == "compute" else {"name": row.name, "kind": row.kind}
            self._details[key] = {**detail, "lane": row.lane, "numbered": True}
        return self._made(row, stream, op, self._details[key])

    def _made(self, row: Row, stream: str, op: Op, detail: Mapping[str, Any]) -> Span:
        start = max(0.0, (row.start_us - self._origin) * 1e-6)
        return Span(self._index, stream, op, start, start + row.duration_us * 1e-6, 0.0, detail)


def _is_backward(name: str) -> bool:
    return any(word in name for word in _BACKWARD)
