"""The attention core's time, by kernel: flash (flash 2, cuDNN, flash 3) and unfused (scores in memory).

With A = 4 b s^2 a d the forward FLOP of the full square on a rank, and S the bytes of its b s^2 a scores:

    flash    F = A/2 / (peak*ea*hf) * (1 + 552/s)          B = 2.5 * A/2 / (peak*ea*hf*0.64) * (1 + 552/s)
    unfused  F = A/(peak*0.63) + 5.2 S/hbm_eff             B = 2A/(peak*0.63) + 3.5 S/hbm_eff

Flash kernels skip the causal half; unfused ones do not. hf is 0.76 for head_dim 64. A deterministic backward of
flash costs 1.75 times as much (Ampere, Hopper).
"""

from typing import Literal

from parsim.cost.constants import Constants
from parsim.cost.rates import Rates
from parsim.model.dims import Dim, Sizes

__all__ = ["attention_seconds"]


def attention_seconds(
    sizes: Sizes, head_dim: int, which: Literal["F", "B"], rates: Rates, constants: Constants, deterministic: bool
) -> float:
    """Seconds of scores, softmax and weighted sum of one layer, forward or backward, for local `sizes`."""
    square = sizes[Dim.BATCH] * sizes[Dim.SEQ] ** 2
    flops = 4 * square * sizes[Dim.QUERY]
    if not rates.attention:
        score_bytes = rates.word_bytes * square * sizes[Dim.QUERY] / head_dim
        matmuls = (1 if which == "F" else 2) * flops / (rates.peak_flops_per_s * constants.unfused_rate)
        passes = constants.unfused_forward_passes if which == "F" else constants.unfused_backward_passes
        return matmuls + passes * score_bytes / rates.memory_bytes_per_s
    rate = rates.peak_flops_per_s * rates.attention * (constants.head_dim_64 if head_dim <= 64 else 1.0)
    forward = flops / 2 / rate * (1 + constants.flash_overhead_tokens / sizes[Dim.SEQ])
    if which == "F":
        return forward
    slower = constants.deterministic_backward if deterministic else 1.0
    return forward * constants.flash_backward_flops / constants.flash_backward_rate * slower
