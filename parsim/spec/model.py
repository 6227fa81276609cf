"""ModelSpec: the shape of a transformer, in as many numbers as its parameters can be counted from."""

from typing import Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from parsim.spec.base import AtLeastZero, Count, Flag, Name, Spec
from parsim.spec.evidence import EvidenceMap

__all__ = ["MlaSpec", "ModelSpec", "MoeSpec"]


class MoeSpec(Spec):
    """Experts in place of the MLP. The widths of dense layers and biases are the model's."""

    experts: Count
    topk: Count
    """Experts a token goes to."""
    expert_ffn: Count
    shared_ffn: AtLeastZero = 0
    """Width of all shared experts together; 0: none."""
    dense_layers: AtLeastZero = 0
    """The first layers that have a dense MLP of width `ffn`."""
    shared_gate: Flag = False
    """A gate of hidden weights scales the shared expert (Qwen2-MoE)."""
    router_bias: Flag = False
    """One bias an expert balances the routing (DeepSeek-V3)."""
    groups: Count = 1
    topk_groups: Count = 1
    """Experts stand in `groups`; those of a token come from at most `topk_groups` of them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.topk > self.experts:
            raise ValueError(f"topk {self.topk} is more than the {self.experts} experts")
        if self.experts % self.groups:
            raise ValueError(f"experts {self.experts} do not divide into {self.groups} groups")
        if self.topk_groups > self.groups:
            raise ValueError(f"topk_groups {self.topk_groups} is more than the {self.groups} groups")
        if self.shared_gate and not self.shared_ffn:
            raise ValueError("shared_gate needs a shared expert: shared_ffn is 0")
        return self


class MlaSpec(Spec):
    """Multi-head latent attention (2405.04434): queries, and keys with values, pass through narrow latents."""

    q_rank: Count | None = None
    """Width of the query latent; None: queries are projected directly."""
    kv_rank: Count
    nope_dim: Count
    """Width of a head's queries and keys without positions."""
    rope_dim: Count
    """Width with rotary positions; this part of the keys is shared by all heads."""
    value_dim: Count


class ModelSpec(Spec):
    """A decoder-only transformer. Widths are elements; layers are counted without MTP layers."""

    name: Name
    layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count = 0
    """Heads of keys and of values; as many as `heads` unless stated."""
    head_dim: Count = 0
    """hidden / heads unless stated; with MLA the width of a head's queries, nope_dim + rope_dim."""
    ffn: Count
    """Inner width of a dense layer's MLP."""
    vocab: Count
    """Before padding."""
    gated_mlp: Flag = True
    norm: Literal["rms", "layer"] = "rms"
    """rms: a scale; layer: a scale and a bias."""
    attention_bias: Flag = False
    """Biases of queries, keys and values."""
    output_bias: Flag = False
    """Bias of the attention's output projection."""
    mlp_bias: Flag = False
    qk_norm: Literal["none", "per_head"] = "none"
    """per_head: one scale of head_dim for queries and one for keys, shared by the heads (Qwen3)."""
    positions: Literal["rope", "learned"] = "rope"
    max_positions: Count | None = None
    """The longest sequence; rows of the position table if positions are learned."""
    tied_embeddings: Flag = False
    """The head's weight is the embedding's."""
    parallel_residual: Flag = False
    """Attention and MLP read the same input and are added together (GPT-NeoX)."""
    sliding_window: Count | None = None
    """Tokens that attention sees, in every layer whose number is a multiple of `sliding_window_every`."""
    sliding_window_every: Count = 1
    moe: MoeSpec | None = None
    mla: MlaSpec | None = None
    mtp_layers: AtLeastZero = 0
    """Layers behind the last one that predict further tokens (multi-token prediction, 2412.19437)."""
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _derived(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        model = handler(data)
        if model is data:
            return model  # was a spec already
        stated, derived = set(model.model_fields_set), dict[str, int]()
        if "kv_heads" not in stated:
            derived["kv_heads"] = model.heads
        if "head_dim" not in stated:
            derived["head_dim"] = _head_dim(model)
        if derived:
            model.__dict__.update(derived)
        model._consistent()
        return model

    def _consistent(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.mla is not None and self.head_dim != (width := self.mla.nope_dim + self.mla.rope_dim):
            raise ValueError(f"head_dim {self.head_dim}: with MLA it is nope_dim + rope_dim = {width}")
        if self.positions == "learned" and self.max_positions is None:
            raise ValueError("learned positions need max_positions, the rows of their table")
        if self.moe is not None and self.moe.dense_layers > self.layers:
            raise ValueError(f"moe.dense_layers {self.moe.dense_layers} is more than the {self.layers} layers")

    def is_moe_layer(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) has experts; MTP layers, behind the last one, are like the last one."""
        return self.moe is not None and layer >= self.moe.dense_layers


def _head_dim(model: ModelSpec) -> int:
    if model.mla is not None:
        return model.mla.nope_dim + model.mla.rope_dim
    if model.hidden % model.heads:
        raise ValueError(f"hidden {model.hidden} does not divide by heads {model.heads}; say head_dim")
    return model.hidden // model.heads
