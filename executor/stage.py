"""Stage: a part's module on a rank, and the graphs of the micro-batches that are under way in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from executor.split_backward import Done, Work, run_works, store_works

__all__ = ["Loss", "Split", "Stage"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Split = Literal["stored", "torch"]


class Stage:
    """Forward and backward of one stage, by micro-batch.

    The backward begins at loss * scale. `split` says how a backward is cut in two: "stored" for modules made of
    `split_backward`'s linears, "torch" for any module, by PyTorch's `stage_backward_input` and `stage_backward_weight`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        loss: Loss | None = None,
        scale: float = 1.0,
        first: bool = False,
        split: Split = "stored",
        autocast: torch.dtype | None = None,
    ) -> None:
        self.module = module
        self._loss, self._scale, self._first, self._split, self._autocast = loss, scale, first, split, autocast
        self._graphs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._works: dict[int, Any] = {}

    def forward(self, mb: int, x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Activations [b, s, h] of a micro-batch, or its loss; detached, the graph is kept until the backward."""
        x = x.detach()
        if x.is_floating_point() and not self._first:
            x.requires_grad_()
        with torch.enable_grad(), self._cast(x.device):
            made = self.module(x)
            if self._loss is not None:
                assert target is not None
                made = self._loss(made, target)
        is_kept = self._loss is not None or self._split == "torch" or not made.requires_grad
        self._graphs[mb] = (x, made if is_kept else _Root.apply(made))
        return made.detach()

    def backward(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None:
        """B: all gradients; returns that of the input, contiguous, None on the first stage."""
        x, made = self._graphs.pop(mb)
        if made.requires_grad:
            made.backward(self._start(made, grad))
        return _input_gradient(x)

    def backward_input(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None:
        """I: the input's gradient; what the weights' gradients need is kept for W.

        Norms' gradients are made here too, "stored". Autograd calls the hooks of the other weights as well, although
        nothing was added to them yet.
        """
        x, made = self._graphs.pop(mb)
        start = self._start(made, grad)
        if not made.requires_grad:  # every weight is frozen, and nothing is asked for
            self._works[mb] = []
            return None
        if self._split == "stored":
            works: list[Work] = []
            with store_works(works):
                made.backward(start)
            self._works[mb] = works
            return _input_gradient(x)
        if not x.requires_grad:  # nothing to hand on: W does the whole backward
            self._works[mb] = (made, start)
            return None
        from torch.distributed.pipelining._backward import stage_backward_input

        _, groups = stage_backward_input([made], [start], [x], self.module.parameters())
        self._works[mb] = groups
        return _input_gradient(x)

    def backward_weight(self, mb: int, done: Done | None = None) -> None:
        """W: the weights' gradients, added to `.grad`; `done` is called for each weight that was added to."""
        kept = self._works.pop(mb)
        if self._split == "stored":
            run_works(kept, done)
            return
        if isinstance(kept, tuple):
            made, start = kept
            made.backward(start)
            return  # the weights' own hooks have told
        from torch.distributed.pipelining._backward import stage_backward_weight

        stage_backward_weight(self.module.parameters(), kept)
        if done is not None:
            for parameter in self.module.parameters():
                if parameter.requires_grad:
                    done(parameter)

    def forget(self) -> None:
        """Drop every graph: a run that ends early."""
        self._graphs.clear()
        self._works.clear()

    def _start(self, made: torch.Tensor, grad: torch.Tensor | None) -> torch.Tensor:
        return torch.full_like(made, self._scale) if grad is None else grad

    def _cast(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext() if self._autocast is None else torch.autocast(device.type, self._autocast)


def _input_gradient(x: torch.Tensor) -> torch.Tensor | None:
    return None if x.grad is None else x.grad.contiguous()


class _Root(torch.autograd.Function):
    """Where a backward begins: of the output's shape, but without its memory, which nobody needs once it is sent."""

    @staticmethod
    def forward(ctx: Any, made: torch.Tensor) -> torch.Tensor:
        return made.new_empty(()).expand(made.shape)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad
