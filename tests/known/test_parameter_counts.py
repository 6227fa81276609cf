"""Parameter counts of published checkpoints, exact; and what their model cards say a token activates.

Each configuration holds the values of the public config.json; the count is the number of elements in the checkpoint.
"""

from typing import Any

import pytest

from parsim.model.weights import active_parameters, model_weights, parameters
from parsim.spec import ModelSpec, load_model
from parsim.spec.hf import model_document


def llama(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        **more,
    }


def mixtral(*widths: int) -> dict[str, Any]:
    return llama(*widths, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2, sliding_window=None)


def qwen3_moe(*widths: int, expert_ffn: int) -> dict[str, Any]:
    more = {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": expert_ffn}
    return llama(*widths, model_type="qwen3_moe", decoder_sparse_step=1, mlp_only_layers=[], **more)


def deepseek(family: str, *widths: int, **more: Any) -> dict[str, Any]:
    latent = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
    return llama(*widths, model_type=family, moe_layer_freq=1, **latent, **more)


def gpt2(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": 1024, "vocab_size": 50257}
    return {"model_type": "gpt2", "activation_function": "gelu_new", **sizes}


def neox(hidden: int, layers: int, heads: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocab,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
    }


V2 = {"n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1536}
LITE = {"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408}
V3 = {"n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048}
QWEN15 = {"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-2-7b": (llama(4096, 11008, 32, 32, 32, 32000), 6_738_415_616),
    "Llama-2-13b": (llama(5120, 13824, 40, 40, 40, 32000), 13_015_864_320),
    "Llama-2-70b": (llama(8192, 28672, 80, 64, 8, 32000), 68_976_648_192),
    "Meta-Llama-3-8B": (llama(4096, 14336, 32, 32, 8, 128256), 8_030_261_248),
    "Meta-Llama-3-70B": (llama(8192, 28672, 80, 64, 8, 128256), 70_553_706_496),
    "Llama-3.1-405B": (llama(16384, 53248, 126, 128, 8, 128256), 405_853_388_800),
    "Llama-3.2-1B": (llama(2048, 8192, 16, 32, 8, 128256, head_dim=64, tie_word_embeddings=True), 1_235_814_400),
    "Mistral-7B-v0.1": (llama(4096, 14336, 32, 32, 8, 32000, model_type="mistral"), 7_241_732_096),
    "Mixtral-8x7B-v0.1": (mixtral(4096, 14336, 32, 32, 8, 32000), 46_702_792_704),
    "Mixtral-8x22B-v0.1": (mixtral(6144, 16384, 56, 48, 8, 32000), 140_620_634_112),
    "Mixtral-8x22B-Instruct-v0.1": (mixtral(6144, 16384, 56, 48, 8, 32768), 140_630_071_296),
    "Qwen2-7B": (llama(3584, 18944, 28, 28, 4, 152064, model_type="qwen2"), 7_615_616_512),
    "Qwen2.5-0.5B": (
        llama(896, 4864, 24, 14, 2, 151936, model_type="qwen2", tie_word_embeddings=True),
        494_032_768,
    ),
    "Qwen1.5-MoE-A2.7B": (
        llama(2048, 5632, 24, 16, 16, 151936, model_type="qwen2_moe", shared_expert_intermediate_size=5632, **QWEN15),
        14_315_784_192,
    ),
    "Qwen3-8B": (llama(4096, 12288, 36, 32, 8, 151936, model_type="qwen3", head_dim=128), 8_190_735_360),
    "Qwen3-30B-A3B": (qwen3_moe(2048, 6144, 48, 32, 4, 151936, expert_ffn=768), 30_532_122_624),
    "Qwen3-235B-A22B": (qwen3_moe(4096, 12288, 94, 64, 4, 151936, expert_ffn=1536), 235_093_634_560),
    "DeepSeek-V2": (
        deepseek("deepseek_v2", 5120, 12288, 60, 128, 128, 102400, q_lora_rank=1536, first_k_dense_replace=1, **V2),
        235_741_434_880,
    ),
    "DeepSeek-V2-Lite": (
        deepseek("deepseek_v2", 2048, 10944, 27, 16, 16, 102400, q_lora_rank=None, first_k_dense_replace=1, **LITE),
        15_706_484_224,
    ),
    "DeepSeek-V3": (
        deepseek("deepseek_v3", 7168, 18432, 61, 128, 128, 129280, q_lora_rank=1536, first_k_dense_replace=3, **V3),
        671_026_419_200,
    ),
    "gpt2": (gpt2(768, 12, 12), 124_439_808),
    "gpt2-medium": (gpt2(1024, 24, 16), 354_823_168),
    "gpt2-large": (gpt2(1280, 36, 20), 774_030_080),
    "gpt2-xl": (gpt2(1600, 48, 25), 1_557_611_200),
    "gpt-neox-20b": (neox(6144, 44, 64, 50432), 20_554_567_680),
    "pythia-70m": (neox(512, 6, 8, 50304), 70_426_624),
    "pythia-410m": (neox(1024, 24, 16, 50304), 405_334_016),
    "pythia-1.4b": (neox(2048, 24, 16, 50304), 1_414_647_808),
    "pythia-2.8b": (neox(2560, 32, 32, 50304), 2_775_208_960),
    "pythia-6.9b": (neox(4096, 32, 32, 50432), 6_857_302_016),
    "pythia-12b": (neox(5120, 36, 40, 50688), 11_846_072_320),
}
PRESETS = {
    "llama2-7b": "Llama-2-7b",
    "llama2-13b": "Llama-2-13b",
    "llama2-70b": "Llama-2-70b",
    "llama3-8b": "Meta-Llama-3-8B",
    "llama3-70b": "Meta-Llama-3-70B",
    "llama3-405b": "Llama-3.1-405B",
    "mixtral-8x7b": "Mixtral-8x7B-v0.1",
    "mixtral-8x22b": "Mixtral-8x22B-Instruct-v0.1",
    "qwen3-30b-a3b": "Qwen3-30B-A3B",
    "qwen3-235b-a22b": "Qwen3-235B-A22B",
    "deepseek-v2": "DeepSeek-V2",
    "deepseek-v3": "DeepSeek-V3",
    "gpt2": "gpt2",
    "gpt2-medium": "gpt2-medium",
    "gpt2-large": "gpt2-large",
    "gpt2-xl": "gpt2-xl",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_count_equals_the_published_checkpoint(name: str) -> None:
    config, published = PUBLISHED[name]
    model = ModelSpec.model_validate(model_document(config, "config.json", name))
    assert parameters(model) == published
    assert sum(weight.size for weight in model_weights(model)) == published


@pytest.mark.parametrize("preset", PRESETS)
def test_bundled_preset_equals_the_published_checkpoint(preset: str) -> None:
    assert parameters(load_model(preset)) == PUBLISHED[PRESETS[preset]][1]


@pytest.mark.parametrize(
    ("preset", "billions"),
    # arXiv 2005.14165, table 2.1, with its own rounding (350M is 356M, 2.7B is 2.65B)
    [("125m", 0.125), ("350m", 0.350), ("760m", 0.760), ("1.3b", 1.3), ("2.7b", 2.7), ("6.7b", 6.7), ("13b", 13.0),
     ("175b", 175.0)],
)  # fmt: skip
def test_gpt3_family_is_within_rounding_of_the_paper(preset: str, billions: float) -> None:
    assert parameters(load_model(f"gpt3-{preset}")) / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize(
    ("preset", "billions"),
    # model cards: Mixtral 13B and 39B, Qwen3 3.3B and 22B, DeepSeek 21B and 37B active
    [("mixtral-8x7b", 12.9), ("mixtral-8x22b", 39.1), ("qwen3-30b-a3b", 3.3), ("qwen3-235b-a22b", 22), 
     ("deepseek-v2", 21), ("deepseek-v3", 37)],
)  # fmt: skip
def test_active_parameters_are_the_model_cards(preset: str, billions: float) -> None:
    assert active_parameters(load_model(preset)) / 1e9 == pytest.approx(billions, rel=0.02)


def test_dense_models_are_active_as_a_whole() -> None:
    model = load_model("llama3-8b")
    assert active_parameters(model) == parameters(model)


def test_mtp_layer_of_deepseek_v3() -> None:
    """The checkpoint's 14 B behind the last layer are one MTP layer and copies of embedding and head."""
    model = load_model("deepseek-v3")
    extra = parameters(model, mtp=True) - parameters(model)
    assert (extra + 2 * model.vocab * model.hidden) / 1e9 == pytest.approx(14, rel=0.05)
