"""The attention core's time, by kernel: flash (flash 2, cuDNN, flash 3) and unfused (scores in memory).

With A = 2 b s^2 a (d_qk + d_v) the forward FLOP of the full square on a rank, and S the bytes of its b s^2 a scores:

    flash    F = A/2 / (peak*ea*hf) * (1 + 552/s)          B = 2.5 * A/2 / (peak*ea*hf*0.64) * (1 + 552/s)
    unfused  F = A/(peak*0.63) + 5.2 S/hbm_eff             B = 2A/(peak*0.63) + 3.5 S/hbm_eff

Flash kernels skip the causal half, and with a window w all but min(1/2, w/s) of the square; unfused ones do neither.
hf is 0.76 for head_dim 64 and 0.66 for MLA's heads. A deterministic backward of flash costs 1.75 times as much (6.4
times on Blackwell). Learned sinks outside the kernel add 1.6 S/hbm_eff to F and 2.4 to B. In a ring of c ranks flash
kernels are 1 + 0.029 (c-1) slower. Where cp cuts the sequence unevenly for a causal mask, its busiest rank counts.
"""

from typing import Literal

from parsim.cost.sublayout import Sublayout
from parsim.model.dims import Dim, Sizes
from parsim.model.layer import AttentionCore

__all__ = ["attention_flops", "attention_seconds"]


def attention_seconds(core: AttentionCore, which: Literal["F", "B"], layout: Sublayout) -> float:
    """Seconds of scores, softmax and weighted sum of one layer, forward or backward, on one rank."""
    sizes, rates, constants = layout.sizes, layout.rates, layout.constants
    flops = attention_flops(core, which, layout)
    score_bytes = rates.word_bytes * _square(sizes) * sizes[Dim.QUERY] / layout.model.head_dim
    if not rates.attention:
        matmuls = flops / (rates.peak_flops_per_s * constants.unfused_rate)
        passes = constants.unfused_forward_passes if which == "F" else constants.unfused_backward_passes
        return matmuls + passes * score_bytes / rates.memory_bytes_per_s
    rate = rates.peak_flops_per_s * rates.attention * _head_rate(layout)
    flash = flops / rate * (1 + constants.flash_overhead_tokens / sizes[Dim.CONTEXT]) * _ring(layout)
    if core.window is None:
        flash *= layout.axes.context.busiest(int(sizes[Dim.CONTEXT]))
    if which == "B":
        flash *= rates.deterministic / constants.flash_backward_rate
    if layout.software.attention != "unfused_sinks":
        return flash
    passes = constants.sinks_forward_passes if which == "F" else constants.sinks_backward_passes
    return flash + passes * score_bytes / rates.memory_bytes_per_s


def attention_flops(core: AttentionCore, which: Literal["F", "B"], layout: Sublayout) -> float:
    """FLOP that the kernel performs: 2.5 forwards in a backward of flash, which computes the scores once more."""
    sizes = layout.sizes
    full = 2 * _square(sizes) * (sizes[Dim.QUERY] + sizes[Dim.OUTPUT])
    if not layout.rates.attention:
        return full if which == "F" else 2 * full
    seen = 0.5 if core.window is None else min(0.5, core.window / sizes[Dim.CONTEXT])
    return full * seen * (1.0 if which == "F" else layout.constants.flash_backward_flops)


def _square(sizes: Sizes) -> float:
    return sizes[Dim.BATCH] * sizes[Dim.SEQ] * sizes[Dim.CONTEXT]


def _head_rate(layout: Sublayout) -> float:
    if layout.model.mla is not None:
        return layout.constants.latent_heads
    return layout.constants.head_dim_64 if layout.model.head_dim <= 64 else 1.0


def _ring(layout: Sublayout) -> float:
    context = layout.axes.context
    return 1 + layout.constants.cp_kernel * (context.degree - 1) if context.how == "ring" else 1.0
