"""Dims: the named lengths of a transformer's tensors, and extents, the sums of dims that a matmul runs over.

A *dim* belongs to a tensor or to the model; an *axis* belongs to the mesh and cuts dims (axes/). Lengths are kept
as `Sizes`: the global ones come from a model, the local ones from the axes that cut them.
"""

from collections.abc import Mapping
from enum import StrEnum

from parsim.spec import ModelSpec

__all__ = ["Dim", "Extent", "Sizes", "extent_dims", "length", "model_sizes", "padded_vocab", "rows_of"]


class Dim(StrEnum):
    """Named dims. QUERY and KV are widths (heads times head_dim) of the queries and of one of keys and values."""

    BATCH = "batch"
    SEQ = "seq"
    HIDDEN = "hidden"
    QUERY = "query"
    KV = "kv"
    FFN = "ffn"
    VOCAB = "vocab"


Sizes = Mapping[Dim, float]
Extent = tuple[tuple[int, Dim], ...]  # a sum: ((1, QUERY), (2, KV)) is the width of a packed QKV projection


def model_sizes(model: ModelSpec, batch: int, sequence: int) -> dict[Dim, float]:
    """The uncut length of every dim, for micro-batches of `batch` sequences of `sequence` tokens."""
    return {
        Dim.BATCH: batch,
        Dim.SEQ: sequence,
        Dim.HIDDEN: model.hidden,
        Dim.QUERY: model.heads * model.head_dim,
        Dim.KV: model.kv_heads * model.head_dim,
        Dim.FFN: model.ffn,
        Dim.VOCAB: model.vocab,
    }


def padded_vocab(vocab: int, multiple: int | None, tp: int) -> int:
    """The vocabulary that is computed with: up to the next multiple of `multiple` * tp (of tp if that is None)."""
    step = (multiple or 1) * tp
    return -(-vocab // step) * step


def length(extent: Extent, sizes: Sizes) -> float:
    """Length of a sum of dims."""
    return sum(factor * sizes[dim] for factor, dim in extent)


def rows_of(sizes: Sizes) -> float:
    """Tokens of a micro-batch: batch times seq, the rows of every activation."""
    return sizes[Dim.BATCH] * sizes[Dim.SEQ]


def extent_dims(extent: Extent) -> frozenset[Dim]:
    """The dims that a sum is made of."""
    return frozenset(dim for _, dim in extent)
