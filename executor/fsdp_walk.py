"""FSDP walk: steps of a run under PyTorch's FSDP2, real on gloo ranks or fake on a single one, their memory counted.

The fake one needs neither ranks nor memory: tensors have shapes alone, collectives do nothing. So the step of an 8B
model on 64 ranks is walked on a laptop, op by op as PyTorch dispatches them, with the CPU's kernels.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from executor.data import micro_batch
from executor.layers import set_recompute
from executor.memory import TensorCount
from executor.model import PartModule, cross_entropy, part_module
from executor.precision import gradient_dtype
from parsim.errors import LayoutError
from parsim.spec import Run

__all__ = ["Walked", "fake_walk", "real_walks", "walk"]

_STEPS = 2  # the optimizer makes its states in the first


@dataclass(frozen=True)
class Walked:
    """Bytes on one rank: held between steps (the optimizer's states included), and the peak of the second step."""

    held_bytes: int
    peak_bytes: int


def fake_walk(run: Run) -> Walked:
    """Walk the run's first rank without the others. No process group may exist yet."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=run.layout.mesh.size)
    try:
        return walk(run, FakeTensorMode(allow_non_fake_inputs=True))
    finally:
        dist.destroy_process_group()


def real_walks(context: Any, runs: Sequence[Run]) -> list[Walked]:
    """Walk the runs, one after the other, on a rank that `launch` has started."""
    torch.set_num_threads(1)
    return [walk(run, nullcontext()) for run in runs]


def walk(run: Run, mode: Any) -> Walked:
    """Steps of one micro-batch each on the default process group, on the CPU, under `mode`. LayoutError for a run that
    FSDP alone cannot play.
    """
    if run.layout.mesh.size != run.layout.mesh.dp or not run.layout.fsdp:
        raise LayoutError(f"layout.mesh {run.layout.mesh}: the walk shards over dp alone; fsdp on dp ranks would do")
    module = _sharded(run)
    with mode:
        tokens, targets = micro_batch(run, 0, 0, "cpu")
        count = TensorCount([tokens, targets])
    with mode, count:
        module.to_empty(device="cpu")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        held = 0
        for _ in range(_STEPS):
            held = count.live_bytes
            count.reset_peak()
            cross_entropy(module(tokens), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
    return Walked(held, count.peak_bytes)


def _sharded(run: Run) -> PartModule:
    """The run's model on the meta device, a unit for each layer and one for all else."""
    module = part_module(run, 0, 1, "meta")
    set_recompute(run, [module])
    computed = torch.bfloat16 if run.layout.precision == "bf16" else None
    options = {
        "mesh": init_device_mesh("cpu", (run.layout.mesh.dp,)),
        "mp_policy": MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=gradient_dtype(run)),
    }
    for layer in module.layers:
        fully_shard(layer, reshard_after_forward=run.layout.reshard_after_forward, **options)
    root = None if run.software.fsdp_root == "stays" else run.layout.reshard_after_forward
    fully_shard(module, reshard_after_forward=root, **options)
    return module
