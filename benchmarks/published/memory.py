"""Memory: the peak that a record's framework would log, and what one layer alone takes.

A log states allocated, reserved or device memory (`memory_reports`) of the largest or of the last rank (`memory_rank`)
in GiB or in 10^9 bytes (`memory_unit`). Reserved and device memory are capped by what the GPU has.
"""

from collections.abc import Sequence

from records import Record

from parsim.errors import LayoutError
from parsim.memory import RankMemory, device_bytes, limited_bytes, scan
from parsim.memory.ledger import Block, Unit, layer_ops, tokens_of, with_gradients
from parsim.memory.states import gradient_bytes_of, held_of, quantised_copy_bytes
from parsim.model.layer import layer_kind
from parsim.model.weights import layer_weights
from parsim.spec import Run, load_gpu

__all__ = ["UNITS", "is_capped", "layer_bytes", "logged_bytes", "rank_bytes"]

UNITS = {"GiB": 2**30, "GB": 10**9}
_FULL = 0.93  # of the device's memory: nothing asked for can be told from what it has
_ATTENTION = ("norm 1", "qkv", "down", "query", "latent norms", "up", "rope", "attention", "proj", "norm 2")


def logged_bytes(run: Run, ranks: Sequence[RankMemory]) -> float:
    """The peak of the rank whose memory the run's framework logs, of the kind that it logs."""
    logged = [ranks[-1]] if run.software.memory_rank == "last" else ranks
    return max(_logged(run, rank) for rank in logged)


def rank_bytes(run: Run, ranks: Sequence[RankMemory]) -> list[float]:
    """The same of every pipeline rank."""
    return [_logged(run, rank) for rank in ranks]


def is_capped(record: Record) -> bool:
    """Whether what was measured is the size of the device rather than what the run asked for: reserved or device memory
    within 7 % of it. A card's "80 GB" are GiB, whatever unit the log names.
    """
    measured, software = (record.get("measured") or {}).get("peak_mem_gib"), record["software"]
    if measured is None or software.get("memory_reports") not in ("max_reserved", "device"):
        return False
    return float(measured) >= _FULL * load_gpu(record["gpu"]).memory_bytes / UNITS["GiB"]


def _logged(run: Run, rank: RankMemory) -> float:
    capacity, kind = run.cluster.node.gpu.memory_bytes, run.software.memory_reports
    if kind == "max_allocated":
        return rank.peak_bytes
    if kind == "max_reserved":
        return limited_bytes(rank.peak_bytes, rank.reserved_bytes, capacity)
    return min(device_bytes(rank.peak_bytes, rank.reserved_bytes, capacity), capacity)


def layer_bytes(run: Run) -> float:
    """Allocated at the peak of one MLP or MoE layer alone, without attention, norm and optimizer: its weights, its ops,
    and gradients as its backward makes them. LayoutError for a layer that is not alone.
    """
    if run.model.layers != 1 or run.layout.mesh.pp != 1:
        raise LayoutError(
            f"model.layers {run.model.layers}: a layer without its attention is counted alone; 1 would do"
        )
    weights = [w for w in layer_weights(run.model, 0) if w.name.startswith(("router", "shared_", "experts.", "mlp."))]
    gradients = gradient_bytes_of(run, weights)
    ops = layer_ops(run, tokens_of(run), layer_kind(run.model, 0))
    layer = with_gradients([op for op in ops if op.name not in _ATTENTION], gradients)
    scale = run.software.parameter_bytes / run.software.gradient_bytes
    stage = scan([Block((Unit(layer),))])
    held = scale * sum(size for _, size in gradients) + quantised_copy_bytes(run, held_of(run, weights))
    return held + max(stage.first_backward.size, stage.forward.size)
