"""Model FLOP against the closed forms of papers."""

import pytest

from parsim.model.flops import attention_flops, hardware_flops, matmul_flops, model_flops
from parsim.model.weights import active_parameters
from parsim.spec import ModelSpec, load_model

GPT3 = ModelSpec(
    name="gpt3", layers=96, hidden=12288, heads=96, ffn=4 * 12288, vocab=51200, gated_mlp=False, norm="layer"
)
LLAMA3_405B = ModelSpec(name="llama3-405b", layers=126, hidden=16384, heads=128, kv_heads=8, ffn=53248, vocab=128256)


@pytest.mark.parametrize("batch", [1, 1536])
def test_gpt3_as_narayanan_et_al_count_it(batch: int) -> None:
    """2104.04473 equation 3, with full recomputation; without it 72 B s l h^2 (1 + s/6h + V/12lh)."""
    b, s, layers, h, vocab = batch, 2048, 96, 12288, 51200
    with_recomputation = 96 * b * s * layers * h**2 * (1 + s / (6 * h) + vocab / (16 * layers * h))
    without = 72 * b * s * layers * h**2 * (1 + s / (6 * h) + vocab / (12 * layers * h))
    assert hardware_flops(GPT3, s, b) == pytest.approx(with_recomputation, rel=1e-12)
    assert model_flops(GPT3, s, b) == pytest.approx(without, rel=1e-12)


def test_llama3_405b_is_about_six_n_t() -> None:
    """6 N T over all but the look-up table, and the full square of attention: 9% more at 8,192 tokens."""
    tokens = 2048 * 8192
    weights = 405.8e9 - 128256 * 16384  # the paper's parameters without the input embedding
    assert matmul_flops(LLAMA3_405B, 8192, 2048) == pytest.approx(6 * weights * tokens, rel=1e-3)
    share = attention_flops(LLAMA3_405B, 8192, 2048) / matmul_flops(LLAMA3_405B, 8192, 2048)
    assert share == pytest.approx(0.084, abs=0.001)


def test_causal_attention_is_half_of_the_square() -> None:
    full, causal = (attention_flops(GPT3, 2048, 1, causal) for causal in (False, True))
    assert causal == full / 2
    assert model_flops(GPT3, 2048, 1) - model_flops(GPT3, 2048, 1, causal=True) == causal


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-235b-a22b", "deepseek-v2", "deepseek-v3"])
def test_of_experts_a_token_meets_its_own(name: str) -> None:
    """6 N T over the active parameters of the model card, but for the look-up table and the norms' scales."""
    model = load_model(name).model_copy(update={"mtp_layers": 0})
    met = active_parameters(model) - model.vocab * model.hidden
    assert matmul_flops(model, 4096, 2) == pytest.approx(6 * met * 2 * 4096, rel=2e-4)


def test_prediction_layers_count_with_their_head() -> None:
    """DeepSeek-V3's: a layer, a projection of twice the hidden width, and the head once more."""
    model = load_model("deepseek-v3")
    plain = model.model_copy(update={"mtp_layers": 0})
    grown = matmul_flops(model, 4096, 1) - matmul_flops(plain, 4096, 1)
    hidden, vocab = model.hidden, model.vocab
    layer = (matmul_flops(plain, 4096, 1) / (6 * 4096) - hidden * vocab) / 61
    assert grown / (6 * 4096) == pytest.approx(layer + 2 * hidden**2 + hidden * vocab, rel=0.02)


def test_latent_attention_counts_the_width_of_queries_and_of_values() -> None:
    model = load_model("deepseek-v2")
    assert attention_flops(model, 4096, 1) == 6 * 4096**2 * 60 * 128 * (192 + 128)


def test_a_window_leaves_its_share() -> None:
    """Half of the layers see 128 of 4,096 tokens: 1/16 of their square."""
    windowed = GPT3.model_copy(update={"sliding_window": 128, "sliding_window_every": 2})
    assert attention_flops(windowed, 4096, 1) == pytest.approx(attention_flops(GPT3, 4096, 1) * (0.5 + 0.5 / 16))
