"""Initial weights: they depend on the seed and a weight's name alone, so every layout starts from the same model."""

import hashlib

import torch
from torch import nn

__all__ = ["fill"]

DEVIATION = 0.02
"""GPT-2's."""


def fill(parameter: nn.Parameter, name: str, seed: int, layers: int) -> None:
    """Fill a weight in place: norms around 1, what is added to the residual stream scaled by 1 / sqrt(2 layers)."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]))
    kind = name.rsplit(".", 1)[-1] if name.startswith("layer") else name
    made = torch.randn(parameter.shape, generator=generator) * DEVIATION
    if kind in ("proj", "down"):
        made /= (2 * layers) ** 0.5
    if kind.endswith("norm"):
        made += 1.0
    with torch.no_grad():
        parameter.copy_(made)
