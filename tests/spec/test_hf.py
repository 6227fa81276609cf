"""Hugging Face configurations: each family's defaults, and refusals of what would be counted wrongly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import SpecError
from parsim.spec import ModelSpec, load_model
from parsim.spec.hf import FAMILIES, model_document
from parsim.spec.problem import validated

WIDTHS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 100,
    "max_position_embeddings": 256,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": WIDTHS,
    "mistral": WIDTHS,
    "mixtral": WIDTHS,
    "qwen2": WIDTHS,
    "qwen2_moe": {**WIDTHS, **EXPERTS, "shared_expert_intermediate_size": 64},
    "qwen3": WIDTHS,
    "qwen3_moe": {**WIDTHS, **EXPERTS},
    "deepseek_v2": {**WIDTHS, **ROUTED},
    "deepseek_v3": {**WIDTHS, **ROUTED},
    "gpt2": {},
    "gpt_neox": {},
}


def read(family: str, **changes: Any) -> ModelSpec:
    config = {"model_type": family, **CONFIGS[family], **changes}
    return validated(ModelSpec, model_document(config, "config.json", family), "config.json")


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or the message with which it refuses."""
    try:
        return call(), ""
    except SpecError as error:
        return None, str(error)


def test_every_family_is_tested() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {"kv_heads": 8, "head_dim": 8, "tied_embeddings": False, "attention_bias": False, "mlp_bias": False}),
        ("mistral", {"kv_heads": 8, "sliding_window": 4096}),
        ("mixtral", {"kv_heads": 8, "sliding_window": None}),
        ("qwen2", {"attention_bias": True, "output_bias": False, "sliding_window": None}),
        ("qwen3", {"head_dim": 128, "qk_norm": "per_head", "attention_bias": False}),
        ("qwen3_moe", {"head_dim": 8, "qk_norm": "per_head"}),
        ("deepseek_v3", {"head_dim": 192, "kv_heads": 8, "mtp_layers": 0}),
        ("gpt2", {"layers": 12, "hidden": 768, "ffn": 3072, "tied_embeddings": True, "positions": "learned"}),
        ("gpt_neox", {"layers": 44, "parallel_residual": True, "attention_bias": True, "tied_embeddings": False}),
    ],
)
def test_absent_keys_take_the_familys_defaults(family: str, expected: dict[str, Any]) -> None:
    model = read(family)
    assert {name: getattr(model, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("family", "changes", "field", "value"),
    [
        ("llama", {"attention_bias": True}, "output_bias", True),
        ("llama", {"tie_word_embeddings": True}, "tied_embeddings", True),
        ("llama", {"head_dim": 16}, "head_dim", 16),
        ("mistral", {"sliding_window": None}, "sliding_window", None),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, "sliding_window", None),
        ("deepseek_v3", {"num_nextn_predict_layers": 1}, "mtp_layers", 1),
        ("gpt_neox", {"use_parallel_residual": False}, "parallel_residual", False),
        ("gpt2", {"n_inner": None}, "ffn", 3072),
        ("gpt2", {"n_inner": 100}, "ffn", 100),
    ],
)
def test_keys_are_read(family: str, changes: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read(family, **changes), field) == value


def test_experts_are_read() -> None:
    v2, v3, qwen = read("deepseek_v2", n_shared_experts=2), read("deepseek_v3"), read("qwen2_moe")
    assert v2.moe is not None
    assert v3.moe is not None
    assert qwen.moe is not None
    assert (v2.moe.shared_ffn, v2.moe.dense_layers, v2.moe.router_bias) == (64, 1, False)
    assert (v3.moe.router_bias, qwen.moe.shared_gate, qwen.moe.shared_ffn) == (True, True, 64)
    assert read("qwen3_moe", mlp_only_layers=[0, 1]).is_moe_layer(1) is False


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("llama", {"num_key_value_heads": 3}, "must divide num_attention_heads 8"),
        ("llama", {"num_hidden_layers": 0}, "whole number from 1"),
        ("llama", {"num_hidden_layers": -4}, "whole number from 1"),
        ("llama", {"num_hidden_layers": 4.0}, "whole number from 1"),
        ("llama", {"num_hidden_layers": True}, "whole number from 1"),
        ("llama", {"num_hidden_layers": "4"}, "whole number from 1"),
        ("llama", {"num_hidden_layers": 10**30}, "whole number from 1"),
        ("llama", {"num_hidden_layers": None}, "whole number from 1"),
        ("llama", {"hidden_size": 65}, "must divide by num_attention_heads"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("llama", {"attention_bias": "true"}, "must be true or false"),
        ("llama", {"num_experts": 8}, "is not known"),
        ("llama", {"tie_word_embedings": True}, "did you mean 'tie_word_embeddings'"),
        ("mistral", {"attention_bias": True}, "attention_bias True"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step 2"),
        ("qwen3_moe", {"mlp_only_layers": [3]}, "only the first layers may be dense"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq 2"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method 'greedy'"),
        ("deepseek_v2", {"attention_bias": True}, "attention_bias True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention True"),
    ],
)
def test_what_would_be_counted_wrongly_is_refused(
    family: str, changes: dict[str, Any], says: str, refusal: Callable[..., str]
) -> None:
    message = refusal(lambda: read(family, **changes))
    assert message.startswith("config.json: ")
    assert says in message


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("missing", WIDTHS)
def test_a_missing_width_is_named(family: str, missing: str, refusal: Callable[..., str]) -> None:
    config = {"model_type": family, **CONFIGS[family]}
    del config[missing]
    if missing == "max_position_embeddings":  # only the longest sequence: every family has a default
        model_document(config, "config.json", family)
    else:
        assert f"{missing} is missing" in refusal(lambda: model_document(config, "config.json", family))


@pytest.mark.parametrize("family", ["bert", "lama", None, 3, ["llama"]])
def test_an_unknown_family_lists_the_known_ones(family: object, refusal: Callable[..., str]) -> None:
    message = refusal(lambda: model_document({"model_type": family}, "config.json", "x"))
    assert all(known in message for known in FAMILIES)


def test_generation_keys_change_nothing() -> None:
    noise = {"bos_token_id": 1, "rope_theta": 5e5, "torch_dtype": "bfloat16", "use_cache": True, "_name_or_path": "x"}
    assert read("llama", **noise) == read("llama")


def test_config_in_a_folder_is_known_by_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Tiny-Llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **WIDTHS}))
    assert load_model(folder / "config.json").name == load_model(folder).name == "Tiny-Llama"


@given(
    st.dictionaries(
        st.sampled_from([*WIDTHS, "head_dim", "num_key_value_heads", "tie_word_embeddings", "zzz"]),
        st.none() | st.booleans() | st.integers(-5, 300) | st.floats() | st.text(max_size=5) | st.lists(st.integers()),
        max_size=4,
    ),
    st.sampled_from(sorted(FAMILIES)),
)
def test_any_value_is_read_or_refused(changes: dict[str, Any], family: str) -> None:
    model, refusal = outcome(lambda: read(family, **changes))
    assert "\n" not in refusal
    assert model is None or model.heads % model.kv_heads == 0
