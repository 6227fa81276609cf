"""StepResult: a predicted step, and the document that `parsim simulate --json` prints of it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from parsim.explanation.slowest import SlowestStage
from parsim.explanation.waterfall import EXPOSED, Waterfall, peak_of
from parsim.memory import MemorySummary, RankMemory, summary_of
from parsim.metrics import BUBBLE_DEFINITIONS, Bubble
from parsim.model.routing import routing_document
from parsim.model.weights import active_parameters, parameters
from parsim.plan import Plan
from parsim.spec import Run
from parsim.timeline import Timeline

__all__ = ["RankRow", "StepResult"]

SCHEMA_VERSION = "1.0"
HIDDEN_DEFINITION = (
    "communication that ran beside compute, in its seconds at full speed, averaged over pipeline ranks; pp: messages"
)
COPIES_DEFINITION = (
    "seconds that activations are under way to and from the host, averaged over pipeline ranks: what of it neither "
    "shows (exposed_s.offload) nor hides beside compute (hidden_s.offload) is beside idle time"
)


@dataclass(frozen=True)
class RankRow:
    """One line of the per-rank table: a pipeline rank, or one global rank of it where replicas were unfolded."""

    pipeline_rank: int
    busy_s: float
    idle_s: float
    rank: int | None = None


@dataclass(frozen=True)
class StepResult:
    """A predicted step of `run`. With several steps `step_times_s` holds each, and the recording is of the one in the
    middle.
    """

    run: Run
    plan: Plan
    timeline: Timeline
    bubble: Bubble
    memory: tuple[RankMemory, ...]
    rows: tuple[RankRow, ...]
    waterfall: Waterfall
    hidden: tuple[Mapping[str, float], ...]
    """Seconds of communication by axis that ran beside compute, of each pipeline rank."""
    slowest_stage: SlowestStage
    model_flops: float
    step_times_s: tuple[float, ...]
    lanes: int
    evidence: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    """By axis: where its groups stand on the cluster, and what one has when all of them run at once."""
    notes: tuple[str, ...] = ()
    """What its costs have to say; they stand among the warnings."""

    @property
    def step_time_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.bubble.makespan

    @property
    def exposed_s(self) -> dict[str, float]:
        """Seconds of the step by cause, averaged over pipeline ranks; with `compute_s` they sum to `step_time_s`."""
        exposed = self.waterfall.exposed
        return {cause: exposed[cause] for cause in (*EXPOSED, *(name for name in exposed if name not in EXPOSED))}

    @property
    def hidden_s(self) -> dict[str, float]:
        """Seconds of communication by axis that ran beside compute, averaged over pipeline ranks."""
        axes = dict.fromkeys(axis for rank in self.hidden for axis in rank)
        return {axis: sum(rank.get(axis, 0.0) for rank in self.hidden) / len(self.hidden) for axis in axes}

    @property
    def compute_s(self) -> float:
        """Seconds of the kernels, averaged over pipeline ranks."""
        return self.step_time_s - sum(self.exposed_s.values())

    @property
    def copies_s(self) -> float:
        """Seconds that copies of activations are under way, averaged over pipeline ranks."""
        copies = (span.end_s - span.start_s for span in self.timeline.spans if span.stream == "copy")
        return sum(copies) / len(self.hidden)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one step trains on."""
        return self.run.batch.global_batch_size * self.run.batch.sequence_length

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.step_time_s

    @property
    def model_tflops_per_gpu(self) -> float:
        """Model FLOP (no recomputation) per second and GPU, in 1e12."""
        return self.model_flops / self.step_time_s / self.run.ranks / 1e12

    @property
    def mfu(self) -> float | None:
        """Model FLOP/s as a share of the GPU's peak in the run's precision; None if its file has none (fp64)."""
        return self._of_peak(self.model_flops)

    @property
    def hfu(self) -> float | None:
        """FLOP/s that the kernels perform as a share of the peak; None without a peak, or where times were measured."""
        hardware = self.waterfall.hardware_flops
        return None if hardware is None else self._of_peak(hardware)

    def _of_peak(self, flops: float) -> float | None:
        peak = peak_of(self.run)
        return None if peak is None else flops / self.step_time_s / self.run.ranks / peak

    @property
    def flops(self) -> dict[str, Any]:
        """FLOP of a step: the model's, what the GPUs perform, 6 N D; and what each of them counts."""
        attention = "over the full square in both directions"
        if self.run.software.attention != "unfused":
            attention = "over the causal half, which is all that this kernel computes, and 2.5 forwards in its backward"
        return {
            "model": self.model_flops,
            "hardware": self.waterfall.hardware_flops,
            "six_n_d": 6.0 * active_parameters(self.run.model) * self.tokens_per_step,
            "peak_per_gpu_per_s": peak_of(self.run),
            "convention": {
                "model": "a multiply-add is 2 FLOP, backward is twice forward; matmuls that a token meets and "
                "attention over the full square, no embedding look-up, no recomputation",
                "hardware": "what the kernels perform: recomputation, padded vocabulary and duplicated heads too; "
                f"attention {attention}",
                "six_n_d": "N: parameters that a token meets, embedding and head in full; D: tokens; no attention",
            },
        }

    @cached_property
    def memory_summary(self) -> MemorySummary:
        """The memory of all ranks against what a GPU has."""
        return summary_of(self.run, self.memory)

    @property
    def peak_memory_bytes(self) -> float:
        """The most any rank has allocated at once."""
        return self.memory_summary.allocated

    @property
    def peak_reserved_bytes(self) -> float:
        """The most that any rank's allocator reserves."""
        return self.memory_summary.reserved

    @property
    def gpu_memory_bytes(self) -> float:
        return self.memory_summary.capacity

    @property
    def fits(self) -> bool:
        """Whether the allocated peak and the context fit into the GPU's memory."""
        return self.memory_summary.fits

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing the numbers, a line each."""
        return (*self.notes, *self.memory_summary.warnings)

    def document(self, memory_rank: int | None = None) -> dict[str, Any]:
        """The JSON of `parsim simulate`: the same bytes for the same run and seed. The memory of `memory_rank` is told
        by name (the worst rank's unless given).
        """
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "step_time_s": self.step_time_s,
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_gpu": self.tokens_per_s / self.run.ranks,
            "model_tflops_per_gpu": self.model_tflops_per_gpu,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "flops": self.flops,
            "parameters": {"total": parameters(self.run.model), "active": active_parameters(self.run.model)},
            "bubble": self.bubble.document(),
            "definitions": {**BUBBLE_DEFINITIONS, "hidden_s": HIDDEN_DEFINITION},
            "compute_s": self.compute_s,
            "exposed_s": self.exposed_s,
            "hidden_s": self.hidden_s,
            "waterfall": self.waterfall.document(),
            "waterfall_per_rank": self.waterfall.documents(),
            "slowest_stage": self.slowest_stage.document(),
            **self.memory_summary.document(),
            "memory_ledger": self.memory_summary.ledger_document(memory_rank),
            "per_rank": [self._row(row) for row in self.rows],
            "ranks": {"total": self.run.ranks, "lanes_played": self.lanes},
            "process_groups": {axis: dict(group) for axis, group in self.groups.items()},
            "evidence": dict(self.evidence),
            "warnings": list(self.warnings),
            "run": self.run.document(),
        }
        if (routing := routing_document(self.run)) is not None:
            document["routing"] = routing
        if self.run.layout.offload is not None:
            document["copies_s"] = self.copies_s
            document["definitions"]["copies_s"] = COPIES_DEFINITION
        if len(self.step_times_s) > 1:
            ordered = sorted(self.step_times_s)
            document["steps"] = {
                "count": len(ordered),
                "step_time_s": list(self.step_times_s),
                "mean_s": statistics.fmean(ordered),
                "p50_s": _percentile(ordered, 0.50),
                "p95_s": _percentile(ordered, 0.95),
            }
        return document

    def _row(self, row: RankRow) -> dict[str, Any]:
        named = {} if row.rank is None else {"rank": row.rank}
        held = self.memory_summary.rank_document(row.pipeline_rank)
        return {**named, "pipeline_rank": row.pipeline_rank, "busy_s": row.busy_s, "idle_s": row.idle_s, **held}


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]
