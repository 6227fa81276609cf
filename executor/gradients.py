"""Gradients: where they are summed, how they are reduced over copies of their weights, and the step they lead to.

The weights of a stage are cut into buckets, last layer first, for that is the order in which a backward finishes them.
A bucket's gradients are views of one flat buffer in the type of `software.gradient_dtype`. During the last op that adds
to a stage's gradients each bucket is reduced as soon as its last one is there, while the backward goes on; but parts
that several pipeline ranks hold (DualPipe) are reduced in the plan's order alone, for those ranks finish them in
different orders. Tied embeddings are a bucket of their own, reduced last over all their holders.

ZeRO-1: a bucket's weights are views of a flat buffer too; each data-parallel rank steps its own slice (of the reduced
gradient), and the slices are gathered (Rajbhandari et al., 1910.02054, P_os).
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from executor.bucket import BUCKET_BYTES, Bucket, Named, all_gather, cut_into_buckets
from executor.device import Device
from executor.groups import Groups, tied_ranks
from executor.optimizer import Optimizer
from executor.worker import Note
from parsim.plan import Kind, Op, Placement, Slot

__all__ = ["Gradients"]


class Gradients:
    """All gradients of one rank, by stage; the worker's `Weights`.

    `named[stage]` are the stage's weights by canonical name; `tied` the one that several parts share, if this rank
    holds it: the same Parameter in every stage of the rank.
    """

    def __init__(
        self,
        named: Mapping[int, Named],
        placement: Placement,
        groups: Groups,
        device: Device,
        *,
        dtype: torch.dtype,
        master_dtype: torch.dtype,
        tied: nn.Parameter | None = None,
        zero: bool = False,
        overlap: bool = True,
        learning_rate: float = 1e-3,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._placement, self._groups, self._device = placement, groups, device
        self._overlap = overlap
        self._stage: int | None = None  # whose last gradients are being made
        self._early: dict[int, set[nn.Parameter]] = {}
        self._missing: dict[Bucket, int] = {}
        self._met: set[nn.Parameter] = set()
        self.buckets: dict[int, list[Bucket]] = {}
        for stage in sorted(named, key=lambda stage: (placement.part_of[stage], stage)):
            mine = [(name, parameter) for name, parameter in named[stage] if parameter is not tied]
            holders = sorted({placement.rank_of[twin] for twin in placement.twins(stage)})
            self.buckets[stage] = [
                self._bucket(f"part {placement.part_of[stage]}", holders, bucket, dtype, zero)
                for bucket in cut_into_buckets(mine, bucket_bytes, dtype.itemsize)
            ]
        self._tied: Bucket | None = None
        self._tied_stages: set[int] = set()
        if tied is not None:
            owners = {stage: name for stage in named for name, parameter in named[stage] if parameter is tied}
            bucket = [(next(iter(owners.values())), tied)]
            self._tied = self._bucket("tied", tied_ranks(placement), bucket, dtype, zero)
            self._tied_stages = set(owners)
        self._bucket_of = {
            parameter: (bucket, view)
            for bucket in self.all_buckets()
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True)
        }
        # Copies step where the first stage that holds them steps; a tied weight with the last of its stages.
        self._optimizers = {
            stage: Optimizer([m for bucket in buckets for m in bucket.masters()], learning_rate, master_dtype)
            for stage, buckets in self.buckets.items()
        }
        self._tied_optimizer = (
            Optimizer(list(self._tied.masters()), learning_rate, master_dtype) if self._tied is not None else None
        )
        self._tied_left: set[int] = set(self._tied_stages)
        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(self.done)

    def all_buckets(self) -> Iterable[Bucket]:
        """Every bucket of the rank."""
        for buckets in self.buckets.values():
            yield from buckets
        if self._tied is not None:
            yield self._tied

    def _bucket(
        self, purpose: str, pipeline_ranks: Sequence[int], bucket: Named, dtype: torch.dtype, zero: bool
    ) -> Bucket:
        groups, me = self._groups, self._groups.rank
        holders = groups.over_dp(pipeline_ranks)
        replicas = groups.replicas()
        group = groups.make("gradients " + purpose, holders, self._device.backend)
        sharded = zero and len(replicas) > 1
        shard_group = None
        if sharded:
            same = tuple(replicas) == tuple(holders)
            shard_group = group if same else groups.make("shards " + purpose, replicas, self._device.backend)
        return Bucket(
            names=tuple(name for name, _ in bucket),
            parameters=tuple(parameter for _, parameter in bucket),
            dtype=dtype,
            group=group,
            shard_group=shard_group,
            shards=len(replicas) if sharded else 1,
            shard=replicas.index(me) if sharded else 0,
        )

    def begin(self) -> None:
        """Start a step: all gradients are zero."""
        for bucket in self.all_buckets():
            bucket.flat.zero_()
        self._tied_left = set(self._tied_stages)

    def done(self, parameter: nn.Parameter) -> None:
        """A gradient was added to: move it into its buffer, and see whether its bucket is complete."""
        bucket, view = self._bucket_of[parameter]
        if parameter.grad is not view and parameter.grad is not None:
            view.add_(parameter.grad)
            parameter.grad = view if parameter.dtype == bucket.dtype else None
        if self._stage is not None:  # also called in an I, for weights that get nothing there; it tells nothing then
            self._met.add(parameter)
            left = self._missing.get(bucket)
            if left is not None:
                self._missing[bucket] = left - 1
                if left == 1:
                    self._launch_complete()

    def expect_last(self, stage: int) -> None:
        """Of the op that follows, learn once which weights it still adds to; from then on the others are complete."""
        self._stage, self._met = stage, set()
        early = self._early.get(stage)
        if early is not None and self._overlap and self._alone(stage):
            self._missing = {
                bucket: sum(parameter not in early for parameter in bucket.parameters) for bucket in self.buckets[stage]
            }
            self._launch_complete()

    def last_done(self, stage: int) -> None:
        if self._stage == stage:
            if stage not in self._early:
                everything = {p for bucket in self.buckets[stage] for p in bucket.parameters}
                # A backward that never calls `done` says nothing about when its gradients are complete.
                self._early[stage] = everything - self._met if self._met else set()
            self._stage = None
            self._missing = {}

    def _alone(self, stage: int) -> bool:
        """Whether no other pipeline rank reduces the same part."""
        return len(self._placement.twins(stage)) == 1

    def _launch_complete(self) -> None:
        """Buckets are launched in order, so that all replicas agree on it."""
        for bucket, left in self._missing.items():
            if bucket.is_launched:
                continue
            if left > 0:
                return
            bucket.launch(self._device)

    def reduce(self, stage: int) -> None:
        """REDUCE_GRAD: launch what the backward has not launched."""
        for bucket in self.buckets[stage]:
            if not bucket.is_launched:
                bucket.launch(self._device)

    def wait(self, stage: int) -> None:
        """Before STEP: the stage's reductions are done; with the first of its stages the tied weight's is launched."""
        for bucket in self.buckets[stage]:
            bucket.wait(self._device)
        if self._tied is not None and stage in self._tied_stages and not self._tied.is_launched:
            self._tied.launch(self._device)

    def step(self, stage: int) -> None:
        """STEP: update the stage's weights; the tied weight with the last of its stages."""
        self._optimizers[stage].step()
        for bucket in self.buckets[stage]:
            bucket.gather()
        if self._tied is not None and stage in self._tied_stages:
            self._tied_left.discard(stage)
            if not self._tied_left and self._tied_optimizer is not None:
                self._tied.wait(self._device)
                self._tied_optimizer.step()
                self._tied.gather()

    def reduced(self) -> dict[str, torch.Tensor]:
        """The gradients by name as they are now (after the reduction, before the next `begin`), whole.

        With ZeRO-1 a rank has only its slice of the sum; the slices are gathered.
        """
        found: dict[str, torch.Tensor] = {}
        for bucket in self.all_buckets():
            flat = bucket.flat
            if bucket.shard_group is not None and bucket.group is bucket.shard_group:
                flat = torch.empty_like(flat)
                all_gather(flat, bucket.slice_of(bucket.flat).clone(), group=bucket.group)
            for name, view in zip(bucket.names, bucket.views_of(flat), strict=True):
                found[name] = view.detach().clone()
        return found

    def notes(self) -> list[Note]:
        """The reductions of the last step, from the first bucket's launch to the last one's end."""
        found = []
        for stage, buckets in self.buckets.items():
            if buckets:
                slot = Slot(Op(stage, Kind.REDUCE_GRAD))
                found += [Note(slot, bucket.began, bucket.began, bucket.ended) for bucket in buckets]
        return found

    def tensors(self) -> Iterable[torch.Tensor]:
        """Everything that is held from step to step."""
        for bucket in self.all_buckets():
            yield from bucket.parameters
            yield bucket.flat
        for optimizer in self._all_optimizers():
            yield from optimizer.tensors()

    def _all_optimizers(self) -> list[Optimizer]:
        return [*self._optimizers.values(), *([self._tied_optimizer] if self._tied_optimizer else [])]

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes held by category: gradients, optimizer states, and weights."""
        return {
            "gradients": sum(bucket.flat.untyped_storage().nbytes() for bucket in self.all_buckets()),
            "optimizer": sum(optimizer.state_bytes for optimizer in self._all_optimizers()),
            "parameters": sum(p.numel() * p.element_size() for p in self._bucket_of),
        }
