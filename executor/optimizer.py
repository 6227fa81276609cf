"""Optimizer: AdamW over master weights, the same in the single process, in every replica, and on ZeRO-1's shards.

AdamW works element by element, so that a shard of a flat buffer takes the same step as its weights would.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

__all__ = ["Master", "Optimizer"]


class Master(NamedTuple):
    """One tensor to update and its gradient, of one shape; each in a type of its own."""

    weight: torch.Tensor
    gradient: torch.Tensor


class Optimizer:
    """AdamW (Loshchilov & Hutter, 1711.05101) in `dtype`: it keeps a master copy of weights of a narrower type."""

    def __init__(self, masters: Sequence[Master], learning_rate: float, dtype: torch.dtype) -> None:
        self._rows: list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]] = []
        for weight, gradient in masters:
            narrow = weight.dtype.itemsize < dtype.itemsize
            master = weight.detach().to(dtype, copy=True) if narrow else weight.detach()
            self._rows.append((nn.Parameter(master), weight, gradient))
        parameters = [master for master, _, _ in self._rows]
        self._adamw = (
            torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1, foreach=False)
            if parameters
            else None
        )

    def step(self) -> None:
        """Update every weight from the gradient that stands in its buffer now."""
        if self._adamw is None:
            return
        for master, _, gradient in self._rows:
            master.grad = gradient.to(master.dtype)
        self._adamw.step()
        with torch.no_grad():
            for master, weight, _ in self._rows:
                master.grad = None
                if master.dtype != weight.dtype:
                    weight.copy_(master)

    def tensors(self) -> list[torch.Tensor]:
        """Moments and master copies: what it holds from step to step beyond the weights."""
        if self._adamw is None:
            return []
        states = [
            value for state in self._adamw.state.values() for value in state.values() if isinstance(value, torch.Tensor)
        ]
        return states + [master for master, weight, _ in self._rows if master.dtype != weight.dtype]

    @property
    def state_bytes(self) -> int:
        """Bytes of moments and master copies."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors())
