"""Small decoders of every style, whole or in parts, and random numbers to put in."""

from typing import Any

import torch

from executor.initial import fill
from executor.model import PartModule
from parsim.spec import ModelSpec

__all__ = ["BATCH", "HIDDEN", "LENGTH", "STYLES", "VOCAB", "activations", "gradients", "model_of", "part", "tokens"]

BATCH, LENGTH, HIDDEN, VOCAB = 2, 7, 24, 19
_LLAMA = {"name": "small", "layers": 4, "hidden": HIDDEN, "heads": 4, "kv_heads": 2, "ffn": 32, "vocab": VOCAB}
_PLAIN = {**_LLAMA, "kv_heads": 4}
_GPT = {
    **{**_PLAIN, "gated_mlp": False, "norm": "layer", "positions": "learned", "max_positions": 16},
    **{"attention_bias": True, "output_bias": True, "mlp_bias": True},
}
STYLES: dict[str, dict[str, Any]] = {
    "grouped": _LLAMA,
    "multi-query": {**_LLAMA, "kv_heads": 1},
    "plain": _PLAIN,
    "per-head norms": {**_LLAMA, "qk_norm": "per_head"},
    "parallel residual": {**_PLAIN, "parallel_residual": True},
    "sliding window": {**_LLAMA, "sliding_window": 3, "sliding_window_every": 2},
    "attention biases": {**_LLAMA, "attention_bias": True},
    "layer norms": {**_LLAMA, "norm": "layer"},
    "gpt": _GPT,
    "gpt, tied": {**_GPT, "tied_embeddings": True},
    "llama, tied": {**_LLAMA, "tied_embeddings": True},
}


def model_of(style: str) -> ModelSpec:
    return ModelSpec.model_validate(STYLES[style])


def part(
    model: ModelSpec,
    number: int = 0,
    parts: int = 1,
    *,
    dtype: torch.dtype = torch.float64,
    first: bool | None = None,
    last: bool | None = None,
) -> PartModule:
    """Part `number` of `parts` equal ones, its weights filled; norms and biases leave where they begin, to be seen."""
    size = model.layers // parts
    module = PartModule(
        model,
        range(number * size, (number + 1) * size),
        first=number == 0 if first is None else first,
        last=number == parts - 1 if last is None else last,
        device="cpu",
        dtype=dtype,
    )
    for name, parameter in module.weights():
        fill(parameter, name, 5, model.layers)
        with torch.no_grad():
            parameter.add_(parameter - parameter.mean(), alpha=7.0)
    return module


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def activations(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    made = torch.randn(BATCH, LENGTH, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made.to(dtype)


def gradients(module: PartModule) -> dict[str, torch.Tensor]:
    """The weights' gradients now, cloned; weights without one are left out."""
    return {name: p.grad.clone() for name, p in module.weights() if p.grad is not None}
