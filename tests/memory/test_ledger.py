"""The ledger op by op: what a layer of each kind saves in closed form, what recomputation and precision take off it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.memory import memory_of
from parsim.memory.ledger import layer_ops, layer_units, tokens_of
from parsim.memory.ledger.layer import OP_OF_WEIGHT
from parsim.model.layer import LayerKind
from parsim.model.weights import layer_weights, model_weights, mtp_weights
from parsim.schedules import build
from parsim.spec import Run, load_model
from parsim.spec.catalogue import names
from tests.memory.runs import TINY, TINY_EXPERTS, TINY_LATENT, make

S, H, F, Q, KV, HEADS = 4096, 256, 512, 256, 256, 8
DENSE, EXPERTS = LayerKind(), LayerKind(experts=True)
T = S * 2  # received tokens: two experts each


def saved(run: Run, kind: LayerKind = DENSE) -> dict[str, float]:
    """Saved bytes by op of a layer as its recomputation leaves it."""
    return {entry.name: entry.saved for unit in layer_units(run, tokens_of(run), kind) for entry in unit.entries}


def saved_in_all(run: Run, kind: LayerKind = DENSE) -> float:
    return sum(unit.saved for unit in layer_units(run, tokens_of(run), kind))


def test_a_layer_with_experts_saves_their_inputs_and_results() -> None:
    """Beside its attention: x, the norm's output once for router, shared expert and dispatch, 17 bytes an expert and
    token, the shared expert's MLP, and T rows of input, gate and up, and the activation's result."""
    found = saved(make(TINY_EXPERTS, {"dp": 8}, layout={"ep": 8}), EXPERTS)
    expected = {
        "norm 2": 2 * S * H,
        "router": 2 * S * H + 17 * 8 * S,
        "shared fc1": 0,
        "shared activation": 2 * S * 2 * 64,
        "shared fc2": 2 * S * 64,
        "dispatch": 0,
        "expert fc1": 2 * T * H,
        "expert activation": 2 * T * 2 * 128,
        "expert fc2": 2 * T * 128,
        "combine": 0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    eager = saved(make(TINY_EXPERTS, {"dp": 8}, layout={"ep": 8}, software={"fused_moe_activation": False}), EXPERTS)
    assert eager["expert activation"] == pytest.approx(2 * T * 2 * 128 + 4 * T * 128)


def test_a_layer_with_latent_attention_saves_latents_and_heads() -> None:
    """Latents of 96 and 64 before and behind their norms, 16 rotary; 8 heads of 48 for queries and keys; values of 32
    that keep 32 more alive; the output of 32, and the row statistics."""
    found = saved(make(TINY_LATENT, {"dp": 8}))
    assert found["latent norms"] == 2 * S * (96 + 64 + 16)
    assert found["up"] == 2 * S * (96 + 64)
    assert found["attention"] == 2 * S * 8 * (2 * 48 + (32 + 32) + 32) + 4 * S * 8
    assert found["down"] == 2 * S * H


@pytest.mark.parametrize(("how", "outputs"), [("ring", 1), ("allgather", 1), ("a2a", 2)])
def test_an_exchange_over_the_context_keeps_the_output_twice(how: str, outputs: int) -> None:
    found = saved(make(TINY, {"cp": 4}, sequence=4 * S, layout={"cp_comm": how}))
    assert found["attention"] == 2 * S * (Q + 2 * KV + outputs * Q) + 4 * S * HEADS
    whole = saved(make(TINY, {"cp": 4}, sequence=4 * S, layout={"cp_comm": how}, software={"attention": "unfused"}))
    assert (
        whole["attention"] == 2 * S * (Q + 2 * KV + outputs * Q) + 2 * HEADS * S * 4 * S
    )  # rows of a rank, all columns


def test_tensor_and_sequence_parallelism_cut_what_they_cut() -> None:
    """Everything by t with sequence parallelism; without, what stands outside the matmuls stays whole."""
    whole, cut = saved_in_all(make(TINY, {})), saved_in_all(make(TINY, {"tp": 8}))
    plain = saved_in_all(make(TINY, {"tp": 8}, layout={"sequence_parallel": False}))
    assert cut == pytest.approx(whole / 8)
    assert plain - cut == pytest.approx(2 * S * 4 * H * 7 / 8)


def test_fewer_kv_heads_than_ranks_are_duplicated() -> None:
    grouped = {**TINY, "kv_heads": 2}
    assert saved(make(grouped, {"tp": 8}))["attention"] == 2 * S * (2 * Q / 8 + 2 * 32) + 4 * S


def test_norms_of_heads_keep_queries_and_keys_as_they_were() -> None:
    grouped = {**TINY, "kv_heads": 2}
    plain, normed = (saved_in_all(make({**grouped, "qk_norm": norm}, {"tp": 2})) for norm in ("none", "per_head"))
    assert normed - plain == 2 * S * (Q + 64) / 2


SAVINGS: dict[str, tuple[dict[str, Any], LayerKind, dict[str, Any], float]] = {
    "core_attn": (TINY, DENSE, {"attention": "unfused"}, 2 * HEADS * S * S),
    "layernorm": (TINY, DENSE, {}, 2 * 2 * S * H),
    "act": (TINY, DENSE, {}, 2 * S * F),
    "mlp": (TINY, DENSE, {}, 2 * S * 3 * F),
    "moe_act": (TINY_EXPERTS, EXPERTS, {}, 2 * T * 128),
    "moe": (TINY_EXPERTS, EXPERTS, {}, 2 * T * (H + 3 * 128) + 2 * S * 3 * 64 + 17 * 8 * S),
    "mla_up_proj": (TINY_LATENT, DENSE, {}, 2 * S * 8 * (2 * 48 + 64)),
}


@pytest.mark.parametrize("module", SAVINGS)
def test_recomputing_a_module_drops_its_tensors(module: str) -> None:
    """And its backward has them again."""
    model, kind, software, expected = SAVINGS[module]
    plain = make(model, {"dp": 8}, software=software)
    again = make(model, {"dp": 8}, software=software, layout={"recompute": {"mode": "selective", "modules": [module]}})
    assert saved_in_all(plain, kind) - saved_in_all(again, kind) == pytest.approx(expected)
    if module not in ("mlp", "moe"):  # those are scanned as units of their own
        backward = [
            sum(
                entry.saved + entry.backward
                for unit in layer_units(run, tokens_of(run), kind)
                for entry in unit.entries
            )
            for run in (plain, again)
        ]
        assert backward[0] == pytest.approx(backward[1])


def test_low_precision_keeps_inputs_once_more_where_others_need_them() -> None:
    """Transformer Engine's matmuls keep 1 + 1/64 bytes of their inputs; attention its own output in 16 bit."""
    wide, narrow = saved(make(TINY, {})), saved(make(TINY, {}, layout={"precision": "fp8-delayed-scaling"}))
    low = 1 + 1 / 64
    assert narrow["fc2"] == pytest.approx(wide["fc2"] / 2 * low)
    assert narrow["qkv"] == pytest.approx(wide["qkv"] / 2 * low)
    assert narrow["attention"] == wide["attention"]
    assert narrow["proj"] == pytest.approx(S * Q * low)
    titan = saved(make(TINY, {}, layout={"precision": "fp8-tensorwise"}, software={"framework": "torchtitan"}))
    assert titan["fc2"] == wide["fc2"]  # torchao casts once more in the backward


BUFFERS: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "alltoall": lambda x, u: (2 * x, 3 * x + u),
    "hybridep": lambda x, u: (0, x),
    "deepep": lambda x, u: (x * 8 * (1 - (7 / 8) ** 2) / 2, x + x * 8 * (1 - (7 / 8) ** 2) / 2),
    "allgather": lambda x, u: (8 * u + x, 8 * u + x + u),
}


@pytest.mark.parametrize("dispatcher", BUFFERS)
def test_dispatchers_need_buffers_of_their_own(dispatcher: str) -> None:
    run = make(TINY_EXPERTS, {"dp": 8}, layout={"ep": 8}, software={"moe_dispatcher": dispatcher})
    ops = {entry.name: entry for entry in layer_ops(run, tokens_of(run), EXPERTS)}
    expected = BUFFERS[dispatcher](2 * T * H, 2 * S * H)
    assert (ops["dispatch"].forward, ops["combine"].forward) == pytest.approx(expected)


def test_crowded_experts_hold_their_rows() -> None:
    """What the busiest rank receives, stated over the mean."""
    skew = {"router_skew": {"max_over_mean": 2.0}, "routing": "learned"}
    even, crowded = (
        saved(make(TINY_EXPERTS, {"dp": 8}, layout={"ep": 8}, software=software), EXPERTS) for software in ({}, skew)
    )
    assert crowded["expert fc1"] == pytest.approx(2 * even["expert fc1"])
    assert crowded["shared fc2"] == even["shared fc2"]


def test_every_weight_of_every_model_has_its_op() -> None:
    """Gradients that come into being in a backward are its ops' own: no weight may be left out."""
    for name in names("models"):
        model = load_model(name)
        found = {weight.name for layer in (0, model.layers - 1) for weight in layer_weights(model, layer)}
        found |= {w.name.partition(".")[2] for w in mtp_weights(model)}
        found |= {w.name for w in model_weights(model) if not w.name.startswith("layer")}
        assert {weight.removesuffix(".bias") for weight in found} <= OP_OF_WEIGHT.keys(), name


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([TINY, TINY_EXPERTS, TINY_LATENT]),
    st.sampled_from([{}, {"tp": 4}, {"cp": 2}, {"tp": 2, "cp": 2, "dp": 2}]),
    st.sampled_from(["unfused", "flash2", "cudnn"]),
    st.sampled_from(["megatron-core", "zero-bubble-megatron", "torchtitan", "deepspeed", "parsim-executor"]),
    st.booleans(),
)
def test_nothing_is_negative_and_weight_gradients_need_no_more(
    model: dict[str, Any], mesh: dict[str, int], attention: str, framework: str, fused: bool
) -> None:
    software = {"attention": attention, "framework": framework, "fused_weight_gradient": fused, "hidden_dropout": 0.1}
    run = make(model, mesh, software=software)
    for kind in (DENSE, EXPERTS) if run.model.moe else (DENSE,):
        for entry in layer_ops(run, tokens_of(run), kind):
            assert min(entry.saved, entry.kept, entry.forward, entry.backward, entry.weight) >= 0, entry
            assert entry.weight <= entry.backward, entry


def test_a_head_that_is_not_split_keeps_no_logits_for_its_weights() -> None:
    """The zero-bubble authors' Megatron makes the head's weight gradient with the input's."""
    kept = {}
    for framework in ("megatron-core", "zero-bubble-megatron"):
        run = make(TINY, {"pp": 2}, software={"framework": framework, "loss": "megatron"})
        kept[framework] = memory_of(run, build("zb-h1", 2, 8))[1].holding.stages[1].kept
    assert kept["megatron-core"] - kept["zero-bubble-megatron"] == 2 * S * H + 2 * S * 1024


def test_sinks_keep_no_scores() -> None:
    fused, sinks = (saved(make(TINY, {}, software={"attention": name})) for name in ("flash2", "unfused_sinks"))
    assert sinks == fused
