"""Dims: the named lengths of a transformer's tensors, and extents, the sums of dims that a matmul runs over.

A *dim* belongs to a tensor or to the model; an *axis* belongs to the mesh and cuts dims (axes/). Lengths are kept
as `Sizes`: the global ones come from a model, the local ones from the axes that cut them.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from parsim.spec import ModelSpec

__all__ = ["Dim", "Extent", "Sizes", "extent_dims", "length", "model_sizes", "padded_vocab", "rows_of"]


class Dim(StrEnum):
    """Named dims. QUERY, KV and OUTPUT are widths (heads times the width of one) of the queries, of one of keys and
    values, and of what attention gives; NOPE of keys without positions; the LATENTs are what MLA passes them through.

    CONTEXT is the sequence that a query looks back on. ROUTED counts tokens once for each expert that they go to;
    SCORES are the router's, one for each expert, which EXPERTS counts where their weights are.
    """

    BATCH = "batch"
    SEQ = "seq"
    CONTEXT = "context"
    HIDDEN = "hidden"
    QUERY = "query"
    KV = "kv"
    OUTPUT = "output"
    NOPE = "nope"
    Q_LATENT = "q_latent"
    KV_LATENT = "kv_latent"
    ROPE_KEY = "rope_key"
    FFN = "ffn"
    VOCAB = "vocab"
    SCORES = "scores"
    ROUTED = "routed"
    EXPERTS = "experts"
    EXPERT_FFN = "expert_ffn"
    SHARED_FFN = "shared_ffn"


Sizes = Mapping[Dim, float]
Extent = tuple[tuple[int, Dim], ...]  # a sum: ((1, QUERY), (2, KV)) is the width of a packed QKV projection


def model_sizes(model: ModelSpec, batch: int, sequence: int) -> dict[Dim, float]:
    """The uncut length of every dim that the model has, for micro-batches of `batch` sequences of `sequence` tokens."""
    query = model.heads * model.head_dim
    sizes: dict[Dim, float] = {
        Dim.BATCH: batch,
        Dim.SEQ: sequence,
        Dim.CONTEXT: sequence,
        Dim.HIDDEN: model.hidden,
        Dim.QUERY: query,
        Dim.KV: model.kv_heads * model.head_dim,
        Dim.OUTPUT: query,
        Dim.FFN: model.ffn,
        Dim.VOCAB: model.vocab,
    }
    if (mla := model.mla) is not None:
        sizes |= {
            Dim.OUTPUT: model.heads * mla.value_dim,
            Dim.NOPE: model.heads * mla.nope_dim,
            Dim.Q_LATENT: mla.q_rank or 0,
            Dim.KV_LATENT: mla.kv_rank,
            Dim.ROPE_KEY: mla.rope_dim,
        }
    if (moe := model.moe) is not None:
        sizes |= {
            Dim.SCORES: moe.experts,
            Dim.ROUTED: batch * sequence * moe.topk,
            Dim.EXPERTS: moe.experts,
            Dim.EXPERT_FFN: moe.expert_ffn,
            Dim.SHARED_FFN: moe.shared_ffn,
        }
    return sizes


def padded_vocab(vocab: int, multiple: int | None, tp: int) -> int:
    """The vocabulary that is computed with: up to the next multiple of `multiple` * tp (of tp if that is None)."""
    step = (multiple or 1) * tp
    return -(-vocab // step) * step


def length(extent: Extent, sizes: Sizes) -> float:
    """Length of a sum of dims."""
    total: float = 0
    for factor, dim in extent:
        total += factor * sizes[dim]
    return total


def rows_of(sizes: Sizes, experts: bool = False) -> float:
    """Rows of an activation: the tokens of a micro-batch (batch times seq), or those that were sent to `experts`."""
    return sizes[Dim.ROUTED] if experts else sizes[Dim.BATCH] * sizes[Dim.SEQ]


@lru_cache(maxsize=1024)
def extent_dims(extent: Extent) -> frozenset[Dim]:
    """The dims that a sum is made of."""
    return frozenset(dim for _, dim in extent)
