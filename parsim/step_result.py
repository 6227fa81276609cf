"""StepResult: a predicted step, and the document that `parsim simulate --json` prints of it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parsim.memory import RankMemory
from parsim.metrics import BUBBLE_DEFINITIONS, Bubble
from parsim.plan import Plan
from parsim.spec import Run
from parsim.timeline import Timeline

__all__ = ["CONTEXT_BYTES", "RESERVED_OVER_ALLOCATED", "RankRow", "StepResult"]

SCHEMA_VERSION = "1.0"
CONTEXT_BYTES = 1.5 * 2**30
"""CUDA context and NCCL buffers outside the allocator: between 1 and 2 GiB on published runs (evidence: assumed)."""
RESERVED_OVER_ALLOCATED = 1.05
"""What the caching allocator reserves per byte allocated: 1.03 to 1.09 on Megatron-core runs (evidence: fitted)."""


@dataclass(frozen=True)
class RankRow:
    """One line of the per-rank table: a pipeline rank, or one global rank of it where replicas were unfolded."""

    pipeline_rank: int
    busy_s: float
    idle_s: float
    rank: int | None = None


@dataclass(frozen=True)
class StepResult:
    """A predicted step of `run`.

    `exposed_s` are seconds of the step by cause, averaged over pipeline ranks; with `compute_s` they sum to
    `step_time_s`. With several steps `step_times_s` holds each, and the recording is of the one in the middle.
    """

    run: Run
    plan: Plan
    timeline: Timeline
    bubble: Bubble
    memory: tuple[RankMemory, ...]
    rows: tuple[RankRow, ...]
    compute_s: float
    exposed_s: Mapping[str, float]
    model_flops: float
    step_times_s: tuple[float, ...]
    lanes: int
    evidence: Mapping[str, Any]
    groups: Mapping[str, Mapping[str, Any]]
    """By axis: where its groups stand on the cluster, and what one has when all of them run at once."""

    @property
    def step_time_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.bubble.makespan

    @property
    def tokens_per_s(self) -> float:
        return self.run.batch.global_batch_size * self.run.batch.sequence_length / self.step_time_s

    @property
    def model_tflops_per_gpu(self) -> float:
        """Model FLOP (no recomputation) per second and GPU, in 1e12."""
        return self.model_flops / self.step_time_s / self.run.ranks / 1e12

    @property
    def mfu(self) -> float | None:
        """Model FLOP/s as a share of the GPU's peak in the run's precision; None if its file has none (fp64)."""
        if self.run.layout.precision == "fp64":
            return None
        peak = self.run.cluster.node.gpu.peak_flops_per_s(self.run.layout.precision)
        return self.model_tflops_per_gpu * 1e12 / peak

    @property
    def peak_memory_bytes(self) -> float:
        """The most any rank has allocated at once."""
        return max(rank.peak_bytes for rank in self.memory)

    @property
    def gpu_memory_bytes(self) -> float:
        return float(self.run.cluster.node.gpu.memory_bytes)

    @property
    def fits(self) -> bool:
        """Whether the allocated peak and the context fit into the GPU's memory."""
        return self.peak_memory_bytes + CONTEXT_BYTES <= self.gpu_memory_bytes

    @property
    def peak_reserved_bytes(self) -> float:
        """What the caching allocator would hold at the peak; near the limit it gives cached blocks back."""
        return min(self.peak_memory_bytes * RESERVED_OVER_ALLOCATED, max(self.gpu_memory_bytes, self.peak_memory_bytes))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing the numbers, a line each."""
        found = []
        if not self.fits:
            found.append(
                f"does not fit: rank {self._worst()} needs {_gib(self.peak_memory_bytes)} and about "
                f"{_gib(CONTEXT_BYTES)} of context, the GPU has {_gib(self.gpu_memory_bytes)}"
            )
        elif self.peak_memory_bytes * RESERVED_OVER_ALLOCATED + CONTEXT_BYTES > self.gpu_memory_bytes:
            found.append(
                f"tight: rank {self._worst()} allocates {_gib(self.peak_memory_bytes)} "
                f"of {_gib(self.gpu_memory_bytes)}; "
                "runs this close to the limit are published 12-25 % slower than their neighbours"
            )
        return tuple(found)

    def _worst(self) -> int:
        return max(self.memory, key=lambda rank: rank.peak_bytes).rank

    def document(self) -> dict[str, Any]:
        """The JSON of `parsim simulate`: the same bytes for the same run and seed."""
        document: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "step_time_s": self.step_time_s,
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_gpu": self.tokens_per_s / self.run.ranks,
            "model_tflops_per_gpu": self.model_tflops_per_gpu,
            "mfu": self.mfu,
            "bubble": self.bubble.document(),
            "definitions": dict(BUBBLE_DEFINITIONS),
            "compute_s": self.compute_s,
            "exposed_s": dict(self.exposed_s),
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_reserved_bytes": self.peak_reserved_bytes,
            "peak_device_bytes": min(self.peak_reserved_bytes + CONTEXT_BYTES, self.gpu_memory_bytes)
            if self.fits
            else self.peak_memory_bytes + CONTEXT_BYTES,
            "gpu_memory_bytes": self.gpu_memory_bytes,
            "fits": self.fits,
            "per_rank": [self._row(row) for row in self.rows],
            "ranks": {"total": self.run.ranks, "lanes_played": self.lanes},
            "process_groups": {axis: dict(group) for axis, group in self.groups.items()},
            "evidence": dict(self.evidence),
            "warnings": list(self.warnings),
            "run": self.run.document(),
        }
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
        memory = self.memory[row.pipeline_rank]
        named = {} if row.rank is None else {"rank": row.rank}
        return {
            **named,
            "pipeline_rank": row.pipeline_rank,
            "busy_s": row.busy_s,
            "idle_s": row.idle_s,
            "peak_memory_bytes": memory.peak_bytes,
            "peak_at": str(memory.peak.slot) if memory.peak else None,
            "memory_by_category": memory.at_peak(),
        }


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
