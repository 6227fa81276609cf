"""Attention's core, fused or with its scores made whole, and dropout: how a layer's run wants them computed."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from parsim.spec import Run

__all__ = ["PLAIN", "Kernels", "attend", "dropped", "kernels_of"]


@dataclass(frozen=True)
class Kernels:
    """How a layer computes: whether attention's scores are made whole (unfused), and the shares dropped by chance."""

    unfused_attention: bool = False
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0

    @property
    def is_random(self) -> bool:
        """Whether a second forward needs the first one's random numbers."""
        return self.attention_dropout > 0 or self.hidden_dropout > 0


PLAIN = Kernels()
"""PyTorch's fused attention, and no dropout."""


def kernels_of(run: Run) -> Kernels:
    """What a run's software says. Scores that are dropped from are made whole, as PyTorch itself does on CPUs."""
    software = run.software
    return Kernels(
        unfused_attention=software.attention == "unfused" or software.attention_dropout > 0,
        attention_dropout=software.attention_dropout,
        hidden_dropout=software.hidden_dropout,
    )


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, kernels: Kernels = PLAIN
) -> torch.Tensor:
    """Causal attention of [b, heads, s, head_dim], over the last `window` positions; each of a group's queries sees
    the same key and value.
    """
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if window is not None and window >= length:
        window = None
    if kernels.unfused_attention:
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        unseen = ~_seen(length, window or length, query.device)
        scores = scores + torch.zeros_like(unseen, dtype=scores.dtype).masked_fill_(unseen, -torch.inf)
        return dropped(scores.softmax(-1), kernels.attention_dropout) @ value
    if window is None:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    seen = _seen(length, window, query.device)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)


def dropped(x: torch.Tensor, share: float) -> torch.Tensor:
    """x without a `share` of its elements; the others are scaled up."""
    return functional.dropout(x, share) if share > 0 else x


def _seen(length: int, window: int, device: torch.device) -> torch.Tensor:
    """[s, s]: whether a position (row) sees another one: itself and those before it, in its window."""
    place = torch.arange(length, device=device)
    behind = place[:, None] - place[None, :]
    return (behind >= 0) & (behind < window)
