"""Reference: the same training in a single process, one micro-batch after the other. What ranks are compared with."""

from dataclasses import dataclass

import torch

from executor.data import micro_batch
from executor.layers import stage_of
from executor.model import part_module
from executor.optimizer import Master, Optimizer
from executor.precision import gradient_dtype, master_dtype
from parsim.spec import Run

__all__ = ["Reference", "reference"]


@dataclass(frozen=True)
class Reference:
    """Mean loss of each step, and the first one's gradients by canonical name (a tied weight once, summed), in fp32 at
    least.
    """

    losses: tuple[float, ...]
    gradients: dict[str, torch.Tensor]


def reference(run: Run, steps: int, learning_rate: float = 1e-3) -> Reference:
    """Train for `steps` steps on the CPU."""
    cpu = torch.device("cpu")
    module = part_module(run, 0, 1, cpu)
    count = run.batch.global_batch_size // run.layout.micro_batch_size
    stage = stage_of(run, module)
    named = dict(module.weights())
    sums = {name: torch.zeros(p.shape, dtype=gradient_dtype(run)) for name, p in named.items()}
    optimizer = Optimizer([Master(p.data, sums[name]) for name, p in named.items()], learning_rate, master_dtype(run))
    losses, gradients = [], dict[str, torch.Tensor]()
    for step in range(steps):
        total = 0.0
        for gradient in sums.values():
            gradient.zero_()
        for index in range(count):
            tokens, targets = micro_batch(run, step, index, cpu)
            total += float(stage.forward(0, tokens, targets))
            stage.backward(0, None)
            for name, parameter in named.items():
                if parameter.grad is not None:
                    sums[name].add_(parameter.grad)
                    parameter.grad = None
        losses.append(total / count)
        if step == 0:
            wide = torch.promote_types(gradient_dtype(run), torch.float32)
            gradients = {name: gradient.to(wide, copy=True) for name, gradient in sums.items()}
        optimizer.step()
    return Reference(tuple(losses), gradients)
