"""Weights on a rank: what tensor and expert parallelism divide, and what they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.model.weights import (
    embedding_weights,
    final_norm_weights,
    head_weights,
    layer_weights,
    model_weights,
    mtp_weights,
    parameters,
    parameters_of_rank,
)
from parsim.spec import ModelSpec, catalogue, load_model

DENSE = ModelSpec(name="m", layers=2, hidden=64, heads=8, kv_heads=2, ffn=128, vocab=100)


def names(weights: tuple[object, ...]) -> set[str]:
    return {weight.name for weight in weights}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_one_rank_holds_everything_and_cuts_add_up(name: str) -> None:
    model = load_model(name)
    weights = model_weights(model)
    assert sum(parameters_of_rank(weights)) == parameters(model)
    for weight in weights:
        if weight.cut is None and weight.group == "dense":
            assert weight.size_of_rank(tp=8) == weight.size
        elif weight.pieces is None:
            assert weight.size_of_rank(tp=8, ep=8, expert_tp=8) * 8 == pytest.approx(
                weight.size if weight.group == "dense" else weight.size / 8
            )


@pytest.mark.parametrize("name", catalogue.names("models"))
def test_parts_of_a_model_are_the_whole(name: str) -> None:
    model = load_model(name)
    parts = [*embedding_weights(model), *final_norm_weights(model), *head_weights(model)]
    for layer in range(model.layers):
        parts += layer_weights(model, layer)
    assert sum(weight.size for weight in parts) == parameters(model)
    assert len(names(model_weights(model, mtp=True))) == len(model_weights(model, mtp=True))


def test_kv_heads_are_duplicated_beyond_their_number() -> None:
    key = next(weight for weight in layer_weights(DENSE, 0) if weight.name == "key")
    assert [key.size_of_rank(tp=tp) for tp in (1, 2, 4, 8)] == [1024, 512, 512, 512]


def test_latents_routers_and_norms_are_whole_on_every_rank() -> None:
    whole = {weight.name for weight in layer_weights(load_model("deepseek-v3"), 60) if weight.cut is None}
    assert {"query_down", "kv_down", "query_latent_norm", "kv_latent_norm", "router", "router.bias"} < whole
    assert not {"query_up", "kv_up", "proj"} & whole


def test_experts_divide_by_their_own_degrees() -> None:
    layer = layer_weights(load_model("qwen3-30b-a3b"), 0)
    dense, expert = parameters_of_rank(layer)
    assert expert == 128 * 3 * 2048 * 768
    assert parameters_of_rank(layer, tp=4)[1] == expert
    assert parameters_of_rank(layer, ep=8, expert_tp=2) == (dense, expert / 16)
    assert parameters_of_rank(layer, tp=4)[0] < dense


def test_dense_layers_come_first_and_mtp_layers_have_experts() -> None:
    model = load_model("deepseek-v3")
    assert [any(weight.group == "expert" for weight in layer_weights(model, layer)) for layer in (0, 2, 3, 60)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert any(weight.group == "expert" for weight in mtp_weights(model))


def test_a_tied_head_has_no_weight_of_its_own() -> None:
    assert head_weights(load_model("gpt2")) == ()
    assert {weight.name for weight in embedding_weights(load_model("gpt2"))} == {"embedding", "positions"}


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    gated=st.booleans(),
    bias=st.booleans(),
    layer_norm=st.booleans(),
    qk_norm=st.booleans(),
)
def test_a_rank_holds_at_least_its_share_and_the_layer_formula(
    tp: int, kv_heads: int, gated: bool, bias: bool, layer_norm: bool, qk_norm: bool
) -> None:
    model = DENSE.model_copy(
        update={
            "kv_heads": kv_heads,
            "gated_mlp": gated,
            "attention_bias": bias,
            "output_bias": bias,
            "mlp_bias": bias,
            "norm": "layer" if layer_norm else "rms",
            "qk_norm": "per_head" if qk_norm else "none",
        }
    )
    weights = layer_weights(model, 0)
    h, q, kv, f, g = 64, 64, kv_heads * 8, 128, 2 if gated else 1
    biases = q + 2 * kv + h + g * f + h if bias else 0
    norms = 2 * h * (2 if layer_norm else 1) + (16 if qk_norm else 0)
    assert sum(parameters_of_rank(weights)) == h * (q + 2 * kv) + q * h + (g + 1) * h * f + biases + norms
    total = sum(parameters_of_rank(weights))
    assert total / tp <= parameters_of_rank(weights, tp=tp)[0] <= total
