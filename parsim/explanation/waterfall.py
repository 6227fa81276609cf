"""The waterfall: from ideal compute to the step, what each cause adds on every pipeline rank, in seconds.

    step = model FLOP of the rank / (GPUs of the rank * peak)        ideal compute; its share of the mean is the MFU
         - the half of the scores that a flash kernel skips          causal_skip, below zero; MFU counts the full square
         + what kernels take beyond that at peak                     matmul, attention, memory, host, recompute
         + what communication shows                                  tp, cp, ep, expert_tp, dp
         + copies to and from the host that nothing hides            offload
         + idle time, the optimizer, and the stretch of large jobs   pipeline, optimizer, straggler

Waiting for gradients before STEP is "dp", for a copy when all else is there "offload"; all other idle time of the
compute stream is "pipeline". Collectives of a recomputed layer count as communication. Noise stretches what an op
consists of alike; where what is inside ops was played on shared links, what meeting others there adds is "contention".
Where times were measured nobody knows their kernels: all that ops take beyond the ideal is "kernels". A GPU without a
peak in the run's precision has no ideal compute.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from parsim.cost import StepCost
from parsim.cost.segments import Block, Kernel
from parsim.errors import LayoutError
from parsim.metrics import busy_seconds
from parsim.model.flops import part_flops
from parsim.plan import COMPUTE, Kind, Plan
from parsim.plan.op import Slot
from parsim.spec import Run
from parsim.timeline import Span

__all__ = ["CAUSES", "EXPOSED", "Segmented", "Waterfall", "peak_of", "waterfall_of"]

CAUSES = {
    "ideal_compute": "model FLOP at the GPU's peak in the run's precision, attention over the full square",
    "causal_skip": "the half of the scores that the attention kernel skips",
    "kernels": "what measured ops take beyond that",
    "matmul": "matmuls below peak: sustained rate, unfilled tiles, bytes, casts, padded and duplicated work",
    "attention": "attention below peak",
    "memory": "norms, activations, rotary embedding, loss: limited by memory",
    "host": "the GPU waits for the host's launches and loop",
    "recompute": "the forward played once more in the backward",
    "tp": "tensor-parallel communication that nothing hides",
    "cp": "context-parallel communication that nothing hides",
    "ep": "expert-parallel communication that nothing hides",
    "expert_tp": "tensor-parallel communication of the experts that nothing hides",
    "dp": "data-parallel communication that nothing hides, and waiting for it",
    "offload": "copies to and from the host that nothing hides",
    "contention": "collectives and messages that meet on shared links",
    "pipeline": "idle: waiting for other stages",
    "optimizer": "the optimizer and the end of the step",
    "straggler": "the slowest ranks and the barrier of a large job",
}
"""What each cause stands for, in the order of the waterfall."""

EXPOSED = ("pipeline", "tp", "cp", "ep", "dp", "optimizer", "straggler")
"""Causes that every result names; those of other axes follow where there are some."""

_BESIDE = frozenset({Kind.REDUCE_GRAD, Kind.OFFLOAD, Kind.RELOAD})  # on streams of their own
_KERNELS = ("kernels", "matmul", "attention", "memory", "host", "recompute")


@runtime_checkable
class Segmented(Protocol):
    """A cost that knows what its ops consist of."""

    def segments(self, slot: Slot) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each op of a compute slot."""
        ...

    def hidden_seconds(self, slot: Slot) -> Mapping[str, float]:
        """Seconds of communication by axis that compute hides."""
        ...


@dataclass(frozen=True)
class Waterfall:
    """Seconds by cause of each pipeline rank; those of a rank add up to `step_s`."""

    step_s: float
    ranks: tuple[Mapping[str, float], ...]
    hardware_flops: float | None = None
    """FLOP that the kernels of all GPUs perform in a step; None where times were measured."""

    @property
    def mean(self) -> dict[str, float]:
        """The mean over pipeline ranks."""
        return {cause: sum(rank[cause] for rank in self.ranks) / len(self.ranks) for cause in self.ranks[0]}

    @property
    def exposed(self) -> dict[str, float]:
        """The mean of what is not compute: communication that shows, idle time, optimizer, stragglers."""
        inside = {"ideal_compute", "causal_skip", *_KERNELS}
        return {cause: seconds for cause, seconds in self.mean.items() if cause not in inside}

    def document(self) -> list[dict[str, Any]]:
        """The mean as JSON: a cause, its seconds and its share of the step, in order."""
        return self._rows(self.mean)

    def documents(self) -> list[dict[str, Any]]:
        """Each pipeline rank's as JSON."""
        return [{"pipeline_rank": rank, "causes": self._rows(causes)} for rank, causes in enumerate(self.ranks)]

    def _rows(self, causes: Mapping[str, float]) -> list[dict[str, Any]]:
        step = self.step_s
        rows = sorted(causes.items(), key=lambda item: _place(item[0]))
        return [{"cause": cause, "seconds": s, "share": s / step if step else 0.0} for cause, s in rows]


def waterfall_of(
    run: Run,
    plan: Plan,
    cost: StepCost,
    ranks: Sequence[Sequence[Span]],
    step_s: float,
    *,
    contended: bool = False,
) -> Waterfall:
    """The waterfall of a recording: `ranks` are the spans of each pipeline rank's compute stream, by start;
    `contended`: what its ops last beyond their cost is what meeting others on shared links adds.
    """
    book = _Book(run, plan, cost, contended)
    found = [book.of_rank(rank, spans, step_s) for rank, spans in enumerate(ranks)]
    causes = dict.fromkeys((*_always(cost), *(cause for rank in found for cause in rank)))
    rows = tuple({cause: rank.get(cause, 0.0) for cause in causes} for rank in found)
    return Waterfall(step_s, rows, book.hardware_flops())


def peak_of(run: Run) -> float | None:
    """FLOP/s of the run's GPU in the run's precision; None if its file has none (fp64)."""
    try:
        return run.cluster.node.gpu.peak_flops_per_s(run.layout.precision)
    except LayoutError:
        return None


def _always(cost: StepCost) -> tuple[str, ...]:
    kernels = ("causal_skip", *_KERNELS[1:]) if isinstance(cost, Segmented) else ("kernels",)
    return ("ideal_compute", *kernels, *EXPOSED)


def _place(cause: str) -> int:
    """Axes that the table does not know stand with the others."""
    names = list(CAUSES)
    return names.index(cause) if cause in CAUSES else names.index("dp")


@dataclass(frozen=True)
class _Told:
    """What an op lasts, its seconds by cause, and the FLOP of its kernels."""

    lasts_s: float
    causes: Mapping[str, float]
    flops: float


class _Book:
    """One run's ops, asked for once each."""

    def __init__(self, run: Run, plan: Plan, cost: StepCost, contended: bool) -> None:
        self._run, self._plan, self._cost, self._contended = run, plan, cost, contended
        self._segmented = cost if isinstance(cost, Segmented) else None
        self._known: dict[tuple[tuple[Kind, int], ...], _Told] = {}

    def of_rank(self, rank: int, spans: Sequence[Span], step_s: float) -> dict[str, float]:
        """Seconds by cause; `spans` are those of the rank's compute stream."""
        straggler, found = self._cost.straggler, dict[str, float]()
        lasted = {span.op: span.end_s - span.start_s for span in spans}
        details, copying = {span.op: span.detail for span in spans}, 0.0

        def add(cause: str, seconds: float) -> None:
            found[cause] = found.get(cause, 0.0) + seconds

        for slot in self._plan.orders[rank]:
            if slot.first.kind in _BESIDE:
                continue
            copying += details[slot.first].get("copy_wait_s", 0.0) / straggler
            told = self._told(slot)
            clean, factor = told.lasts_s, 1.0
            if self._contended:
                add("contention", lasted[slot.first] / straggler - clean)
            elif clean:  # noise stretches what an op consists of alike
                factor = lasted[slot.first] / (clean * straggler)
            for cause, seconds in told.causes.items():
                add(cause, seconds * factor)
        waiting = sum(span.waiting_s for span in spans if span.op.kind is Kind.STEP) / straggler
        add("dp", waiting)
        if copying:
            add("offload", copying)
        add("pipeline", (step_s - busy_seconds(spans)) / straggler - waiting - copying)
        add("straggler", step_s - step_s / straggler)
        for cause, seconds in self._ideal(rank):
            add(cause, seconds)
        return found

    def hardware_flops(self) -> float | None:
        """FLOP that all GPUs perform in a step; None where nobody knows the kernels."""
        if self._segmented is None:
            return None
        mesh = self._run.layout.mesh
        slots = (slot for order in self._plan.orders for slot in order if slot.first.kind in COMPUTE)
        return sum(self._told(slot).flops for slot in slots) * mesh.tp * mesh.cp * mesh.dp

    def _ideal(self, rank: int) -> list[tuple[str, float]]:
        """Ideal compute, and what it takes from the time of the kernels that do it."""
        run, mesh, peak = self._run, self._run.layout.mesh, peak_of(self._run)
        if peak is None:
            return []
        placement = self._plan.placement
        layers, matmul, attention = run.layers_of_parts(placement.parts), 0.0, 0.0
        forwards = [op.stage for slot in self._plan.orders[rank] for op in slot.ops if op.kind is Kind.F]
        for stage in placement.stages_of(rank):
            part = placement.part_of[stage]
            first = sum(layers[:part])
            here = range(first, first + layers[part])
            flops = part_flops(
                run.model, here, part == placement.parts - 1, run.batch.sequence_length, run.layout.micro_batch_size
            )
            each = forwards.count(stage) / (mesh.tp * mesh.cp * peak)
            matmul, attention = matmul + flops.matmul * each, attention + flops.attention * each
        if self._segmented is None:
            return [("ideal_compute", matmul + attention), ("kernels", -matmul - attention)]
        skipped = 0.0 if run.software.attention == "unfused" else attention / 2
        return [
            ("ideal_compute", matmul + attention),
            ("causal_skip", -skipped),
            ("matmul", -matmul),
            ("attention", skipped - attention),
        ]

    def _told(self, slot: Slot) -> _Told:
        key = tuple((op.kind, op.stage) for op in slot.ops)
        if key not in self._known:
            lasts, flops, causes = self._cost.seconds(slot), 0.0, dict(self._cost.exposed_seconds(slot))
            if self._segmented is not None:
                for kernel in self._kernels(slot):
                    causes[kernel.cause] = causes.get(kernel.cause, 0.0) + kernel.seconds
                    flops += kernel.flops
            elif slot.first.kind in COMPUTE:
                causes["kernels"] = lasts - sum(causes.values())
            self._known[key] = _Told(lasts, causes, flops)
        return self._known[key]

    def _kernels(self, slot: Slot) -> Iterator[Kernel]:
        if self._segmented is not None and slot.first.kind in COMPUTE:
            for blocks in self._segmented.segments(slot):
                for block in blocks:
                    yield from (segment for segment in block if isinstance(segment, Kernel))
