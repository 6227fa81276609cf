"""Model FLOP of a training step: the useful arithmetic, whatever a layout adds to it. The numerator of MFU.

The convention, stated with every figure: a multiply-add is 2 FLOP; backward is twice forward; every matmul weight
counts, the head once, the embedding look-up not at all; recomputation never counts. Attention is counted over the
full square of scores (PaLM, appendix B; the Llama 3 paper's figures agree) or over the causal half.

    matmuls   6 * tokens * (matmul weights of the layers + hidden * vocab)
    attention 12 * tokens * seq * layers * heads * head_dim           (half of it if causal)

With every layer recomputed in full, hardware FLOP are 4/3 of the layers' share: for a GPT this is equation 3 of
Narayanan et al. 2021, 96*B*s*L*h^2*(1 + s/(6h) + V/(16*L*h)).
"""

from parsim.errors import LayoutError
from parsim.model.dims import Dim, model_sizes
from parsim.model.layer import Work, dense_layer, head, matmul_parameters
from parsim.spec import ModelSpec

__all__ = ["attention_flops", "hardware_flops", "matmul_flops", "model_flops"]

_TRAINING = 3  # forward, and a backward of twice that


def matmul_flops(model: ModelSpec, sequence: int, batch: int) -> float:
    """FLOP of all matmuls with weights in one step of `batch` sequences of `sequence` tokens."""
    sizes = model_sizes(model, batch, sequence)
    weights = model.layers * matmul_parameters(_layer(model), sizes) + matmul_parameters(head(), sizes)
    return 2 * _TRAINING * batch * sequence * weights


def attention_flops(model: ModelSpec, sequence: int, batch: int, causal: bool = False) -> float:
    """FLOP of scores and weighted sums in one step, over the full square or the causal half of it."""
    query = model_sizes(model, batch, sequence)[Dim.QUERY]
    full = 2 * 2 * _TRAINING * batch * sequence**2 * model.layers * query
    return full / 2 if causal else full


def model_flops(model: ModelSpec, sequence: int, batch: int, causal: bool = False) -> float:
    """Model FLOP of one training step."""
    return matmul_flops(model, sequence, batch) + attention_flops(model, sequence, batch, causal)


def hardware_flops(model: ModelSpec, sequence: int, batch: int, causal: bool = False) -> float:
    """FLOP that a step performs when every layer is recomputed in full: one more forward of the layers."""
    sizes = model_sizes(model, batch, sequence)
    forward = 2 * batch * sequence * model.layers * matmul_parameters(_layer(model), sizes)
    again = forward + attention_flops(model, sequence, batch, causal) / _TRAINING
    return model_flops(model, sequence, batch, causal) + again


def _layer(model: ModelSpec) -> tuple[Work, ...]:
    if model.moe is not None or model.mla is not None or model.mtp_layers:
        part = "moe" if model.moe is not None else "mla" if model.mla is not None else "mtp_layers"
        raise LayoutError(f"model.{part}: FLOP are counted for dense layers only; a model without it would do")
    return dense_layer(model)
