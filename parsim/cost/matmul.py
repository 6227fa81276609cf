"""A matmul's time: arithmetic at the sustained rate, stretched by unfilled waves, plus its bytes, plus a launch.

    t = 2mnk/(peak*e) * (1 + 0.90*(min(q,3)-1)) + 0.70 * word bytes (mk + kn + mn)/hbm + launch
    q = waves/fill * padding, with tiles = ceil(m/128)*ceil(n/256) on the GPU's SMs

The bytes are added, not compared: that is what makes the efficiency fall smoothly as k, m or n become small.

A grouped matmul is one for each expert, and all their tiles fill waves together. In fp8 or fp4 the operands are cast
before: + 1.48 * 3 bytes * (mk + 0.5 kn/micro-batches)/hbm for each of a layer's three passes, with the dims of the
forward, weights once a step; with scales for rows or for blocks the matmul itself takes 2.4 or 1.27 times as long.
"""

import math

from parsim.cost.constants import Constants
from parsim.cost.rates import Rates

__all__ = ["cast_seconds", "matmul_seconds", "wave_loss"]


def wave_loss(rows: float, cols: float, sms: int, constants: Constants, experts: float = 1) -> float:
    """q >= 1: the work of whole waves of whole tiles over the work asked for."""
    tall, wide = math.ceil(rows / constants.tile_rows), math.ceil(cols / constants.tile_cols)
    filled = tall * wide * experts / sms
    padding = (constants.tile_rows * tall / rows) * (constants.tile_cols * wide / cols)
    return math.ceil(filled) / filled * padding


def matmul_seconds(
    rows: float,
    inner: float,
    cols: float,
    rates: Rates,
    constants: Constants,
    experts: float | None = None,
    cast: float = 0.0,
) -> float:
    """Seconds of one matmul [rows, inner] @ [inner, cols], or of those of `experts` together.

    `cast`: operand elements, of one of them, that are cast for it.
    """
    count = 1 if experts is None else experts
    loss = min(wave_loss(rows, cols, rates.sms, constants, count), constants.wave_limit)
    arithmetic = count * 2 * rows * inner * cols / (rates.peak_flops_per_s * rates.matmul)
    moved = rates.word_bytes * (rows * inner + inner * cols + rows * cols)
    traffic = count * moved / rates.hbm_bytes_per_s
    launches = min(count, constants.grouped_launches) * rates.launch_s
    total = arithmetic * (1 + constants.wave_weight * (loss - 1)) + constants.matmul_bytes * traffic + launches
    total *= rates.scaling if experts is None else rates.scaling * constants.grouped
    return total + cast_seconds(cast, rates, constants, count)


def cast_seconds(cast: float, rates: Rates, constants: Constants, experts: float | None = None) -> float:
    """Seconds of casting `cast` operand elements for one matmul, or as many for each of those of `experts`."""
    count = 1 if experts is None else experts
    return constants.cast_passes * constants.cast_bytes * count * cast / rates.hbm_bytes_per_s
