"""What expert parallelism owes: two exchanges a pass, no reduction; how much they carry by dispatcher."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.axes.axis import local_sizes, owed_reductions
from parsim.axes.dp import DataAxis
from parsim.axes.ep import ExpertAxis, distinct
from parsim.axes.tp import TensorAxis
from parsim.model.dims import Dim, model_sizes
from parsim.model.layer import LayerKind, dense_layer, layer_work, matmul_parameters
from parsim.spec import ModelSpec, MoeSpec, load_model

MODEL = ModelSpec(
    name="m",
    layers=2,
    hidden=4096,
    heads=32,
    ffn=8192,
    vocab=32000,
    moe=MoeSpec(experts=64, topk=8, expert_ffn=1024, shared_ffn=1024),
)
WORK = layer_work(MODEL, LayerKind(experts=True))
WHOLE = model_sizes(MODEL, 16, 4096)
PAYLOAD = 2 * 4096 * 4096  # bytes of the tokens that each of 16 ranks has


def test_dispatch_and_combine_stand_around_the_experts() -> None:
    axis = ExpertAxis(8, 8)
    sizes = local_sizes(WHOLE, (axis, DataAxis(2, experts=True)), {})
    forward, backward = (axis.comms(WORK, sizes, which) for which in ("F", "I"))  # type: ignore[arg-type]
    assert [(c.at, c.before) for c in forward] == [("permute", False), ("unpermute", True)]
    assert [(c.at, c.before) for c in backward] == [("permute", True), ("unpermute", False)]
    assert {c.size_bytes for c in (*forward, *backward)} == {8 * PAYLOAD}
    assert axis.comms(WORK, sizes, "W") == axis.comms(dense_layer(MODEL), sizes, "F") == ()
    assert ExpertAxis(1, 8).comms(WORK, sizes, "F") == ()


def test_copies_that_share_a_rank_or_a_node_travel_once() -> None:
    """8 draws of 64 ranks on 8 nodes: 7.58 distinct ranks, 7 * (1 - (7/8)^8) = 4.59 other nodes."""
    assert distinct(64, 8) == pytest.approx(64 * (1 - (63 / 64) ** 8))
    axis = ExpertAxis(64, 8, "deepep", domains=8)
    sizes = {**WHOLE, Dim.ROUTED: 8 * 4096}
    dispatch = axis.comms(WORK, sizes, "F")[0]
    assert dispatch.size_bytes == pytest.approx(7.58 * PAYLOAD, rel=1e-3)
    assert dispatch.across_bytes == pytest.approx(4.595 * PAYLOAD, rel=1e-3)


def test_groups_bound_how_far_a_token_goes() -> None:
    """DeepSeek-V3: 8 experts in 4 of 8 groups, one group a node: 4 * (1 - (3/4)^8) nodes, of which 7/8 are others."""
    axis = ExpertAxis(64, 8, "deepep", domains=8, groups=8, topk_groups=4)
    sizes = {**WHOLE, Dim.ROUTED: 8 * 4096}
    dispatch = axis.comms(WORK, sizes, "F")[0]
    assert dispatch.across_bytes == pytest.approx(4 * (1 - 0.75**8) * 7 / 8 * PAYLOAD)
    assert dispatch.size_bytes == pytest.approx(32 * (1 - (31 / 32) ** 8) * PAYLOAD)
    two = ExpertAxis(64, 8, "deepep", domains=2, groups=8, topk_groups=4).comms(WORK, sizes, "F")[0]
    free = ExpertAxis(64, 8, "deepep", domains=2).comms(WORK, sizes, "F")[0]
    assert two.across_bytes is not None
    assert free.across_bytes is not None
    assert 0.85 * free.across_bytes < two.across_bytes < free.across_bytes


@given(st.integers(1, 64), st.integers(1, 16))
def test_distinct_places_are_at_most_the_draws_and_the_places(places: int, draws: int) -> None:
    assert 1 - 1e-9 <= distinct(places, draws) <= min(places, draws) + 1e-9


def test_gathering_dispatchers_gather_and_scatter() -> None:
    axis = ExpertAxis(4, 8, "allgather")
    sizes = {**WHOLE, Dim.ROUTED: 8 * 4096}
    assert [(c.kind, c.size_bytes) for c in axis.comms(WORK, sizes, "F")] == [
        ("all_gather", 4 * PAYLOAD),
        ("reduce_scatter", 4 * PAYLOAD),
    ]
    assert [c.kind for c in axis.comms(WORK, sizes, "I")] == ["all_gather", "reduce_scatter"][::-1]


def test_the_rule_gives_experts_their_own_reduction() -> None:
    """Weight gradients of experts contract the routed tokens: expert_dp owes them, ep does not, dp owes the rest."""

    def owed(axis: ExpertAxis | DataAxis) -> set[str]:
        return {m.name for m in owed_reductions(axis, WORK, "W")}

    assert owed(ExpertAxis(8, 8)) == set()
    assert owed(DataAxis(4, experts=True)) == {"expert_fc1", "expert_fc2"}
    assert owed(DataAxis(4)) == {"qkv", "proj", "router", "shared_fc1", "shared_fc2"}


def test_slices_of_experts_gather_their_tokens_and_scatter_results() -> None:
    """expert_tp 2 with the rows of both its ranks: routed * hidden words each way; nothing for the rest of a layer."""
    axis = TensorAxis(2, True, name="expert_tp", experts=True)
    sizes = {**local_sizes(WHOLE, (axis,), {}), Dim.ROUTED: 2 * 8 * 4096}
    found = axis.comms(WORK, sizes, "F")
    assert [(c.kind, c.at) for c in found] == [("all_gather", "expert_fc1"), ("reduce_scatter", "expert_fc2")]
    assert {c.size_bytes for c in found} == {2 * 8 * PAYLOAD}
    assert axis.comms(WORK, sizes, "W") == ()


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2", "deepseek-v3"])
def test_parameters_divide_by_ep_and_expert_tp(name: str) -> None:
    model = load_model(name)
    assert model.moe is not None
    work, whole = layer_work(model, LayerKind(experts=True)), model_sizes(model, 1, 4096)
    cut = local_sizes(whole, (ExpertAxis(8, 8), TensorAxis(2, True, name="expert_tp", experts=True)), {})
    experts = matmul_parameters(work, whole, experts=True)
    assert experts == 3 * model.moe.experts * model.hidden * model.moe.expert_ffn
    assert matmul_parameters(work, cut, experts=True) == experts / 16
    assert matmul_parameters(work, cut, experts=False) == matmul_parameters(work, whole, experts=False)


def test_latent_projections_down_are_held_whole_by_every_rank() -> None:
    model = load_model("deepseek-v3")
    work, whole = layer_work(model, LayerKind()), model_sizes(model, 1, 4096)
    cut = local_sizes(whole, (TensorAxis(8),), {})
    attention = [item for item in work if item.name in ("down", "q_up", "kv_up", "proj")]
    weights = [matmul_parameters((item,), cut) for item in attention]
    assert weights[0] == 7168 * (1536 + 512 + 64)
    assert weights[1:] == [1536 * 128 * 192 / 8, 512 * 128 * 256 / 8, 128 * 128 * 7168 / 8]
    gathered = [(c.at, c.size_bytes) for c in TensorAxis(8, True).comms(work, cut, "F") if c.kind == "all_gather"]
    assert gathered == [("q_up", 2 * 4096 * 1536), ("kv_up", 2 * 4096 * 512), ("fc1", 2 * 4096 * 7168)]
