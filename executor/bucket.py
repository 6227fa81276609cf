"""Bucket: some weights of one owner, their flat gradient, its reduction over all copies, ZeRO-1's slices of both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from executor.device import Device
from executor.optimizer import Master

__all__ = ["BUCKET_BYTES", "Bucket", "Named", "all_gather", "cut_into_buckets"]

Named = Sequence[tuple[str, nn.Parameter]]

# PyTorch 2.13 renamed them.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

BUCKET_BYTES = 25 * 2**20
"""What PyTorch's DDP takes by default."""


@dataclass(eq=False)
class Bucket:
    """Some weights of one owner, their flat gradient, and who reduces it.

    `group` sums the gradient over all holders (None: there is one); `shards` ranks of `shard_group` share the step,
    of which this one is number `shard`.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    dtype: torch.dtype
    group: dist.ProcessGroup | None = None
    shard_group: dist.ProcessGroup | None = None
    shards: int = 1
    shard: int = 0
    flat: torch.Tensor = field(init=False)
    weights: torch.Tensor | None = field(init=False, default=None)
    views: tuple[torch.Tensor, ...] = field(init=False)
    work: dist.Work | None = field(init=False, default=None)
    began: Any = field(init=False, default=None)
    ended: Any = field(init=False, default=None)
    is_launched: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        sizes = [parameter.numel() for parameter in self.parameters]
        padded = -(-sum(sizes) // self.shards) * self.shards
        first = self.parameters[0]
        self.flat = torch.zeros(padded, dtype=self.dtype, device=first.device)
        self.views = self.views_of(self.flat)
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view if parameter.dtype == self.dtype else None
        if self.shards > 1:
            self.weights = torch.zeros(padded, dtype=first.dtype, device=first.device)
            with torch.no_grad():
                for parameter, view in zip(self.parameters, self.views_of(self.weights), strict=True):
                    view.copy_(parameter)
                    parameter.data = view

    def views_of(self, flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = [parameter.numel() for parameter in self.parameters]
        cuts = flat[: sum(sizes)].split(sizes)
        return tuple(cut.view_as(parameter) for cut, parameter in zip(cuts, self.parameters, strict=True))

    def slice_of(self, flat: torch.Tensor) -> torch.Tensor:
        """This rank's slice of a flat buffer."""
        return flat.chunk(self.shards)[self.shard]

    def masters(self) -> Iterable[Master]:
        """What this rank updates: its slice, or every weight."""
        if self.weights is not None:
            yield Master(self.slice_of(self.weights), self.slice_of(self.flat))
        else:
            for parameter, view in zip(self.parameters, self.views, strict=True):
                yield Master(parameter.data, view)

    def launch(self, device: Device) -> None:
        """Begin the reduction; nothing may be added to the gradient any more."""
        self.is_launched = True
        self.began = device.mark()
        if self.group is None:
            return
        if self.shards > 1 and self.group is self.shard_group:
            work = _reduce_scatter(self.slice_of(self.flat), self.flat, group=self.group, async_op=True)
        else:
            work = dist.all_reduce(self.flat, group=self.group, async_op=True)
        assert work is not None
        self.work, self.ended = work, device.watch(work)

    def wait(self, device: Device) -> None:
        """Until the reduction is done; here the bucket is ready for the next step's gradients."""
        if self.work is not None:
            self.work.wait()
            self.ended = self.ended()
        else:
            self.ended = self.began
        self.work = None
        self.is_launched = False

    def gather(self) -> None:
        """Collect the other ranks' slices of the stepped weights."""
        if self.weights is not None and self.shard_group is not None:
            all_gather(self.weights, self.slice_of(self.weights).clone(), group=self.shard_group)


def cut_into_buckets(named: Named, bucket_bytes: int, word_bytes: int) -> list[list[tuple[str, nn.Parameter]]]:
    """Weights in buckets of at least `bucket_bytes`, the last one first."""
    buckets: list[list[tuple[str, nn.Parameter]]] = []
    size = bucket_bytes
    for name, parameter in reversed(named):
        if size >= bucket_bytes:
            buckets.append([])
            size = 0
        buckets[-1].append((name, parameter))
        size += parameter.numel() * word_bytes
    return buckets
