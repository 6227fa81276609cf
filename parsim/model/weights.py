"""Weights: every weight tensor of a model as data, and the parameters counted from them.

Counts equal the number of elements in the published checkpoints. A shape is (out, in) as PyTorch stores a linear;
the tensors of all experts of a layer are one tensor with the experts as its first dim.

A weight's `cut` says what tensor parallelism divides: `column` the outputs, `row` the inputs (its bias stays whole),
`vocab` the rows of the embedding or head, `kv` the outputs of keys or values by whole heads, which are duplicated
where there are fewer heads than ranks. None: every rank of the group holds all of it (norms, routers, latents).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from parsim.spec import MlaSpec, ModelSpec, MoeSpec

__all__ = [
    "Cut",
    "Group",
    "Weight",
    "active_parameters",
    "embedding_weights",
    "final_norm_weights",
    "head_weights",
    "layer_weights",
    "model_weights",
    "mtp_weights",
    "parameters",
    "parameters_of_rank",
]

Cut = Literal["column", "row", "kv", "vocab"]
Group = Literal["dense", "expert"]


@dataclass(frozen=True)
class Weight:
    """A weight tensor, whole. `pieces` is the most that its cut can make (the number of kv heads)."""

    name: str
    shape: tuple[int, ...]
    cut: Cut | None = None
    group: Group = "dense"
    pieces: int | None = None

    @property
    def size(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)

    def size_of_rank(self, tp: int = 1, ep: int = 1, expert_tp: int = 1) -> float:
        """Elements on one rank: experts divide by ep and expert_tp, everything else by tp."""
        degree = expert_tp if self.group == "expert" else tp
        share = self.size / ep if self.group == "expert" else float(self.size)
        return share if self.cut is None else share / min(degree, self.pieces or degree)


def embedding_weights(model: ModelSpec) -> tuple[Weight, ...]:
    """The token embedding and, where positions are learned, their table (which no rank cuts)."""
    tokens = Weight("embedding", (model.vocab, model.hidden), "vocab")
    if model.positions == "rope":
        return (tokens,)
    return (tokens, Weight("positions", (model.max_positions or 0, model.hidden)))


def layer_weights(model: ModelSpec, layer: int) -> tuple[Weight, ...]:
    """All of layer `layer` (from 0): norms, attention, MLP or experts. A parallel residual has two norms too."""
    attention = _attention(model) if model.mla is None else _latent_attention(model, model.mla)
    moe = model.moe if model.is_moe_layer(layer) else None
    mlp = _mlp(model, "mlp", model.ffn) if moe is None else _experts(model, moe)
    return (*_norm(model, "attention_norm"), *attention, *_norm(model, "mlp_norm"), *mlp)


def final_norm_weights(model: ModelSpec) -> tuple[Weight, ...]:
    """The norm before the head."""
    return _norm(model, "final_norm")


def head_weights(model: ModelSpec) -> tuple[Weight, ...]:
    """The head's own weight; none if it is tied to the embedding."""
    return () if model.tied_embeddings else (Weight("head", (model.vocab, model.hidden), "vocab"),)


def mtp_weights(model: ModelSpec) -> tuple[Weight, ...]:
    """Every multi-token-prediction layer (2412.19437, section 2.2): two norms, the projection of state and embedding
    side by side, a transformer layer, a norm. Embedding and head are the model's.
    """
    hidden = model.hidden
    one = (
        *_norm(model, "embedding_norm"),
        *_norm(model, "state_norm"),
        Weight("mtp_projection", (hidden, 2 * hidden), "column"),
        *layer_weights(model, model.layers),
        *_norm(model, "mtp_final_norm"),
    )
    return tuple(replace(weight, name=f"mtp{i}.{weight.name}") for i in range(model.mtp_layers) for weight in one)


def model_weights(model: ModelSpec, mtp: bool = False) -> tuple[Weight, ...]:
    """Every weight of the model once, in order; MTP layers if asked for."""
    layers = [
        replace(weight, name=f"layer{layer}.{weight.name}")
        for layer in range(model.layers)
        for weight in layer_weights(model, layer)
    ]
    ends = (*final_norm_weights(model), *head_weights(model), *(mtp_weights(model) if mtp else ()))
    return (*embedding_weights(model), *layers, *ends)


def parameters(model: ModelSpec, mtp: bool = False) -> int:
    """Parameters of the model; a tied embedding counts once, MTP layers only if asked for."""
    return _sum(model, mtp, lambda weight: weight.size)


def active_parameters(model: ModelSpec, mtp: bool = False) -> int:
    """Parameters that one token meets: of each layer's experts only topk. Embedding and head count in full."""
    share = (1, 1) if model.moe is None else (model.moe.topk, model.moe.experts)

    def met(weight: Weight) -> int:
        return weight.size * share[0] // share[1] if weight.group == "expert" else weight.size

    return _sum(model, mtp, met)


def parameters_of_rank(weights: Iterable[Weight], tp: int = 1, ep: int = 1, expert_tp: int = 1) -> tuple[float, float]:
    """(dense, expert) parameters that one rank holds of `weights`; the two are sharded over different groups."""
    dense = expert = 0.0
    for weight in weights:
        size = weight.size_of_rank(tp, ep, expert_tp)
        if weight.group == "expert":
            expert += size
        else:
            dense += size
    return dense, expert


def _sum(model: ModelSpec, mtp: bool, size: Callable[[Weight], int]) -> int:
    """Sum over all weights; layers of a kind are alike, so one of each kind is counted."""
    dense_layers = model.layers if model.moe is None else model.moe.dense_layers
    kinds = ((0, dense_layers), (model.layers, model.layers - dense_layers))
    layers = sum(count * sum(map(size, layer_weights(model, layer))) for layer, count in kinds if count)
    ends = (*embedding_weights(model), *final_norm_weights(model), *head_weights(model))
    return layers + sum(map(size, (*ends, *(mtp_weights(model) if mtp else ()))))


def _norm(model: ModelSpec, name: str) -> tuple[Weight, ...]:
    scale = Weight(name, (model.hidden,))
    return (scale,) if model.norm == "rms" else (scale, Weight(f"{name}.bias", (model.hidden,)))


def _attention(model: ModelSpec) -> tuple[Weight, ...]:
    hidden, query, kv = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    weights = [
        Weight("query", (query, hidden), "column"),
        Weight("key", (kv, hidden), "kv", pieces=model.kv_heads),
        Weight("value", (kv, hidden), "kv", pieces=model.kv_heads),
        Weight("proj", (hidden, query), "row"),
    ]
    if model.attention_bias:
        weights += [
            Weight("query.bias", (query,), "column"),
            Weight("key.bias", (kv,), "kv", pieces=model.kv_heads),
            Weight("value.bias", (kv,), "kv", pieces=model.kv_heads),
        ]
    if model.output_bias:
        weights.append(Weight("proj.bias", (hidden,)))
    if model.qk_norm == "per_head":
        weights += [Weight("query_norm", (model.head_dim,)), Weight("key_norm", (model.head_dim,))]
    return tuple(weights)


def _latent_attention(model: ModelSpec, mla: MlaSpec) -> tuple[Weight, ...]:
    """MLA: what leads into a latent is held whole by every rank, what leads out of it is cut by heads."""
    hidden, heads, width = model.hidden, model.heads, mla.nope_dim + mla.rope_dim
    if mla.q_rank is None:
        query: tuple[Weight, ...] = (Weight("query", (heads * width, hidden), "column"),)
    else:
        query = (
            Weight("query_down", (mla.q_rank, hidden)),
            Weight("query_latent_norm", (mla.q_rank,)),
            Weight("query_up", (heads * width, mla.q_rank), "column"),
        )
    return (
        *query,
        Weight("kv_down", (mla.kv_rank + mla.rope_dim, hidden)),
        Weight("kv_latent_norm", (mla.kv_rank,)),
        Weight("kv_up", (heads * (mla.nope_dim + mla.value_dim), mla.kv_rank), "column"),
        Weight("proj", (hidden, heads * mla.value_dim), "row"),
    )


def _mlp(model: ModelSpec, name: str, width: int) -> tuple[Weight, ...]:
    inner = ("gate", "up") if model.gated_mlp else ("up",)
    weights = [Weight(f"{name}.{part}", (width, model.hidden), "column") for part in inner]
    weights.append(Weight(f"{name}.down", (model.hidden, width), "row"))
    if model.mlp_bias:
        weights += [Weight(f"{name}.{part}.bias", (width,), "column") for part in inner]
        weights.append(Weight(f"{name}.down.bias", (model.hidden,)))
    return tuple(weights)


def _experts(model: ModelSpec, moe: MoeSpec) -> tuple[Weight, ...]:
    weights = [Weight("router", (moe.experts, model.hidden))]
    if moe.router_bias:
        weights.append(Weight("router.bias", (moe.experts,)))
    weights += [
        replace(weight, shape=(moe.experts, *weight.shape), group="expert")
        for weight in _mlp(model, "experts", moe.expert_ffn)
    ]
    if moe.shared_ffn:
        weights += _mlp(model, "shared_expert", moe.shared_ffn)
    if moe.shared_gate:
        weights.append(Weight("shared_expert.gate_of_all", (1, model.hidden)))
    return tuple(weights)
