"""Layers with experts, latent attention and prediction layers in time, and what hides their exchanges."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.matmul import matmul_seconds, wave_loss
from parsim.cost.rates import rates_of
from parsim.cost.run_axes import axes_of
from parsim.cost.segments import Collective, Kernel
from parsim.model.flops import matmul_flops
from parsim.model.layer import Matmul, Pass, head, layer_kind, layer_work, mtp_projection, shape
from parsim.plan import Kind, Op, Slot, mirrored, straight
from parsim.spec import MlaSpec, ModelSpec, MoeSpec, Run, Tier, load_gpu, load_model

MakeRun = Callable[..., Run]
SMALL: dict[str, Any] = {"name": "m", "layers": 8, "hidden": 4096, "heads": 32, "ffn": 8192, "vocab": 32000}
EXPERTS = ModelSpec(**SMALL, moe=MoeSpec(experts=64, topk=4, expert_ffn=1536))
QUIET = {"cuda_graphs": "full"}


def op(stage: int, kind: Kind) -> Slot:
    return Slot(Op(stage, kind, 0 if kind in (Kind.F, Kind.B, Kind.I, Kind.W) else None))


def parts(cost: RooflineCost, kind: Kind = Kind.F, stage: int = 0) -> dict[str, float]:
    """Seconds by kernel, and by axis of collectives."""
    (blocks,) = cost.segments(op(stage, kind))
    found: dict[str, float] = {}
    for block in blocks:
        for segment in block:
            name = segment.name if isinstance(segment, Kernel) else segment.axis
            found[name] = found.get(name, 0.0) + segment.seconds
    return found


def test_tiles_of_all_experts_fill_waves_together(make_run: MakeRun) -> None:
    """8 experts of 128 rows and 4,352 columns are 136 tiles: two waves of 132 SMs; each alone is one of 17."""
    assert wave_loss(128, 4352, 132, FITTED, experts=8) == pytest.approx(2 * 132 / 136)
    rates = rates_of(make_run(), FITTED)
    together = matmul_seconds(128, 4096, 4352, rates, FITTED, experts=8)
    assert together < 8 * matmul_seconds(128, 4096, 4352, rates, FITTED)
    assert together > matmul_seconds(1024, 4096, 4352, rates, FITTED)


def test_an_experts_layer_costs_its_kernels(make_run: MakeRun) -> None:
    """A router a layer; permutation and its reverse pass over the routed tokens' hidden, 2 bytes each."""
    found = parts(RooflineCost(make_run(model=EXPERTS, mesh={"dp": 8}, ep=8), straight(1)))
    assert found["routing"] == pytest.approx(8 * FITTED.router_s)
    moved = 8 * 2 * 2 * FITTED.permute_passes * 2048 * 4 * 4096 / (load_gpu("h100-80g-sxm").efficiency.hbm * 3.35e12)
    assert found["permute"] + found["unpermute"] == pytest.approx(moved)
    assert {"expert_fc1", "expert_activation", "expert_fc2", "ep"} <= found.keys()
    assert "fc1" not in found


def called(ranks: int) -> float:
    """What an exchange costs beside its bytes."""
    return FITTED.exchange_s * (1 + FITTED.exchange_rank * ranks)


def test_a_pass_of_an_exchange(make_run: MakeRun) -> None:
    """Inside a node 7/8 of 4 copies over NVLink; on 2 nodes half of them over the NIC."""
    payload = 2 * 2048 * 4096
    near = parts(RooflineCost(make_run(model=EXPERTS, mesh={"dp": 8}, ep=8), straight(1)))["ep"]
    assert near / 16 == pytest.approx(payload * 4 * 7 / 8 / (FITTED.exchange_nvlink * 450e9) + called(8))
    far = parts(RooflineCost(make_run(model=EXPERTS, mesh={"dp": 16}, ep=16), straight(1)))["ep"]
    assert far / 16 == pytest.approx(payload * 4 / 2 / (FITTED.exchange_nic * 50e9) + called(16))
    once = make_run(model=EXPERTS, mesh={"dp": 16}, ep=16, software={"moe_dispatcher": "deepep"})
    across = payload * (1 - 0.5**4) / (FITTED.exchange_nic * 50e9) + called(16)
    assert parts(RooflineCost(once, straight(1)))["ep"] / 16 == pytest.approx(across)


def test_a_domain_of_a_rack_keeps_the_exchange_inside(make_run: MakeRun) -> None:
    node, rack = (
        RooflineCost(make_run(model=EXPERTS, mesh={"dp": 32}, ep=32, gpu="gb200-nvl72", domain=domain), straight(1))
        for domain in (8, 72)
    )
    assert parts(rack)["ep"] < parts(node)["ep"] / 3


def test_overlap_hides_exchanges_behind_compute(make_run: MakeRun) -> None:
    """With ep_overlap F takes max(compute, exchanges) + 0.15 of the smaller, layer by layer."""
    layout = {"model": EXPERTS, "mesh": {"dp": 16}, "ep": 8, "micro_batch_size": 4}
    plain, hidden = (
        RooflineCost(make_run(software={**QUIET, "ep_overlap": flag}, **layout), straight(1)) for flag in (False, True)
    )
    exchanges = parts(plain)["ep"]
    assert plain.exposed_seconds(op(0, Kind.F))["ep"] == pytest.approx(exchanges)
    assert hidden.exposed_seconds(op(0, Kind.F))["ep"] == pytest.approx(0.15 * exchanges)
    assert hidden.seconds(op(0, Kind.F)) == pytest.approx(plain.seconds(op(0, Kind.F)) - 0.85 * exchanges)
    assert hidden.seconds(op(0, Kind.B)) < plain.seconds(op(0, Kind.B))


def test_a_pair_of_dualpipe_hides_them_on_one_pair_of_streams(make_run: MakeRun) -> None:
    """max(kernels of both, exchanges of both) + 0.15 of the smaller; alone, an op has nothing beside its exchanges."""
    model = ModelSpec(**SMALL, moe=MoeSpec(experts=64, topk=8, expert_ffn=2048))
    layout = {"mesh": {"pp": 4, "dp": 16}, "ep": 16, "schedule": "dualpipe", "software": {**QUIET, "ep_overlap": True}}
    cost = RooflineCost(make_run(model=model, **layout), mirrored(4))
    for kind in (Kind.F, Kind.B):
        assert cost.exposed_seconds(op(1, kind))["ep"] == pytest.approx(parts(cost, kind, 1)["ep"])
    total = [
        sum(seconds for kind in (Kind.F, Kind.B) for name, seconds in parts(cost, kind, 1).items() if pick(name))
        for pick in (lambda name: name != "ep", lambda name: name == "ep")
    ]
    pair = Slot(Op(1, Kind.F, 1), Op(1, Kind.B, 0))
    assert cost.seconds(pair) == pytest.approx(max(total) + 0.15 * min(total), rel=0.05)
    assert cost.seconds(pair) < 0.8 * sum(total)


def test_the_host_sets_the_pace_of_small_micro_batches(make_run: MakeRun) -> None:
    """4,096 tokens of a 30B-A3B layer take 8.8 ms on Blackwell, forward and backward, where the kernels need 3."""
    model = load_model("qwen3-30b-a3b")
    run = make_run(model=model, gpu="gb200-nvl72", sequence=4096, mesh={"dp": 8}, ep=8, domain=72, precision="mxfp8")
    cost = RooflineCost(run, straight(1))
    layer = [sum(parts(cost, kind).values()) - parts(cost, kind)["loop"] for kind in (Kind.F, Kind.B)]
    ends = ("head", "loss", "embedding")
    own = sum(s for kind in (Kind.F, Kind.B) for n, s in parts(cost, kind).items() if n.startswith(ends))
    host = sum(parts(cost, kind)["host"] for kind in (Kind.F, Kind.B))
    assert (sum(layer) - own) / 48 == pytest.approx(8.8e-3, rel=0.1)
    assert (sum(layer) - own - host) / 48 == pytest.approx(3e-3, rel=0.25)
    captured = make_run(
        model=model, gpu="gb200-nvl72", sequence=4096, mesh={"dp": 8}, ep=8, software={"cuda_graphs": ["moe_router"]}
    )
    assert parts(RooflineCost(captured, straight(1)))["host"] < parts(cost)["host"]


def test_stages_count_the_layers_that_they_hold(make_run: MakeRun) -> None:
    """DeepSeek-V3's first three layers are dense: they stand on the first stage, the prediction layer on the last."""
    model = load_model("deepseek-v3").model_copy(update={"layers": 8})
    layout = {"mesh": {"pp": 4, "dp": 8}, "ep": 8}
    cost = RooflineCost(make_run(model=model, **layout), straight(4))
    names = [set(parts(cost, stage=stage)) for stage in range(4)]
    assert "expert_fc1" not in names[0]
    assert {"fc1", "expert_fc1"} <= names[1]
    assert "fc1" not in names[2]
    assert "mtp_projection" in names[3]
    assert not any("mtp_projection" in stage for stage in names[:3])
    counts = [sum(isinstance(s, Kernel) and s.name == "head" for b in cost.segments(op(3, Kind.F))[0] for s in b)]
    assert counts == [2]


def test_prediction_layers_make_the_last_stage_longer(make_run: MakeRun) -> None:
    with_, without = (ModelSpec(**SMALL, mtp_layers=count) for count in (1, 0))
    one, none = (RooflineCost(make_run(model=model, software=QUIET), straight(1)) for model in (with_, without))
    layer = (none.seconds(op(0, Kind.F)) - parts(none)["head"] - parts(none)["loss"]) / 8
    grown = one.seconds(op(0, Kind.F)) - none.seconds(op(0, Kind.F))
    assert grown == pytest.approx(layer + parts(none)["head"] + parts(none)["loss"], rel=0.25)


def test_latent_attention_is_four_matmuls_and_slower_heads(make_run: MakeRun) -> None:
    """FLOP by 192 + 128 wide heads instead of twice 128, at a lower rate."""
    mla = MlaSpec(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
    latent = parts(RooflineCost(make_run(model=ModelSpec(**SMALL, mla=mla), sequence=4096), straight(1)))
    plain = parts(RooflineCost(make_run(model=ModelSpec(**SMALL), sequence=4096), straight(1)))
    assert {"down", "q_up", "kv_up", "proj"} <= latent.keys()
    assert "qkv" not in latent
    assert latent["attention"] / plain["attention"] == pytest.approx((192 + 128) / 256 / FITTED.latent_heads)
    again = make_run(
        model=ModelSpec(**SMALL, mla=mla), sequence=4096, recompute={"mode": "selective", "modules": ("mla_up_proj",)}
    )
    replayed = parts(RooflineCost(again, straight(1)), Kind.I)
    assert replayed["q_up_again"] == pytest.approx(latent["q_up"])
    assert replayed["kv_up_again"] == pytest.approx(latent["kv_up"])


def test_recomputed_experts_exchange_again(make_run: MakeRun) -> None:
    layout = {"model": EXPERTS, "mesh": {"dp": 8}, "ep": 8}
    again = make_run(recompute={"mode": "selective", "modules": ("moe",)}, **layout)
    plain, cost = RooflineCost(make_run(**layout), straight(1)), RooflineCost(again, straight(1))
    assert parts(cost, Kind.I)["ep"] == pytest.approx(2 * parts(plain, Kind.I)["ep"])
    assert parts(cost, Kind.I)["expert_fc1_again"] == pytest.approx(parts(plain)["expert_fc1"])


def test_experts_are_reduced_over_those_who_hold_the_same(make_run: MakeRun) -> None:
    """With ep over all ranks nobody else holds a rank's experts; only the rest is reduced."""
    software = {"dp_overlap": False}
    shown = [
        RooflineCost(make_run(model=EXPERTS, mesh={"dp": 16}, ep=ep, software=software), straight(1)).exposed_seconds(
            op(0, Kind.STEP)
        )["dp"]
        for ep in (1, 4, 16)
    ]
    dense = ModelSpec(**{**SMALL, "ffn": 1})
    rest = RooflineCost(make_run(model=dense, mesh={"dp": 16}, software=software), straight(1))
    assert shown == sorted(shown, reverse=True)
    assert shown[2] == pytest.approx(rest.exposed_seconds(op(0, Kind.STEP))["dp"], rel=0.05)


def test_sharded_experts_are_gathered_by_their_own_group(make_run: MakeRun) -> None:
    """FSDP: two gathers a layer, of everyone's weights over 16 ranks and of a rank's experts over 4."""
    cost = RooflineCost(make_run(model=EXPERTS, mesh={"dp": 16}, ep=4, zero=3, fsdp=True), straight(1))
    (blocks,) = cost.segments(op(0, Kind.F))
    found = [s for b in blocks for s in b if isinstance(s, Collective) and s.axis == "dp" and s.overlaps]
    assert sorted({s.group for s in found}) == [4, 16]
    experts = next(s for s in found if s.group == 4)
    assert experts.size_bytes == 2 * 3 * 16 * 4096 * 1536


MESHES = st.tuples(*(st.sampled_from([1, 2, 4]) for _ in range(5)))


@settings(max_examples=40, deadline=None)
@given(MESHES, st.booleans(), st.sampled_from(["llama3-8b", "qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b"]))
def test_flop_of_all_ranks_are_the_models(
    make_run: MakeRun, degrees: tuple[int, ...], sequence_parallel: bool, name: str
) -> None:
    """2 m n k of every pass, over all ranks: what the model needs. Without sequence parallelism tp repeats the small
    matmuls that it does not cut; experts need it, so those runs have it.
    """
    tp, cp, dp, ep, expert_tp = degrees
    model = load_model(name)
    experts = model.moe is not None
    if experts and (tp * cp * dp) % (ep * expert_tp):
        ep = expert_tp = 1
    layout = {"ep": ep, "expert_tp": expert_tp} if experts else {}
    run = make_run(
        model=model,
        mesh={"tp": tp, "cp": cp, "dp": dp},
        sequence_parallel=sequence_parallel or experts,
        software={"vocab_pad_multiple": None},
        **layout,
    )
    axes = axes_of(run)
    sizes = axes.sizes(run)
    kinds = [layer_kind(model, layer) for layer in range(model.layers + model.mtp_layers)]
    work = [item for kind in kinds for item in layer_work(model, kind)]
    work += list(head()) * (1 + model.mtp_layers) + list(mtp_projection()) * model.mtp_layers
    passes: tuple[Pass, ...] = ("F", "I", "W")
    total = 0.0
    for item in work:
        if isinstance(item, Matmul):
            here = axes.inner.region(sizes, item.inner + item.cols, item.experts)
            count = here["experts"] if item.experts else 1  # type: ignore[index]
            for which in passes:
                rows, inner, cols = shape(item, here, which)
                total += 2 * rows * inner * cols * count
    vocab = -(-model.vocab // tp) * tp
    padded = model.model_copy(update={"vocab": vocab})
    assert total * tp * cp * dp == pytest.approx(matmul_flops(padded, 2048, dp), rel=1e-9)


def test_a_blocking_fabric_slows_what_crosses_it(make_run: MakeRun) -> None:
    """An exchange of 4 nodes over a tier of 2 with 4 : 1: most pairs cross it, at a quarter of the rate."""
    run = make_run(model=EXPERTS, mesh={"dp": 32}, ep=32)
    fabric = run.cluster.fabric
    tiers = (Tier(name="leaf", nodes=2, oversubscription=4.0),)
    slow = fabric.model_copy(update={"topology": "fat_tree", "rails": 1, "tiers": tiers})
    blocked = run.model_copy(update={"cluster": run.cluster.model_copy(update={"fabric": slow})})
    open_, shut = (parts(RooflineCost(r, straight(1)))["ep"] for r in (run, blocked))
    assert 2 * open_ < shut < 4 * open_
