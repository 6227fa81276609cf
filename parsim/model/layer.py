"""A transformer layer, the embedding and the head as named-dim work, in the order of the forward.

Three kinds of work: `Matmul` (rows x inner @ inner x cols), `AttentionCore` (scores, softmax, weighted sum) and
`Elementwise` (limited by memory traffic). Work knows dims and no axis; how much of it a rank does, and what it
owes to others, follows from the axes that cut the dims.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

from parsim.model.dims import Dim, Extent, Sizes, extent_dims, length, rows_of
from parsim.spec import MlaSpec, ModelSpec, MoeSpec

__all__ = [
    "AttentionCore",
    "Elementwise",
    "LayerKind",
    "Matmul",
    "Module",
    "Pass",
    "Role",
    "Work",
    "contracted",
    "dense_layer",
    "embedding",
    "head",
    "layer_kind",
    "layer_kinds",
    "layer_work",
    "matmul_parameters",
    "mtp_projection",
    "shape",
    "turned",
]

Pass = Literal["F", "I", "W"]
Role = Literal["norm", "rope", "activation", "dropout", "embedding", "loss", "router", "permute"]
Module = Literal["attention", "up_projection", "mlp", "moe", ""]


class LayerKind(NamedTuple):
    """What makes layers of one model unlike: experts in place of the MLP, a window on the attention."""

    experts: bool = False
    window: bool = False


_PLAIN = LayerKind()


class Matmul(NamedTuple):
    """Activations [rows, inner] times a weight [inner, cols]; rows are the tokens (batch times seq).

    With `experts` a grouped one: rows are the tokens routed here, and each of the experts has a weight. `layer`: the
    matmul of a layer, which the run's precision applies to (not those of router and head).
    """

    name: str
    inner: Extent
    cols: Extent
    experts: bool = False
    layer: bool = True
    module: Module = ""


class AttentionCore(NamedTuple):
    """Scores, softmax and weighted sum of all heads: [batch, heads, seq, context], no weights.

    `window`: tokens that a query sees (None: all before it). `keys_values` is the width of keys and values together.
    """

    name: str
    window: int | None = None
    keys_values: Extent = ((2, Dim.KV),)
    module: Module = "attention"


class Elementwise(NamedTuple):
    """Work that reads and writes activations [rows, width] and whose time is memory traffic."""

    name: str
    role: Role
    width: Extent
    experts: bool = False
    module: Module = ""


Work = Matmul | AttentionCore | Elementwise

_HIDDEN: Extent = ((1, Dim.HIDDEN),)
_OUTPUT: Extent = ((1, Dim.OUTPUT),)
_QKV: Extent = ((1, Dim.QUERY), (2, Dim.KV))
_VOCAB: Extent = ((1, Dim.VOCAB),)
_TOKENS = frozenset({Dim.BATCH, Dim.SEQ})
_ROUTED = frozenset({Dim.ROUTED})


def layer_kind(model: ModelSpec, layer: int) -> LayerKind:
    """The kind of layer `layer` (from 0); MTP layers, behind the last one, have experts as it has."""
    windowed = model.sliding_window is not None and layer % model.sliding_window_every == 0
    return LayerKind(model.is_moe_layer(layer), windowed)


def layer_kinds(model: ModelSpec) -> tuple[LayerKind, ...]:
    """The kinds of all its layers, in order."""
    if model.moe is None and model.sliding_window is None:
        return (_PLAIN,) * model.layers
    return tuple(layer_kind(model, layer) for layer in range(model.layers))


def dense_layer(model: ModelSpec) -> tuple[Work, ...]:
    """A layer with an MLP and attention to all tokens before."""
    return layer_work(model, LayerKind())


def layer_work(model: ModelSpec, kind: LayerKind) -> tuple[Work, ...]:
    """One layer: norm, attention, projection; norm, then the MLP or router, experts and shared experts.

    QKV is one matmul, and so are gate and up. Biases, residual additions and the scale of a norm move no bytes
    that the elementwise work beside them does not move already. A parallel residual changes no work, only what
    tensor parallelism owes (axes/tp.py).
    """
    window = model.sliding_window if kind.window else None
    return _layer_work(window, model.mla, model.moe if kind.experts else None, 2 if model.gated_mlp else 1)


@lru_cache(maxsize=1024)
def _layer_work(window: int | None, mla: MlaSpec | None, moe: MoeSpec | None, gates: int) -> tuple[Work, ...]:
    return (
        Elementwise("attention_norm", "norm", _HIDDEN),
        *(_attention(window) if mla is None else _latent_attention(mla)),
        Matmul("proj", _OUTPUT, _HIDDEN),
        Elementwise("attention_dropout", "dropout", _HIDDEN),
        Elementwise("mlp_norm", "norm", _HIDDEN),
        *(_mlp("", Dim.FFN, gates, "mlp") if moe is None else _experts(moe, gates)),
        Elementwise("mlp_dropout", "dropout", _HIDDEN),
    )


def embedding() -> tuple[Work, ...]:
    """The token embedding: a table look-up, no matmul."""
    return (Elementwise("embedding", "embedding", _HIDDEN),)


def head() -> tuple[Work, ...]:
    """The language-model head and its loss over the vocabulary."""
    return (Matmul("head", _HIDDEN, _VOCAB, layer=False), Elementwise("loss", "loss", _VOCAB))


def mtp_projection() -> tuple[Work, ...]:
    """What goes before the layer of multi-token prediction: norms of state and embedding, and the projection of both
    side by side (2412.19437, section 2.2). The layer, and a head of its own use, follow.
    """
    norm = Elementwise("mtp_norm", "norm", ((2, Dim.HIDDEN),))
    return (norm, Matmul("mtp_projection", ((2, Dim.HIDDEN),), _HIDDEN))


def _attention(window: int | None) -> tuple[Work, ...]:
    return (
        Matmul("qkv", _HIDDEN, _QKV),
        Elementwise("rope", "rope", _QKV),
        AttentionCore("attention", window),
    )


def _latent_attention(mla: MlaSpec) -> tuple[Work, ...]:
    """MLA: both down-projections in one matmul, then queries, and keys with values, up from their latents."""
    latents: Extent = ((1, Dim.KV_LATENT), (1, Dim.ROPE_KEY))
    wide: Extent = ((1, Dim.NOPE), (1, Dim.OUTPUT))
    query = Matmul("q_up", ((1, Dim.Q_LATENT),), ((1, Dim.QUERY),), module="up_projection")
    if mla.q_rank is None:
        query = Matmul("query", _HIDDEN, ((1, Dim.QUERY),))
    else:
        latents = ((1, Dim.Q_LATENT), *latents)
    return (
        Matmul("down", _HIDDEN, latents),
        query,
        Matmul("kv_up", ((1, Dim.KV_LATENT),), wide, module="up_projection"),
        Elementwise("rope", "rope", ((2, Dim.QUERY), (1, Dim.OUTPUT))),
        AttentionCore("attention", keys_values=((1, Dim.QUERY), (1, Dim.OUTPUT))),
    )


def _mlp(prefix: str, width: Dim, gates: int, module: Module, experts: bool = False) -> tuple[Work, ...]:
    return (
        Matmul(f"{prefix}fc1", _HIDDEN, ((gates, width),), experts, module=module),
        Elementwise(f"{prefix}activation", "activation", ((gates + 1, width),), experts, module),
        Matmul(f"{prefix}fc2", ((1, width),), _HIDDEN, experts, module=module),
    )


def _experts(moe: MoeSpec, gates: int) -> tuple[Work, ...]:
    """Router, shared experts, and the routed ones between permutation and its reverse."""
    scores: Extent = ((1, Dim.SCORES),)
    return (
        Matmul("router", _HIDDEN, scores, layer=False, module="moe"),
        Elementwise("routing", "router", scores, module="moe"),
        *(_mlp("shared_", Dim.SHARED_FFN, gates, "moe") if moe.shared_ffn else ()),
        Elementwise("permute", "permute", _HIDDEN, experts=True, module="moe"),
        *_mlp("expert_", Dim.EXPERT_FFN, gates, "moe", experts=True),
        Elementwise("unpermute", "permute", _HIDDEN, experts=True, module="moe"),
    )


def shape(matmul: Matmul, sizes: Sizes, which: Pass) -> tuple[float, float, float]:
    """(rows, inner, cols) of a matmul in a pass. With tokens T, inner k, cols n: F is (T, k, n); the input gradient
    (T, n, k); the weight gradient (k, T, n). Of a grouped matmul, the shape of one expert's.
    """
    tokens, inner, cols = rows_of(sizes, matmul.experts), length(matmul.inner, sizes), length(matmul.cols, sizes)
    if matmul.experts:
        tokens /= sizes[Dim.EXPERTS]
    return turned((tokens, inner, cols), which)


def turned(forward: tuple[float, float, float], which: Pass) -> tuple[float, float, float]:
    """The shape that a matmul of this shape in F has in a pass."""
    tokens, inner, cols = forward
    if which == "F":
        return forward
    return (tokens, cols, inner) if which == "I" else (inner, tokens, cols)


def contracted(matmul: Matmul, which: Pass) -> frozenset[Dim]:
    """The dims that a pass sums over: inner in F, cols in I, rows in W. An axis that cuts one owes a reduction."""
    if which == "F":
        return extent_dims(matmul.inner)
    if which == "I":
        return extent_dims(matmul.cols)
    return _ROUTED if matmul.experts else _TOKENS


def matmul_parameters(work: tuple[Work, ...], sizes: Sizes, experts: bool | None = None) -> float:
    """Weights of all matmuls among `work`: the sum of inner times cols; of `experts` alone or of the rest if said."""
    total = 0.0
    for item in work:
        if isinstance(item, Matmul) and experts in (None, item.experts):
            weights = length(item.inner, sizes) * length(item.cols, sizes)
            total += weights * (sizes[Dim.EXPERTS] if item.experts else 1)
    return total
