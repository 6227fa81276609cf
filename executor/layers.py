"""Real layers: the stages of a rank, their gradients, and the micro-batches that they are fed."""

from collections.abc import Mapping, Sequence

import torch

from executor.data import micro_batch
from executor.device import Device
from executor.gradients import Gradients
from executor.groups import Groups
from executor.job import Job
from executor.model import PartModule, cross_entropy, part_module
from executor.precision import autocast_dtype, gradient_dtype, master_dtype
from executor.roles import Player
from executor.stage import Stage
from parsim.axes.mesh import coordinates
from parsim.plan import Placement
from parsim.spec import Run

__all__ = ["Feed", "build_stages", "set_recompute", "stage_of"]


class Feed:
    """Micro-batches of one step, made before it."""

    def __init__(self, job: Job, rank: int, stages: tuple[int, ...], step: int, device: torch.device) -> None:
        placement, per_chain = job.plan.placement, job.plan.microbatches_per_chain
        dp = coordinates(job.run.layout.mesh, rank).dp
        self._chain_of = placement.chain_of
        chains = {
            placement.chain_of[stage]
            for stage in stages
            if placement.before[stage] is None or placement.after[stage] is None
        }
        self._made = {
            (chain, mb): micro_batch(job.run, step, dp * job.plan.microbatches + chain * per_chain + mb, device)
            for chain in chains
            for mb in range(per_chain)
        }

    def tokens(self, stage: int, mb: int) -> torch.Tensor:
        return self._made[self._chain_of[stage], mb][0]

    def targets(self, stage: int, mb: int) -> torch.Tensor:
        return self._made[self._chain_of[stage], mb][1]


def stage_of(run: Run, module: PartModule) -> Stage:
    """A part of the model as the run's micro-batches see it."""
    return Stage(
        module,
        loss=cross_entropy if module.ends_last is not None else None,
        scale=1.0 / (run.batch.global_batch_size // run.layout.micro_batch_size),
        first=module.ends_first is not None,
        autocast=autocast_dtype(run),
    )


def set_recompute(run: Run, modules: Sequence[PartModule]) -> None:
    """Have the parts of a pipeline rank compute again in the backward what the run says."""
    recompute = run.layout.recompute
    counts = recompute.layers_of([len(module.layers) for module in modules])
    for module, count in zip(modules, counts, strict=True):
        module.recompute(recompute.mode, count)


def build_stages(
    run: Run, placement: Placement, stages: tuple[int, ...], groups: Groups, device: Device
) -> tuple[Mapping[int, Player], Gradients]:
    """The stages of a pipeline rank with real layers, and what happens to their gradients."""
    modules = {
        stage: part_module(run, placement.part_of[stage], placement.parts, device.torch_device) for stage in stages
    }
    set_recompute(run, list(modules.values()))
    tied = None
    if run.model.tied_embeddings:
        holders = [m for s, m in modules.items() if placement.part_of[s] in (0, placement.parts - 1)]
        for module in holders[1:]:
            module.share_embedding(holders[0])
        tied = holders[0].embedding if holders else None
    mesh = run.layout.mesh
    weights = Gradients(
        {stage: list(module.weights()) for stage, module in modules.items()},
        placement,
        groups,
        device,
        dtype=gradient_dtype(run),
        master_dtype=master_dtype(run),
        tied=tied,
        zero=run.layout.zero >= 1 and mesh.dp > 1,
        overlap=run.software.dp_overlap,
    )
    return {stage: stage_of(run, module) for stage, module in modules.items()}, weights
