"""A dense transformer layer, the embedding and the head as named-dim work, in the order of the forward.

Three kinds of work: `Matmul` (rows x inner @ inner x cols), `AttentionCore` (scores, softmax, weighted sum) and
`Elementwise` (limited by memory traffic). Work knows dims and no axis; how much of it a rank does, and what it
owes to others, follows from the axes that cut the dims.
"""

from typing import Literal, NamedTuple

from parsim.model.dims import Dim, Extent, Sizes, extent_dims, length, rows_of
from parsim.spec import ModelSpec

__all__ = [
    "AttentionCore",
    "Elementwise",
    "Matmul",
    "Pass",
    "Role",
    "Work",
    "contracted",
    "dense_layer",
    "embedding",
    "head",
    "matmul_parameters",
    "shape",
]

Pass = Literal["F", "I", "W"]
Role = Literal["norm", "rope", "activation", "dropout", "embedding", "loss"]


class Matmul(NamedTuple):
    """Activations [rows, inner] times a weight [inner, cols]; rows are the tokens (batch times seq)."""

    name: str
    inner: Extent
    cols: Extent


class AttentionCore(NamedTuple):
    """Scores, softmax and weighted sum of all heads: [batch, heads, seq, seq], no weights."""

    name: str


class Elementwise(NamedTuple):
    """Work that reads and writes activations [rows, width] and whose time is memory traffic."""

    name: str
    role: Role
    width: Extent


Work = Matmul | AttentionCore | Elementwise

_HIDDEN: Extent = ((1, Dim.HIDDEN),)
_QUERY: Extent = ((1, Dim.QUERY),)
_QKV: Extent = ((1, Dim.QUERY), (2, Dim.KV))
_FFN: Extent = ((1, Dim.FFN),)
_VOCAB: Extent = ((1, Dim.VOCAB),)


def dense_layer(model: ModelSpec) -> tuple[Work, ...]:
    """One layer: norm, QKV, attention, projection; norm, first MLP matmul, activation, second one.

    QKV is one matmul, and so are gate and up. Biases, residual additions and the scale of a norm move no bytes
    that the elementwise work beside them does not move already. A parallel residual changes no work, only what
    tensor parallelism owes (axes/tp.py).
    """
    gates = 2 if model.gated_mlp else 1
    return (
        Elementwise("attention_norm", "norm", _HIDDEN),
        Matmul("qkv", _HIDDEN, _QKV),
        Elementwise("rope", "rope", _QKV),
        AttentionCore("attention"),
        Matmul("proj", _QUERY, _HIDDEN),
        Elementwise("attention_dropout", "dropout", _HIDDEN),
        Elementwise("mlp_norm", "norm", _HIDDEN),
        Matmul("fc1", _HIDDEN, ((gates, Dim.FFN),)),
        Elementwise("activation", "activation", ((gates + 1, Dim.FFN),)),
        Matmul("fc2", _FFN, _HIDDEN),
        Elementwise("mlp_dropout", "dropout", _HIDDEN),
    )


def embedding() -> tuple[Work, ...]:
    """The token embedding: a table look-up, no matmul."""
    return (Elementwise("embedding", "embedding", _HIDDEN),)


def head() -> tuple[Work, ...]:
    """The language-model head and its loss over the vocabulary."""
    return (Matmul("head", _HIDDEN, _VOCAB), Elementwise("loss", "loss", _VOCAB))


def shape(matmul: Matmul, sizes: Sizes, which: Pass) -> tuple[float, float, float]:
    """(rows, inner, cols) of a matmul in a pass. With tokens T, inner k, cols n: F is (T, k, n); the input gradient
    (T, n, k); the weight gradient (k, T, n).
    """
    tokens, inner, cols = rows_of(sizes), length(matmul.inner, sizes), length(matmul.cols, sizes)
    if which == "F":
        return tokens, inner, cols
    return (tokens, cols, inner) if which == "I" else (inner, tokens, cols)


def contracted(matmul: Matmul, which: Pass) -> frozenset[Dim]:
    """The dims that a pass sums over: inner in F, cols in I, rows in W. An axis that cuts one owes a reduction."""
    if which == "F":
        return extent_dims(matmul.inner)
    return extent_dims(matmul.cols) if which == "I" else frozenset({Dim.BATCH, Dim.SEQ})


def matmul_parameters(work: tuple[Work, ...], sizes: Sizes) -> float:
    """Weights of all matmuls among `work`: the sum of inner times cols."""
    return sum(length(w.inner, sizes) * length(w.cols, sizes) for w in work if isinstance(w, Matmul))
