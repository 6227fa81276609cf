"""A matmul's time: arithmetic at the sustained rate, stretched by unfilled waves, plus its bytes, plus a launch.

    t = 2mnk/(peak*e) * (1 + 0.90*(min(q,3)-1)) + 0.70 * word bytes (mk + kn + mn)/hbm + launch
    q = waves/fill * padding, with tiles = ceil(m/128)*ceil(n/256) on the GPU's SMs

The bytes are added, not compared: that is what makes the efficiency fall smoothly as k, m or n become small.
"""

import math

from parsim.cost.constants import Constants
from parsim.cost.rates import Rates

__all__ = ["matmul_seconds", "wave_loss"]


def wave_loss(rows: float, cols: float, sms: int, constants: Constants) -> float:
    """q >= 1: the work of whole waves of whole tiles over the work asked for."""
    tall, wide = math.ceil(rows / constants.tile_rows), math.ceil(cols / constants.tile_cols)
    filled = tall * wide / sms
    padding = (constants.tile_rows * tall / rows) * (constants.tile_cols * wide / cols)
    return math.ceil(filled) / filled * padding


def matmul_seconds(rows: float, inner: float, cols: float, rates: Rates, constants: Constants) -> float:
    """Seconds of one matmul [rows, inner] @ [inner, cols]."""
    loss = min(wave_loss(rows, cols, rates.sms, constants), constants.wave_limit)
    arithmetic = 2 * rows * inner * cols / (rates.peak_flops_per_s * rates.matmul)
    traffic = rates.word_bytes * (rows * inner + inner * cols + rows * cols) / rates.hbm_bytes_per_s
    return arithmetic * (1 + constants.wave_weight * (loss - 1)) + constants.matmul_bytes * traffic + rates.launch_s
