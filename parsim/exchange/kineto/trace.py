"""Trace: one rank's profile, as rows of what ran: kernels or CPU operators, communication by kind, copies, annotations.

On a GPU the rows are kernels and copies by CUDA stream, NCCL's kernels by their collective. On a CPU they are the
outermost operators of each thread, but for c10d's, which only hand work to gloo; what gloo did is in its own
annotations ("gloo:all_reduce").
"""

import math
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from parsim.errors import SpecError
from parsim.exchange.kineto.events import TraceEvents

__all__ = ["Row", "Trace", "read_trace"]

_MOST_ROWS = 5_000_000
_NCCL = re.compile(r"nccl(?:Dev)?Kernel_?(AllReduce|AllGather|ReduceScatter|Broadcast|Reduce|SendRecv)", re.IGNORECASE)
_COLLECTIVES = {
    "allreduce": "all_reduce",
    "allreducecoalesced": "all_reduce",
    "allgather": "all_gather",
    "allgatherinto": "all_gather",
    "allgatherbase": "all_gather",
    "allgathercoalesced": "all_gather",
    "reducescatter": "reduce_scatter",
    "reducescatterbase": "reduce_scatter",
    "reducescattertensorcoalesced": "reduce_scatter",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "alltoall": "all_to_all",
    "alltoallv": "all_to_all",
    "alltoallbase": "all_to_all",
    "barrier": "barrier",
    "gather": "gather",
    "scatter": "scatter",
    "send": "send",
    "recv": "recv",
    "sendrecv": "send_recv",
}


class Row(NamedTuple):
    """Something that ran: `kind` is compute, a collective's name, send, recv, copy; times in microseconds of the trace.
    `lane`: the CUDA stream or the thread. `launch`: of a kernel, the number of its launch.
    """

    kind: str
    name: str
    lane: str
    start_us: float
    duration_us: float
    launch: int = -1


@dataclass
class Trace:
    """The rows of one rank. `annotations` are user annotations, on the GPU's clock where it has them;
    `backward_launches` are the launches from threads that run the backward.
    """

    path: Path
    rank: int | None
    base_ns: int
    on_gpu: bool
    rows: list[Row] = field(default_factory=list)
    annotations: list[Row] = field(default_factory=list)
    backward_launches: frozenset[int] = frozenset()


@dataclass
class _Operators:
    """CPU operators of a thread: starts, durations, and numbers of names."""

    starts: "array[float]" = field(default_factory=lambda: array("d"))
    durations: "array[float]" = field(default_factory=lambda: array("d"))
    names: "array[int]" = field(default_factory=lambda: array("i"))


def read_trace(path: Path) -> Trace:
    """The trace in a file. Raises SpecError: no trace, cut off, without anything that ran."""
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, int] = {}
        self._operators: dict[str, _Operators] = {}
        self._kernels: list[Row] = []
        self._gloo: list[Row] = []
        self._annotations: dict[str, list[Row]] = {"user_annotation": [], "gpu_user_annotation": []}
        self._launches: dict[str, array[int]] = {}
        self._threads: dict[str, str] = {}

    def read(self) -> Trace:
        events = TraceEvents(self._path)
        for event in events:
            self._take(event)
        header = events.header
        rank = (header.get("distributedInfo") or {}).get("rank")
        base = header.get("baseTimeNanoseconds")
        on_gpu = bool(self._kernels)
        gpu_annotations = self._annotations["gpu_user_annotation"]
        trace = Trace(
            self._path,
            rank if type(rank) is int and rank >= 0 else None,
            base if type(base) is int else 0,
            on_gpu,
            rows=self._kernels if on_gpu else [*self._outermost(), *self._gloo],
            annotations=gpu_annotations if on_gpu and gpu_annotations else self._annotations["user_annotation"],
            backward_launches=frozenset(n for tid in self._backward_threads() for n in self._launches.get(tid, ())),
        )
        if not trace.rows:
            raise SpecError(f"{self._path}: nothing ran in this trace: no kernel and no operator")
        return trace

    def _take(self, event: dict[str, Any]) -> None:
        phase, category = event.get("ph"), event.get("cat")
        if phase == "M" and event.get("name") == "thread_name":
            self._threads[str(event.get("tid"))] = str((event.get("args") or {}).get("name"))
        if phase != "X" or category is None:
            return
        name: Any = event.get("name")
        start: Any = event.get("ts")
        duration: Any = event.get("dur", 0)
        if not isinstance(name, str) or not _is_time(start) or not _is_time(duration) or duration < 0:
            raise SpecError(f"{self._path}: an event {str(name)[:60]!r} has no time that can be read")
        tid = str(event.get("tid"))
        if category == "cpu_op":
            self._take_operator(name, tid, start, duration)
        elif category in ("kernel", "gpu_memcpy", "gpu_memset"):
            self._take_kernel(event, name, category, start, duration)
        elif category in self._annotations:
            kind = _COLLECTIVES.get(_plain(name.removeprefix("gloo:"))) if name.startswith("gloo:") else None
            if kind is not None:
                self._gloo.append(Row(kind, name, tid, start, duration))
            else:
                self._annotations[category].append(Row("annotation", name, tid, start, duration))
        elif category in ("cuda_runtime", "cuda_driver"):
            number = (event.get("args") or {}).get("correlation")
            if type(number) is int and abs(number) < 2**62:
                self._launches.setdefault(tid, array("q")).append(number)
        if len(self._kernels) + len(self._gloo) > _MOST_ROWS:
            raise SpecError(f"{self._path}: more than {_MOST_ROWS} kernels; profile fewer steps")

    def _take_operator(self, name: str, tid: str, start: float, duration: float) -> None:
        operators = self._operators.setdefault(tid, _Operators())
        operators.starts.append(start)
        operators.durations.append(duration)
        operators.names.append(self._names.setdefault(name, len(self._names)))

    def _take_kernel(self, event: dict[str, Any], name: str, category: str, start: float, duration: float) -> None:
        arguments = event.get("args") or {}
        lane, number = str(arguments.get("stream", event.get("tid"))), arguments.get("correlation", -1)
        kind = "compute" if category == "kernel" else "copy"
        if category == "kernel" and (match := _NCCL.match(name)) is not None:
            stated = _COLLECTIVES.get(_plain(str(arguments.get("Collective name", ""))))
            kind = stated or _COLLECTIVES[_plain(match[1])]
        self._kernels.append(Row(kind, name, lane, start, duration, number if type(number) is int else -1))

    def _backward_threads(self) -> set[str]:
        """Threads of autograd, by their name or by what they run."""
        number = {
            index for name, index in self._names.items() if name.startswith("autograd::engine::evaluate_function")
        }
        named = {tid for tid, name in self._threads.items() if "pt_autograd" in name}
        return named | {
            tid
            for tid, operators in self._operators.items()
            if tid in self._launches and len(self._operators) > 1 and not number.isdisjoint(operators.names[:1000])
        }

    def _outermost(self) -> list[Row]:
        """Operators that no other one of their thread contains; c10d's hand work to gloo and are none."""
        names = list(self._names)
        rows = []
        for tid, operators in self._operators.items():
            order = sorted(range(len(operators.starts)), key=lambda i: (operators.starts[i], -operators.durations[i]))
            end = -math.inf
            for index in order:
                start, duration, name = (
                    operators.starts[index],
                    operators.durations[index],
                    names[operators.names[index]],
                )
                if start < end or name.startswith("c10d::"):
                    continue
                end = start + duration
                rows.append(Row("compute", name, tid, start, duration))
        return rows


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e18  # type: ignore[arg-type]
