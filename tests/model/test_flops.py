"""Model FLOP against the closed forms of papers."""

import pytest

from parsim.errors import LayoutError
from parsim.model.flops import attention_flops, hardware_flops, matmul_flops, model_flops
from parsim.spec import ModelSpec, MoeSpec

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


def test_experts_are_refused() -> None:
    model = GPT3.model_copy(update={"moe": MoeSpec(experts=8, topk=2, expert_ffn=1024)})
    with pytest.raises(LayoutError, match=r"model\.moe"):
        model_flops(model, 2048, 1)
