"""The memory of all ranks against a GPU: what is allocated, reserved, used of the device; whether it fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError
from parsim.memory.peak import peak_rows, peak_text
from parsim.memory.replay import RankMemory
from parsim.memory.reserved import CONTEXT_BYTES, device_bytes, limited_bytes
from parsim.spec import Run

__all__ = ["MemorySummary", "definitions", "summary_of"]


def definitions() -> dict[str, str]:
    """What each of the three memories of a rank's peak is."""
    context = f"{CONTEXT_BYTES / 2**30:g} GiB"
    return {
        "peak_memory_bytes": "allocated: what tensors take, the ledger's sum (torch.cuda.max_memory_allocated)",
        "peak_reserved_bytes": "reserved: allocated and freed blocks that the allocator keeps "
        "(torch.cuda.max_memory_reserved); near the limit it gives them back",
        "peak_device_bytes": f"device: reserved and about {context} of context and NCCL outside the allocator "
        "(nvidia-smi)",
        "fits": f"allocated and {context} are no more than the GPU has",
        "host_memory_bytes_per_node": "what a node's ranks keep in its memory, all like the rank that keeps most",
    }


@dataclass(frozen=True)
class MemorySummary:
    """Ranks of a run on GPUs of `capacity` bytes."""

    ranks: Sequence[RankMemory]
    capacity: float
    host_capacity: float | None = None
    """Bytes of a node's memory; None: nobody said."""
    ranks_of_node: int = 1

    @property
    def host(self) -> float:
        """The most that the ranks of a node keep in its memory: those of one that keeps most."""
        return self.ranks_of_node * max(sum(rank.host.values()) for rank in self.ranks)

    @property
    def fits_on_host(self) -> bool:
        """Whether a node's memory holds that, as far as anybody knows."""
        return self.host_capacity is None or self.host <= self.host_capacity

    @property
    def worst(self) -> RankMemory:
        """The rank that allocates most; the first of those that do."""
        return max(self.ranks, key=lambda rank: rank.peak_bytes)

    @property
    def allocated(self) -> float:
        """The most that any rank allocates."""
        return self.worst.peak_bytes

    @property
    def reserved(self) -> float:
        """The most that any rank's allocator reserves."""
        return max(limited_bytes(rank.peak_bytes, rank.reserved_bytes, self.capacity) for rank in self.ranks)

    @property
    def device(self) -> float:
        """The most that any device shows as used, or would need to have."""
        return max(device_bytes(rank.peak_bytes, rank.reserved_bytes, self.capacity) for rank in self.ranks)

    @property
    def is_capped(self) -> bool:
        """Whether a rank would reserve more if it could."""
        return any(rank.reserved_bytes > self.capacity - CONTEXT_BYTES for rank in self.ranks)

    @property
    def margin(self) -> float:
        """Bytes that are left on the worst rank beside allocated memory and context; negative: missing."""
        return self.capacity - CONTEXT_BYTES - self.allocated

    @property
    def fits(self) -> bool:
        return self.margin >= 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know, a line each."""
        worst, has, host = self.worst, f"the GPU has {_gib(self.capacity)}", self._host_warnings
        if not self.fits:
            needs = f"rank {worst.rank} needs {_gib(self.allocated)} and about {_gib(CONTEXT_BYTES)} of context"
            return (f"does not fit: {needs}, {has}; peak: {peak_text(worst)}", *host)
        if self.is_capped:
            return (
                f"tight: rank {worst.rank} allocates {_gib(self.allocated)} of {_gib(self.capacity)}; "
                "runs this close to the limit are published 12-25 % slower than their neighbours",
                *host,
            )
        return host

    @property
    def _host_warnings(self) -> tuple[str, ...]:
        if not self.host or (self.host_capacity is not None and self.fits_on_host):
            return ()
        needs = f"the {self.ranks_of_node} ranks of a node keep {_gib(self.host)} in its memory"
        if self.host_capacity is None:
            return (f"{needs}; what it has is not known: cluster.node.host_memory_bytes would say",)
        return (f"does not fit on the host: {needs}, which has {_gib(self.host_capacity)}",)

    def document(self) -> dict[str, Any]:
        """The run's figures as JSON; which memory each is says `definitions`."""
        return {
            "peak_memory_bytes": self.allocated,
            "peak_reserved_bytes": self.reserved,
            "peak_device_bytes": self.device,
            "reserved_is_capped": self.is_capped,
            "gpu_memory_bytes": self.capacity,
            "fits": self.fits,
            "memory_margin_bytes": self.margin,
            "host_memory_bytes_per_node": self.host,
            "memory_definitions": definitions(),
        }

    def rank_document(self, rank: int) -> dict[str, Any]:
        """One pipeline rank's figures as JSON."""
        memory = self.ranks[rank]
        peak = memory.peak
        return {
            "peak_memory_bytes": memory.peak_bytes,
            "peak_at": str(peak.slot) if peak else None,
            "peak_in": peak.reach.op if peak else None,
            "peak_step": memory.peak_step,
            "peak_text": peak_text(memory),
            "peak_memory_by_step": list(memory.peaks_of_steps),
            "peak_reserved_bytes": limited_bytes(memory.peak_bytes, memory.reserved_bytes, self.capacity),
            "peak_device_bytes": device_bytes(memory.peak_bytes, memory.reserved_bytes, self.capacity),
            "memory_by_category": memory.at_peak(),
            **({"host_memory_bytes": sum(memory.host.values()), "host_memory": memory.host} if memory.host else {}),
        }

    def ledger_document(self, rank: int | None = None) -> dict[str, Any]:
        """Every byte of a pipeline rank (the worst) at its peak, by name. SpecError for a rank that is none."""
        if rank is not None and not 0 <= rank < len(self.ranks):
            raise SpecError(f"memory rank {rank}: the run has pipeline ranks 0 to {len(self.ranks) - 1}")
        memory = self.worst if rank is None else self.ranks[rank]
        rows = [{"category": row.category, "name": row.name, "bytes": row.size} for row in peak_rows(memory)]
        return {"pipeline_rank": memory.rank, "peak": peak_text(memory), "bytes": memory.peak_bytes, "rows": rows}


def summary_of(run: Run, ranks: Sequence[RankMemory]) -> MemorySummary:
    """The ranks of a run against its GPUs and nodes."""
    node = run.cluster.node
    return MemorySummary(ranks, float(node.gpu.memory_bytes), node.host_memory_bytes, min(node.gpus, run.ranks))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
