"""Experts, low precision and the size of a job in numbers: dispatches, active weights, FLOP of a token budget."""

from itertools import pairwise
from typing import Any

import pytest

from parsim.axes.mesh import EXPERT_AXES, expert_groups
from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.matmul import matmul_seconds
from parsim.cost.rates import layer_rates_of, rates_of
from parsim.cost.run_axes import axes_of
from parsim.cost.segments import Collective
from parsim.errors import LayoutError
from parsim.model.flops import matmul_flops
from parsim.model.layer import LayerKind, layer_work
from parsim.model.weights import active_parameters, parameters
from parsim.network.groups import axis_groups
from parsim.network.price import ring_bytes
from parsim.plan import Kind, Op, Slot, straight
from parsim.simulation import simulate
from parsim.spec import Mesh, ModelSpec, MoeSpec, Run, load_cluster, load_gpu, load_model, run_from_document

WIDE = {"name": "wide", "layers": 4, "hidden": 7168, "heads": 64, "kv_heads": 8, "ffn": 18432, "vocab": 32000}
WIDE |= {"moe": {"experts": 256, "topk": 8, "expert_ffn": 2048}}
CARDS = {  # billions of parameters, in all and met by a token, as the model cards say
    "mixtral-8x7b": (46.7, 12.9),
    "mixtral-8x22b": (141, 39),
    "qwen3-30b-a3b": (30.5, 3.3),
    "qwen3-235b-a22b": (235, 22),
    "deepseek-v2": (236, 21),
    "deepseek-v3": (671, 37),
}


def run_of(model: Any, mesh: dict[str, int], sequence: int = 4096, batch: int = 1, **layout: Any) -> Run:
    ranks = mesh.get("tp", 1) * mesh.get("cp", 1) * mesh.get("dp", 1) * mesh.get("pp", 1)
    return run_from_document(
        {
            "model": model,
            "cluster": {"name": layout.pop("cluster", "dgx-h100"), "nodes": layout.pop("nodes", -(-ranks // 8))},
            "layout": {"mesh": mesh, **layout},
            "batch": {"sequence_length": sequence, "global_batch_size": batch * mesh.get("dp", 1)},
        }
    )


@pytest.mark.parametrize(("tp", "cp", "dp", "ep"), [(1, 1, 8, 8), (1, 1, 32, 8), (2, 2, 8, 8), (1, 2, 16, 32)])
def test_row_29_experts_are_reduced_over_fewer_ranks(tp: int, cp: int, dp: int, ep: int) -> None:
    """DP/EP of them: the factor is one, and nothing is reduced, only where ep takes all ranks."""
    run = run_of(WIDE, {"tp": tp, "cp": cp, "dp": dp}, ep=ep, sequence_parallel=True)
    assert run.expert_dp == tp * cp * dp // ep
    axis = axes_of(run).expert_data
    assert axis is not None
    assert axis.degree == run.expert_dp
    reduced = axis.reduction(1e9, scattered=False)
    assert ring_bytes(reduced.kind, reduced.size_bytes, axis.degree) == pytest.approx(8e9 * (1 - ep / (tp * cp * dp)))


def test_row_30_a_dispatch_and_its_three_like() -> None:
    """T k h 2 (ep-1)/ep bytes: 4,096 tokens, k 8, h 7,168, ep 64 are 462 MB; four of them a layer and step."""
    run = run_of(WIDE, {"dp": 64}, ep=64)
    axes = axes_of(run)
    assert axes.expert is not None
    sizes, work = axes.sizes(run), layer_work(run.model, LayerKind(experts=True))
    forward, backward = (axes.expert.comms(work, sizes, which) for which in ("F", "I"))  # type: ignore[arg-type]
    assert axes.expert.comms(work, sizes, "W") == ()
    megabytes = [ring_bytes(comm.kind, comm.size_bytes, 64) / 1e6 for comm in (*forward, *backward)]
    assert [round(size) for size in megabytes] == [462] * 4
    (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, Kind.F, 0)))
    found = [s for block in blocks for s in block if isinstance(s, Collective) and s.axis == "ep"]
    assert [(s.kind, s.group) for s in found] == [("all_to_all", 64)] * 2 * run.model.layers


def test_row_31_what_is_computed_follows_k_and_what_is_stored_follows_the_experts() -> None:
    def model(experts: int, topk: int) -> ModelSpec:
        moe = MoeSpec(experts=experts, topk=topk, expert_ffn=2048)
        return ModelSpec(name="m", layers=4, hidden=1024, heads=8, ffn=1, vocab=8192, moe=moe)

    flops = [matmul_flops(model(64, k), 2048, 1) for k in (1, 2, 4, 8)]
    stored = [parameters(model(64, k)) for k in (1, 2, 4, 8)]
    assert len(set(stored)) == 1
    each = 6 * 2048 * 4 * 3 * 1024 * 2048
    assert [b - a for a, b in pairwise(flops)] == pytest.approx([each, 2 * each, 4 * each])
    more = model(128, 8)
    assert matmul_flops(more, 2048, 1) == pytest.approx(flops[-1], rel=0.01)  # a wider router
    assert parameters(more) > 1.9 * stored[-1]
    assert active_parameters(more) < 1.01 * active_parameters(model(64, 8))


@pytest.mark.parametrize("name", CARDS)
def test_row_35_parameters_are_the_model_cards(name: str) -> None:
    model, (total, active) = load_model(name), CARDS[name]
    assert parameters(model) / 1e9 == pytest.approx(total, rel=0.003)
    assert active_parameters(model) / 1e9 == pytest.approx(active, rel=0.02)


def test_row_35_one_of_many_two_of_eight_and_fine_ones_with_a_shared_one() -> None:
    """Switch routes to one, Mixtral to 2 of 8, DeepSeek-V3 to 8 of 256 beside a shared expert: a token meets them."""
    mixtral, deepseek = load_model("mixtral-8x7b").moe, load_model("deepseek-v3").moe
    assert mixtral is not None
    assert deepseek is not None
    assert (mixtral.topk, mixtral.experts, mixtral.shared_ffn) == (2, 8, 0)
    assert (deepseek.topk, deepseek.experts, deepseek.shared_ffn) == (8, 256, deepseek.expert_ffn)
    switch = ModelSpec(
        name="switch", layers=2, hidden=512, heads=8, ffn=2048, vocab=8192, gated_mlp=False,
        moe=MoeSpec(experts=64, topk=1, expert_ffn=2048),
    )  # fmt: skip
    dense = switch.model_copy(update={"moe": None})
    router = 2 * 64 * 512
    assert active_parameters(switch) == parameters(dense) + router


@pytest.mark.parametrize("expert_tp", [1, 2])
def test_row_36_a_world_of_two_views(expert_tp: int) -> None:
    """tp 2, cp 2, dp 8, pp 2: 32 ranks are expert_tp * ep * expert_dp; what does not divide is named."""
    layout = {"ep": 8, "expert_tp": expert_tp, "sequence_parallel": True}
    run = run_of(WIDE, {"tp": 2, "cp": 2, "dp": 8, "pp": 2}, **layout)
    assert run.expert_dp * run.layout.ep * run.layout.expert_tp == 2 * 2 * 8
    degrees = [len(expert_groups(run.layout.mesh, 8, expert_tp, axis)[0]) for axis in EXPERT_AXES]
    assert degrees == [expert_tp, 8, 4 // expert_tp]
    with pytest.raises(LayoutError, match=r"ep 64 \* expert_tp 1: must divide dp \* cp \* tp = 32; ep 32 would do"):
        run_of(WIDE, {"tp": 2, "cp": 2, "dp": 8, "pp": 2}, ep=64, sequence_parallel=True)


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "nvfp4"])
def test_row_45_narrow_types_speed_up_matmuls_alone(precision: str) -> None:
    """Twice the peak is never twice the speed end to end: attention, norms, head and casts stay."""
    cluster = "dgx-b200"
    narrow, wide = (
        run_of("llama3-70b", {"tp": 8}, 8192, 4, cluster=cluster, sequence_parallel=True, precision=p)
        for p in (precision, "bf16")
    )
    gain = simulate(wide).step_time_s / simulate(narrow).step_time_s
    rates = layer_rates_of(narrow, FITTED), rates_of(narrow, FITTED)
    peaks = rates[0].peak_flops_per_s * rates[0].matmul / (rates[1].peak_flops_per_s * rates[1].matmul)
    assert 1 < gain < min(2.0, peaks)
    assert rates[1] == rates_of(wide, FITTED)


def test_row_45_small_matmuls_do_not_gain() -> None:
    """Casts and launches are paid whatever the size: below some hundred rows fp8 is slower than bf16."""
    run = run_of("llama3-8b", {}, precision="fp8")
    narrow, wide = layer_rates_of(run, FITTED), rates_of(run, FITTED)

    def gain(size: int) -> float:
        slow = matmul_seconds(size, size, size, wide, FITTED)
        return slow / matmul_seconds(size, size, size, narrow, FITTED, cast=1.5 * size * size)

    gains = [gain(size) for size in (256, 1024, 4096, 16384)]
    assert gains == sorted(gains)
    assert gains[0] < 1 < gains[-1] < 2


def test_row_49_six_n_d() -> None:
    """A model's matmul FLOP are 6 N a token, N without what is looked up: within a hundredth for all dense presets."""
    for name in ("gpt3-13b", "gpt3-175b", "llama3-8b", "llama3-70b", "llama3-405b"):
        model = load_model(name)
        met = parameters(model) - model.vocab * model.hidden * (not model.tied_embeddings)
        assert matmul_flops(model, 2048, 1) / 2048 == pytest.approx(6 * met, rel=0.01), name


def test_row_50_compute_of_70_billion_and_15_trillion() -> None:
    """6.3e24 FLOP are 4.42 million hours of an H100 at 40% of its peak."""
    model = load_model("llama3-70b")
    flops = matmul_flops(model, 8192, 1) / 8192 * 15e12
    assert flops == pytest.approx(6.3e24, rel=0.01)
    peak = load_gpu("h100-80g-sxm").peak_flops_per_s("bf16")
    assert flops / (0.4 * peak) / 3600 == pytest.approx(4.42e6, rel=0.01)


@pytest.mark.parametrize(("name", "gigabytes", "teraflops"), [("a100-80g-sxm", 80, 312), ("h100-80g-sxm", 80, 989)])
def test_row_51_devices(name: str, gigabytes: float, teraflops: float) -> None:
    gpu = load_gpu(name)
    assert gpu.memory_bytes / 2**30 == pytest.approx(gigabytes, rel=0.01)
    assert gpu.peak_flops_per_s("bf16") == teraflops * 1e12


def test_row_51_a_tpu_on_its_torus() -> None:
    """v5p: 459 TFLOP/s, 95 GiB, six links of 100 GB/s, of which a ring along one dimension has two."""
    cluster = load_cluster("tpu-v5p").model_copy(update={"nodes": 64})
    chip = cluster.node.gpu
    assert (chip.memory_bytes, chip.peak_flops_per_s("bf16")) == (95 * 2**30, 459e12)
    along = axis_groups(cluster, Mesh(tp=4, dp=16), "tp")
    assert along.document()["across_bytes_per_s"] == pytest.approx(200e9)
    run = run_of("llama2-7b", {"tp": 4, "dp": 16}, cluster="tpu-v5p", nodes=64, sequence_parallel=True, fsdp=True)
    result = simulate(run)
    assert 0.2 < (result.mfu or 0.0) < 0.6
    assert "gpu.efficiency" in result.evidence["assumed"]
    with pytest.raises(LayoutError, match=r"tpu-v5p multiplies bf16"):
        run_of("llama2-7b", {"dp": 64}, cluster="tpu-v5p", nodes=64, precision="fp8")


def test_row_53_prediction_layers_are_counted_once_more() -> None:
    """A layer, a projection and a use of the head: about 1/61 of DeepSeek-V3's layers, and its head again."""
    model = load_model("deepseek-v3")
    plain = model.model_copy(update={"mtp_layers": 0})
    gained = matmul_flops(model, 4096, 1) - matmul_flops(plain, 4096, 1)
    deeper = plain.model_copy(update={"layers": plain.layers + 1})
    layer = matmul_flops(deeper, 4096, 1) - matmul_flops(plain, 4096, 1)
    head = 6 * 4096 * model.hidden * model.vocab
    assert gained == pytest.approx(layer + head + 6 * 4096 * 2 * model.hidden**2, rel=1e-9)
