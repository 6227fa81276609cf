"""Split backward: linears and embeddings that can put their weight gradient off, from I to W.

Autograd knows one backward. Here an input gradient is made in it, and the work for the weight gradient is stored: what
came in, what came back, and the Parameter itself (a weight taken out of `saved_tensors` is an alias under checkpoint,
and a gradient given to it is lost). So I and W cost what B costs: nothing is computed twice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = [
    "Done",
    "Work",
    "add_to_gradient",
    "cast",
    "compute_dtype",
    "embedding",
    "linear",
    "run_works",
    "store_works",
]

Done = Callable[[nn.Parameter], None]
Work = Callable[[Done | None], None]
"""Adds one module's weight gradients, and calls `done` for each Parameter it has added to."""

_works: list[Work] | None = None
"""Where work goes while an input gradient is made. Not a thread's own: autograd runs GPUs' backwards in its threads."""


@contextmanager
def store_works(works: list[Work]) -> Iterator[None]:
    """Every backward inside stores its weight-gradient work in `works` instead of doing it."""
    global _works
    before, _works = _works, works
    try:
        yield
    finally:
        _works = before


def run_works(works: list[Work], done: Done | None = None) -> None:
    """Do the stored work, the first stored first; each is forgotten once it is done."""
    works.reverse()
    with torch.no_grad():
        while works:
            works.pop()(done)


def add_to_gradient(parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    """Add to `parameter.grad` in place, or make it."""
    if parameter.grad is None:
        parameter.grad = gradient.to(parameter.dtype)
    else:
        parameter.grad.add_(gradient)


def linear(x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None = None) -> torch.Tensor:
    """x [..., in] times weight [out, in], plus bias [out]; in autocast's type where autocast is on."""
    made: torch.Tensor = _Linear.apply(cast(x), weight, bias)
    return made


def embedding(tokens: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
    """Rows of weight [vocab, hidden] by tokens [...]."""
    made: torch.Tensor = _Embedding.apply(tokens, weight)
    return made


def cast(x: torch.Tensor) -> torch.Tensor:
    """x in the type that linears compute in."""
    return x.to(compute_dtype(x))


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """Autocast's type where that is on; that of x where it is off, and for fp64."""
    kind = x.device.type
    is_narrowed = torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype is not torch.float64
    return torch.get_autocast_dtype(kind) if is_narrowed else x.dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias = weight, bias
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        (x,) = ctx.saved_tensors
        weight, bias = ctx.weight, ctx.bias
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        made = grad.matmul(weight.to(grad.dtype)) if needs_x else None
        if _works is not None:
            if needs_weight or needs_bias:
                _works.append(_linear_work(x, grad, weight if needs_weight else None, bias if needs_bias else None))
            return made, None, None
        rows, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        of_weight = rows.t().mm(inputs).to(weight.dtype) if needs_weight else None
        of_bias = rows.sum(0).to(bias.dtype) if needs_bias else None
        return made, of_weight, of_bias


def _linear_work(x: torch.Tensor, grad: torch.Tensor, weight: nn.Parameter | None, bias: nn.Parameter | None) -> Work:
    x = x.detach()  # what is unpacked from saved tensors holds the whole graph before it

    def work(done: Done | None) -> None:
        rows, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        if weight is not None:
            held = weight.grad
            if held is not None and held.dtype == rows.dtype:
                held.addmm_(rows.t(), inputs)
            else:
                add_to_gradient(weight, rows.t().mm(inputs))
            if done is not None:
                done(weight)
        if bias is not None:
            add_to_gradient(bias, rows.sum(0))
            if done is not None:
                done(bias)

    return work


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
        ctx.save_for_backward(tokens)
        ctx.weight = weight
        return functional.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor | None]:
        (tokens,) = ctx.saved_tensors
        weight = ctx.weight
        if not ctx.needs_input_grad[1]:
            return None, None
        if _works is not None:

            def work(done: Done | None) -> None:
                held = weight.grad
                if held is not None and held.dtype == grad.dtype:  # touches only the rows that occur
                    held.index_add_(0, tokens.reshape(-1), grad.reshape(-1, grad.shape[-1]))
                else:
                    add_to_gradient(weight, _rows_added(tokens, grad, weight))
                if done is not None:
                    done(weight)

            _works.append(work)
            return None, None
        return None, _rows_added(tokens, grad, weight)


def _rows_added(tokens: torch.Tensor, grad: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
    """The gradient of the table: each token's row gets its gradient added."""
    made = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device)
    return made.index_add_(0, tokens.reshape(-1), grad.reshape(-1, grad.shape[-1]).to(weight.dtype))
