"""Hugging Face configurations: a config.json becomes the fields of a ModelSpec, strictly.

A key that changes parameters or arithmetic and that no family here knows is refused, not skipped. Defaults of absent
keys are those of the family's configuration class in transformers. What matters only to generation is ignored.
"""

from collections.abc import Callable, Mapping
from typing import Any

from parsim.errors import SpecError
from parsim.spec.base import LARGEST_COUNT
from parsim.spec.problem import choose, shown

__all__ = ["FAMILIES", "model_document"]

# Keys that neither add a parameter nor a training FLOP: generation, routing losses, initialisation, bookkeeping.
_IGNORED_KEYS = """
    _name_or_path add_bos_token architectures attention_dropout attention_probs_dropout_prob attn_implementation
    attn_pdrop auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    classifier_dropout decoder_start_token_id diversity_penalty do_sample dtype embd_pdrop embedding_dropout
    eos_token_id ep_size gradient_checkpointing hidden_dropout id2label initializer_range is_decoder
    keys_to_ignore_at_inference label2id layer_norm_eps layer_norm_epsilon length_penalty max_length
    max_new_tokens max_window_layers min_length model_type n_ctx n_group norm_topk_prob num_beams num_labels
    original_max_position_embeddings output_attentions output_hidden_states output_router_logits pad_token_id
    partial_rotary_factor pretraining_tp problem_type quantization_config reorder_and_upcast_attn repetition_penalty
    resid_pdrop return_dict rms_norm_eps rope_interleave rope_parameters rope_scaling rope_theta rotary_emb_base
    rotary_pct routed_scaling_factor router_aux_loss_coef router_jitter_noise scale_attn_by_inverse_layer_idx
    scale_attn_weights scoring_func seq_aux summary_activation summary_first_dropout summary_proj_to_labels
    summary_type summary_use_proj task_specific_params temperature tie_encoder_decoder tokenizer_class top_k top_p
    topk_group topk_method torch_dtype torchscript transformers_version unsloth_fixed use_bfloat16 use_cache
    use_return_dict
"""
_IGNORED = frozenset(_IGNORED_KEYS.split())
_MISSING: Any = object()
_SILU = ("silu", "swish")


class _Config:
    """A config.json being read: what is asked for is checked, what nobody asked for is found at the end."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where, self.read = values, where, set[str]()

    def error(self, key: str, rule: str) -> SpecError:
        return SpecError(f"{self.where}: {key} {shown(self.values.get(key))}: {rule}")

    def value(self, key: str, default: Any = _MISSING) -> Any:
        self.read.add(key)
        if key not in self.values and default is _MISSING:
            family = self.values.get("model_type")
            raise SpecError(f"{self.where}: {key} is missing; a {family} configuration has it")
        return self.values.get(key, default)

    def whole(self, key: str, default: Any = _MISSING, least: int = 1) -> int:
        """A whole number; a default stands in for an absent key, and for null if the family allows that."""
        value = self.value(key, default)
        if value is None and default is not _MISSING:
            value = default
        if type(value) is not int or not least <= value <= LARGEST_COUNT:
            raise self.error(key, f"must be a whole number from {least} to {LARGEST_COUNT}")
        return value

    def whole_or_none(self, key: str, default: int | None = None) -> int | None:
        return None if self.value(key, default) is None else self.whole(key, default)

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        value = self.value(key, default)
        if type(value) is not bool:
            raise self.error(key, "must be true or false")
        return value

    def expect(self, key: str, default: Any, *legal: Any) -> None:
        """A key that would change the model in a way that is not described: only `legal` values pass."""
        value = self.value(key, default)
        if not any(value == v and type(value) is type(v) for v in legal):
            words = " or ".join(shown(v) for v in legal)
            raise self.error(key, f"this model is not described here; {words} would do")

    def finish(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self.values:
            if key not in self.read and key not in _IGNORED and not key.startswith("_"):
                known = sorted(self.read | _IGNORED)
                raise self.error(key, f"is not known and could change the model; {_hint(key, known)}")


def _hint(key: str, known: list[str]) -> str:
    hint = choose(key, known)
    return hint if hint.startswith("did") else "leave it out if it does not"


def model_document(values: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """The fields of a ModelSpec from a config.json's values. SpecError: the file, the key, the rule."""
    family = values.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        hint = choose(family, list(FAMILIES)) if isinstance(family, str) else "one of " + ", ".join(FAMILIES)
        supported = "" if hint.startswith("one of") else f" (of {', '.join(FAMILIES)})"
        raise SpecError(f"{where}: model_type {shown(family)} is not read; {hint}{supported}")
    config = _Config(values, where)
    document = FAMILIES[family](config)
    config.finish()
    return {"name": name, **document}


def _llama_like(
    config: _Config, kv_default: int | None = None, head_dim_default: int | None = None, head_dim: int | None = None
) -> dict[str, Any]:
    """What Llama and its descendants share: RMS norms, rotary positions, a gated MLP of three matmuls. A `head_dim`
    given here is implied by other keys and overrules the file's.
    """
    heads, hidden = config.whole("num_attention_heads"), config.whole("hidden_size")
    stated = config.whole_or_none("head_dim", head_dim_default)
    head_dim = head_dim or stated
    if head_dim is None:
        if hidden % heads:
            raise config.error("hidden_size", f"must divide by num_attention_heads {heads} unless head_dim is given")
        head_dim = hidden // heads
    config.expect("hidden_act", "silu", *_SILU)
    kv_heads = config.whole("num_key_value_heads", kv_default or heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"must divide num_attention_heads {heads}")
    return {
        "layers": config.whole("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "ffn": config.whole("intermediate_size"),
        "vocab": config.whole("vocab_size"),
        "max_positions": config.whole("max_position_embeddings", 2048),
        "tied_embeddings": config.flag("tie_word_embeddings", False),
    }


def _llama(config: _Config) -> dict[str, Any]:
    bias = config.flag("attention_bias", False)
    return {
        **_llama_like(config),
        "attention_bias": bias,
        "output_bias": bias,
        "mlp_bias": config.flag("mlp_bias", False),
    }


def _mistral(config: _Config) -> dict[str, Any]:
    _no_bias(config)
    return {**_llama_like(config, kv_default=8), "sliding_window": config.whole_or_none("sliding_window", 4096)}


def _mixtral(config: _Config) -> dict[str, Any]:
    _no_bias(config)
    document = _llama_like(config, kv_default=8)
    moe = {
        "experts": config.whole("num_local_experts", 8),
        "topk": config.whole("num_experts_per_tok", 2),
        "expert_ffn": document["ffn"],
    }
    return {**document, "sliding_window": config.whole_or_none("sliding_window"), "moe": moe}


def _qwen2(config: _Config) -> dict[str, Any]:
    """Queries, keys and values have biases whatever the file says; windows start at layer `max_window_layers`."""
    _no_window(config)
    config.expect("qkv_bias", True, True)
    return {**_llama_like(config), "attention_bias": True}


def _qwen2_moe(config: _Config) -> dict[str, Any]:
    shared = config.whole("shared_expert_intermediate_size", least=0)
    return {**_qwen2(config), "moe": {**_qwen_experts(config), "shared_ffn": shared, "shared_gate": shared > 0}}


def _qwen3(config: _Config, head_dim_default: int | None = 128) -> dict[str, Any]:
    _no_window(config)
    bias = config.flag("attention_bias", False)
    document = _llama_like(config, head_dim_default=head_dim_default)
    return {**document, "attention_bias": bias, "output_bias": bias, "qk_norm": "per_head"}


def _qwen3_moe(config: _Config) -> dict[str, Any]:
    return {**_qwen3(config, head_dim_default=None), "moe": _qwen_experts(config)}


def _qwen_experts(config: _Config) -> dict[str, Any]:
    config.expect("decoder_sparse_step", 1, 1)
    dense = config.value("mlp_only_layers", []) or []
    if not isinstance(dense, list) or dense != list(range(len(dense))):
        raise config.error("mlp_only_layers", "only the first layers may be dense, for example [] or [0, 1]")
    return {
        "experts": config.whole("num_experts"),
        "topk": config.whole("num_experts_per_tok"),
        "expert_ffn": config.whole("moe_intermediate_size"),
        "dense_layers": len(dense),
    }


def _no_bias(config: _Config) -> None:
    config.expect("attention_bias", False, False)
    config.expect("mlp_bias", False, False)


def _no_window(config: _Config) -> None:
    """Qwen's windows are described by three keys and used by no published model."""
    config.value("sliding_window", None)
    config.expect("use_sliding_window", False, False)
    kinds = config.value("layer_types", None)
    if kinds is not None and (not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)):
        raise config.error("layer_types", "only full_attention is described here")


def _deepseek(config: _Config) -> dict[str, Any]:
    nope, rope = config.whole("qk_nope_head_dim", 128), config.whole("qk_rope_head_dim", 64)
    mla = {
        "q_rank": config.whole_or_none("q_lora_rank", 1536),
        "kv_rank": config.whole("kv_lora_rank", 512),
        "nope_dim": nope,
        "rope_dim": rope,
        "value_dim": config.whole("v_head_dim", 128),
    }
    _no_bias(config)
    config.expect("moe_layer_freq", 1, 1)
    head_dim = nope + rope
    config.expect("qk_head_dim", head_dim, head_dim)
    document = {**_llama_like(config, head_dim=head_dim), "mla": mla}
    document["kv_heads"] = document["heads"]  # every head has its own keys and values, made from the latent
    document["mtp_layers"] = config.whole("num_nextn_predict_layers", 0, least=0)
    if config.whole_or_none("n_routed_experts") is None:
        return document
    expert_ffn = config.whole("moe_intermediate_size")
    groups = config.whole("n_group", 1)
    document["moe"] = {
        "experts": config.whole("n_routed_experts"),
        "topk": config.whole("num_experts_per_tok"),
        "expert_ffn": expert_ffn,
        "shared_ffn": config.whole("n_shared_experts", 0, least=0) * expert_ffn,
        "dense_layers": config.whole("first_k_dense_replace", 0, least=0),
        "groups": groups,
        "topk_groups": config.whole("topk_group", groups),
    }
    return document


def _deepseek_v3(config: _Config) -> dict[str, Any]:
    document = _deepseek(config)
    if "moe" in document:
        config.expect("topk_method", "noaux_tc", "noaux_tc")
        document["moe"]["router_bias"] = True
    return document


def _gpt2(config: _Config) -> dict[str, Any]:
    config.expect("add_cross_attention", False, False)
    config.expect("activation_function", "gelu_new", "gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh", "relu")
    hidden = config.whole("n_embd", 768)
    return {
        "layers": config.whole("n_layer", 12),
        "hidden": hidden,
        "heads": config.whole("n_head", 12),
        "ffn": config.whole("n_inner", 4 * hidden),
        "vocab": config.whole("vocab_size", 50257),
        "max_positions": config.whole("n_positions", 1024),
        "positions": "learned",
        "tied_embeddings": config.flag("tie_word_embeddings", True),
        **_CLASSIC,
        "output_bias": True,
        "attention_bias": True,
    }


def _gpt_neox(config: _Config) -> dict[str, Any]:
    config.expect("hidden_act", "gelu", "gelu", "gelu_new", "gelu_fast", "relu")
    bias = config.flag("attention_bias", True)
    return {
        "layers": config.whole("num_hidden_layers", 44),
        "hidden": config.whole("hidden_size", 6144),
        "heads": config.whole("num_attention_heads", 64),
        "ffn": config.whole("intermediate_size", 24576),
        "vocab": config.whole("vocab_size", 50432),
        "max_positions": config.whole("max_position_embeddings", 2048),
        "parallel_residual": config.flag("use_parallel_residual", True),
        "tied_embeddings": config.flag("tie_word_embeddings", False),
        **_CLASSIC,
        "attention_bias": bias,
        "output_bias": bias,
    }


_CLASSIC = {"gated_mlp": False, "norm": "layer", "mlp_bias": True}

FAMILIES: Mapping[str, Callable[[_Config], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek_v3,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
"""The families that are read, by `model_type`."""
