"""Saved: what a stage's forward keeps of one micro-batch until its backward, counted storage by storage."""

import torch

from executor.data import micro_batch
from executor.layers import set_recompute, stage_of
from executor.memory import TensorCount
from executor.model import part_module
from executor.precision import activation_dtype
from parsim.spec import Run

__all__ = ["saved_bytes"]


def saved_bytes(run: Run, part: int = 0, parts: int = 1) -> int:
    """Bytes on the CPU: the stage's input, what its ops save for the backward, and what recomputation starts from;
    not the weights, the token ids, or the output, which the next stage counts as its input.
    """
    module = part_module(run, part, parts, "cpu")
    set_recompute(run, [module])
    stage = stage_of(run, module)
    tokens, targets = micro_batch(run, 0, 0, "cpu")
    with TensorCount([*module.parameters(), tokens, targets]) as count:
        x = tokens if part == 0 else torch.zeros(*tokens.shape, run.model.hidden, dtype=activation_dtype(run))
        stage.forward(0, x, targets)
        del x
        held = count.live_bytes
    stage.forget()
    return held
