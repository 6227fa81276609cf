"""Model FLOP of a training step: the useful arithmetic, whatever a layout adds to it. The numerator of MFU.

The convention, stated with every figure: a multiply-add is 2 FLOP; backward is twice forward; every matmul weight
that a token meets counts (of a layer's experts those that it goes to), the head once, and once more with each
multi-token-prediction layer, the embedding look-up not at all; recomputation never counts. Attention is counted over
the full square of scores (PaLM, appendix B; the Llama 3 paper's figures agree) or over the causal half; a window w
leaves min(1, 2w/s) of either.

    matmuls   6 * tokens * (matmul weights that a token meets in the layers + hidden * vocab)
    attention 6 * tokens * seq * layers * heads * (width of queries + of values)            (half of it if causal)

With every layer recomputed in full, hardware FLOP are 4/3 of the layers' share: for a GPT this is equation 3 of
Narayanan et al. 2021, 96*B*s*L*h^2*(1 + s/(6h) + V/(16*L*h)).
"""

from collections import Counter
from typing import NamedTuple

from parsim.model.dims import Dim, Sizes, length, model_sizes
from parsim.model.layer import (
    AttentionCore,
    LayerKind,
    Matmul,
    Work,
    head,
    layer_kind,
    layer_work,
    matmul_parameters,
    mtp_projection,
)
from parsim.spec import ModelSpec

__all__ = ["PartFlops", "attention_flops", "hardware_flops", "matmul_flops", "model_flops", "part_flops"]

_TRAINING = 3  # forward, and a backward of twice that


class PartFlops(NamedTuple):
    """Model FLOP of a part of a model: matmuls with weights, and attention over the full square of scores."""

    matmul: float
    attention: float


def part_flops(model: ModelSpec, layers: range, last: bool, sequence: int, batch: int) -> PartFlops:
    """Model FLOP of some of the layers, of the head and the MTP layers too with `last`, in one step (or micro-batch)
    of `batch` sequences of `sequence` tokens. Parts of a model add up to the model.
    """
    sizes = model_sizes(model, batch, sequence)
    predicted = model.mtp_layers if last else 0
    kinds = Counter(layer_kind(model, layer) for layer in layers)
    kinds += Counter(layer_kind(model, model.layers + layer) for layer in range(predicted))
    met = _met_in_layers(model, kinds, sizes) + predicted * matmul_parameters(mtp_projection(), sizes)
    met += (int(last) + predicted) * matmul_parameters(head(), sizes)
    square = 2 * _TRAINING * batch * sequence**2 * (sizes[Dim.QUERY] + sizes[Dim.OUTPUT])
    scores = sum(
        count * _seen(item, sequence)
        for kind, count in kinds.items()
        for item in layer_work(model, kind)
        if isinstance(item, AttentionCore)
    )
    return PartFlops(2 * _TRAINING * batch * sequence * met, square * scores)


def matmul_flops(model: ModelSpec, sequence: int, batch: int) -> float:
    """FLOP of all matmuls with weights in one step of `batch` sequences of `sequence` tokens."""
    return part_flops(model, range(model.layers), True, sequence, batch).matmul


def attention_flops(model: ModelSpec, sequence: int, batch: int, causal: bool = False) -> float:
    """FLOP of scores and weighted sums in one step, over the full square or the causal half of it."""
    full = part_flops(model, range(model.layers), True, sequence, batch).attention
    return full / 2 if causal else full


def model_flops(model: ModelSpec, sequence: int, batch: int, causal: bool = False) -> float:
    """Model FLOP of one training step."""
    return matmul_flops(model, sequence, batch) + attention_flops(model, sequence, batch, causal)


def hardware_flops(model: ModelSpec, sequence: int, batch: int, causal: bool = False) -> float:
    """FLOP that a step performs when every layer is recomputed in full: one more forward of the layers."""
    kinds = Counter(layer_kind(model, layer) for layer in range(model.layers + model.mtp_layers))
    forward = 2 * batch * sequence * _met_in_layers(model, kinds, model_sizes(model, batch, sequence))
    again = forward + attention_flops(model, sequence, batch, causal) / _TRAINING
    return model_flops(model, sequence, batch, causal) + again


def _seen(core: AttentionCore, sequence: int) -> float:
    """The share of a layer's scores that its window leaves."""
    return 1.0 if core.window is None else min(1.0, 2 * core.window / sequence)


def _met_in_layers(model: ModelSpec, kinds: Counter[LayerKind], sizes: Sizes) -> float:
    """Matmul weights that one token meets in so many layers of each kind."""
    return sum(count * _met(layer_work(model, kind), model, sizes) for kind, count in kinds.items())


def _met(work: tuple[Work, ...], model: ModelSpec, sizes: Sizes) -> float:
    topk = model.moe.topk if model.moe is not None else 1
    return sum(
        length(item.inner, sizes) * length(item.cols, sizes) * (topk if item.experts else 1)
        for item in work
        if isinstance(item, Matmul)
    )
