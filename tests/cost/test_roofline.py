"""The roofline's contracts: what holds for every GPU, every dense model and every layout it prices."""

import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.segments import Collective, Kernel
from parsim.errors import ScheduleError
from parsim.network.estimate import estimate
from parsim.network.groups import axis_groups
from parsim.plan import Kind, Op, Placement, Slot, looped, mirrored, straight
from parsim.spec import MlaSpec, ModelSpec, MoeSpec, Run, catalogue, load_gpu, load_model

MakeRun = Callable[..., Run]
PASSES = (Kind.F, Kind.B, Kind.I, Kind.W)


def op(stage: int, kind: Kind) -> Slot:
    return Slot(Op(stage, kind, 0 if kind in PASSES else None))


def seconds(cost: RooflineCost, stage: int, kind: Kind) -> float:
    return cost.seconds(op(stage, kind))


def kernel_seconds(cost: RooflineCost, kind: Kind, *, without: tuple[str, ...] = ()) -> float:
    blocks = cost.segments(op(0, kind))[0]
    return sum(s.seconds for b in blocks for s in b if isinstance(s, Kernel) and s.name not in without)


def step(cost: RooflineCost, microbatches: int) -> float:
    """A step of one rank without a pipeline."""
    once = seconds(cost, 0, Kind.REDUCE_GRAD) + seconds(cost, 0, Kind.STEP)
    return microbatches * (seconds(cost, 0, Kind.F) + seconds(cost, 0, Kind.B)) + once


@pytest.mark.parametrize("gpu", catalogue.names("gpus"))
@pytest.mark.parametrize("name", catalogue.names("models"))
def test_times_are_positive_and_finite(make_run: MakeRun, gpu: str, name: str) -> None:
    known = [*load_gpu(gpu).efficiency.attention, "unfused"]
    run = make_run(model=load_model(name), gpu=gpu, sequence=1024, mesh={"dp": 8}, software={"attention": known[0]})
    cost = RooflineCost(run, straight(1))
    for kind in (*PASSES, Kind.STEP):
        assert 0 < seconds(cost, 0, kind) < math.inf
    assert 0 <= seconds(cost, 0, Kind.REDUCE_GRAD) < math.inf
    for kind in (*PASSES, Kind.STEP, Kind.REDUCE_GRAD):
        exposed = cost.exposed_seconds(op(0, kind))
        assert all(0 <= value <= seconds(cost, 0, kind) * (1 + 1e-12) for value in exposed.values())


def faster(run: Run, what: str, factor: float = 2.0) -> Run:
    """The run on GPUs and links with one rate multiplied."""
    node = run.cluster.node
    if what == "nic":
        node = node.model_copy(update={"nic_bytes_per_s": node.nic_bytes_per_s * factor})
    else:
        gpu = node.gpu
        changes: dict[str, Any] = {
            "flops": {"flops_per_s": {dtype: rate * factor for dtype, rate in gpu.flops_per_s.items()}},
            "hbm": {"hbm_bytes_per_s": gpu.hbm_bytes_per_s * factor},
            "nvlink": {"nvlink_bytes_per_s": gpu.nvlink_bytes_per_s * factor},
        }[what]
        node = node.model_copy(update={"gpu": gpu.model_copy(update=changes)})
    return run.model_copy(update={"cluster": run.cluster.model_copy(update={"node": node})})


EXPERTS = ModelSpec(
    name="experts",
    layers=8,
    hidden=4096,
    heads=32,
    ffn=8192,
    vocab=32000,
    moe=MoeSpec(experts=64, topk=4, expert_ffn=1536, shared_ffn=1536, dense_layers=1),
    mla=MlaSpec(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128),
    mtp_layers=1,
)

LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor": {"mesh": {"tp": 8, "dp": 2}},
    "sequence": {"mesh": {"tp": 8, "dp": 2}, "sequence_parallel": True},
    "zero-1": {"mesh": {"dp": 16}, "zero": 1},
    "set-of-8": {"mesh": {"dp": 16}, "zero": 1, "zero_group": 8},
    "fsdp": {"mesh": {"dp": 16}, "zero": 3, "fsdp": True},
    "fsdp-tensor": {"mesh": {"tp": 2, "dp": 8}, "zero": 3, "fsdp": True},
    "zero-2": {"mesh": {"dp": 16}, "zero": 2},
    "fsdp-sets": {"mesh": {"dp": 16}, "zero": 3, "fsdp": True, "zero_group": 8},
    "ring": {"mesh": {"tp": 2, "cp": 4, "dp": 2}},
    "ulysses": {"mesh": {"cp": 4, "dp": 4}, "cp_comm": "a2a"},
    "gathered": {"mesh": {"tp": 8, "cp": 2}, "cp_comm": "allgather"},
    "fsdp-ring": {"mesh": {"cp": 2, "dp": 8}, "zero": 3, "fsdp": True, "recompute": "full"},
    "fp8": {"mesh": {"tp": 2, "dp": 8}, "precision": "fp8-current-scaling"},
    "modules": {"mesh": {"dp": 16}, "recompute": {"mode": "selective", "modules": ("layernorm", "mlp", "core_attn")}},
    "experts": {"model": EXPERTS, "mesh": {"dp": 16}, "ep": 8, "zero": 1},
    "experts-nodes": {"model": EXPERTS, "mesh": {"dp": 16}, "ep": 16, "software": {"moe_dispatcher": "deepep"}},
    "experts-cut": {"model": EXPERTS, "mesh": {"tp": 4, "dp": 4}, "ep": 4, "expert_tp": 2, "sequence_parallel": True},
    "experts-gathered": {"model": EXPERTS, "mesh": {"dp": 16}, "ep": 4, "software": {"moe_dispatcher": "allgather"}},
    "experts-hidden": {"model": EXPERTS, "mesh": {"dp": 16}, "ep": 8, "software": {"ep_overlap": True}},
    "experts-fsdp": {"model": EXPERTS, "mesh": {"dp": 16}, "ep": 4, "zero": 3, "fsdp": True},
    "kept": {"mesh": {"dp": 16}, "zero": 2, "fsdp": True, "reshard_after_forward": False},
    "full": {"mesh": {"tp": 2, "dp": 8}, "recompute": "full"},
    "core": {"mesh": {"tp": 2, "dp": 8}, "recompute": "selective"},
    "eager": {"mesh": {"dp": 16}, "software": {"ops": "eager", "dp_overlap": False}},
    "unfused": {"mesh": {"tp": 8, "dp": 2}, "software": {"attention": "unfused", "hidden_dropout": 0.1}},
    "overlapped": {
        "mesh": {"tp": 8, "dp": 2},
        "sequence_parallel": True,
        "software": {"tp_overlap": "te_userbuffers"},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", ["flops", "hbm", "nvlink", "nic"])
def test_a_faster_rate_never_slows_a_step(make_run: MakeRun, layout: str, what: str) -> None:
    run = make_run(**LAYOUTS[layout])
    before, after = (step(RooflineCost(r, straight(1)), 8) for r in (run, faster(run, what)))
    assert after <= before
    if what in ("flops", "hbm"):
        assert after < before


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "fsdp" not in name and name not in ("kept", "zero-2")])
def test_a_backward_is_its_input_and_weight_gradients(make_run: MakeRun, layout: str) -> None:
    cost = RooflineCost(make_run(**LAYOUTS[layout]), straight(1))
    both = seconds(cost, 0, Kind.I) + seconds(cost, 0, Kind.W)
    assert seconds(cost, 0, Kind.B) == pytest.approx(both, rel=1e-12)


@pytest.mark.parametrize("kind", PASSES)
def test_tensor_parallelism_cuts_compute(make_run: MakeRun, kind: Kind) -> None:
    times = [
        kernel_seconds(RooflineCost(make_run(mesh={"tp": tp}), straight(1)), kind, without=("host", "loop"))
        for tp in (1, 2, 4, 8)
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > 3 * times[3]


def test_sequence_parallelism_cuts_norms_and_trades_no_forward_traffic(make_run: MakeRun) -> None:
    plain, cut = (
        RooflineCost(make_run(mesh={"tp": 8}, sequence_parallel=flag, micro_batch_size=4), straight(1))
        for flag in (False, True)
    )
    assert kernel_seconds(cut, Kind.F) < kernel_seconds(plain, Kind.F)


def test_overlapping_tensor_parallelism_shows_less(make_run: MakeRun) -> None:
    shown = {}
    for overlap in ("none", "te_userbuffers", "async_tp"):
        run = make_run(mesh={"tp": 8}, sequence_parallel=True, micro_batch_size=4, software={"tp_overlap": overlap})
        cost = RooflineCost(run, straight(1))
        shown[overlap] = cost.exposed_seconds(op(0, Kind.F))["tp"] + cost.exposed_seconds(op(0, Kind.B))["tp"]
    assert shown["te_userbuffers"] < shown["async_tp"] < shown["none"]


def test_recomputation_runs_the_forward_again_in_the_backward(make_run: MakeRun) -> None:
    """Full: B grows by F of the layers (the paper's third of a step); selective: by the attention core."""
    layout = {"mesh": {"tp": 2}, "micro_batch_size": 4, "software": {"cuda_graphs": "full"}}
    none, core, half, full = (
        RooflineCost(make_run(**layout, recompute=mode), straight(1))
        for mode in ("none", "selective", {"mode": "full", "layers": 4}, "full")
    )
    forward = kernel_seconds(none, Kind.F, without=("loop", "embedding", "head", "loss"))
    grown = [seconds(cost, 0, Kind.I) - seconds(none, 0, Kind.I) for cost in (core, half, full)]
    shown = none.exposed_seconds(op(0, Kind.F))["tp"]
    tensor = axis_groups(none.run.cluster, none.run.layout.mesh, "tp").reach
    embedding = estimate("all_reduce", 2 * 4 * 2048 * 4096, tensor).seconds
    assert grown[2] == pytest.approx(forward + shown - embedding, rel=1e-6)
    assert grown[1] == pytest.approx(grown[2] / 2, rel=1e-9)
    assert 0 < grown[0] < grown[1]
    for cost in (core, half, full):
        assert seconds(cost, 0, Kind.F) == seconds(none, 0, Kind.F)
        assert seconds(cost, 0, Kind.W) == seconds(none, 0, Kind.W)


def test_stages_share_the_layers_and_the_ends_pay_for_embedding_and_head(make_run: MakeRun) -> None:
    whole = RooflineCost(make_run(), straight(1))
    cut = RooflineCost(make_run(mesh={"pp": 4}), straight(4))
    for kind in PASSES:
        names = [[s.name for b in cut.segments(op(stage, kind))[0] for s in b] for stage in range(4)]  # type: ignore[union-attr]
        loops = 3 * whole.constants.microbatch_s / 2 if kind is not Kind.W else 0.0
        total = sum(seconds(cut, stage, kind) for stage in range(4))
        assert total == pytest.approx(seconds(whole, 0, kind) + loops)
        assert any("head" in name for name in names[3])
        assert not any("head" in name for stage in (0, 1, 2) for name in names[stage])
    assert seconds(cut, 3, Kind.F) > seconds(cut, 0, Kind.F) > seconds(cut, 1, Kind.F)


def test_recomputed_layers_are_those_of_the_ranks_first_stages(make_run: MakeRun) -> None:
    run = make_run(mesh={"pp": 2}, stages_per_rank=2, schedule="interleaved", recompute={"mode": "full", "layers": 3})
    cost = RooflineCost(run, looped(2, 2))
    plain = RooflineCost(make_run(mesh={"pp": 2}, stages_per_rank=2, schedule="interleaved"), looped(2, 2))
    grown = [seconds(cost, stage, Kind.I) - seconds(plain, stage, Kind.I) for stage in range(4)]
    assert grown[0] == pytest.approx(2 * grown[2])
    assert grown[0] > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_overlapped_pair_lies_between_the_longer_and_the_sum(make_run: MakeRun, layout: str) -> None:
    cost = RooflineCost(make_run(**LAYOUTS[layout]), straight(1))
    pair = cost.seconds(Slot(Op(0, Kind.F, 1), Op(0, Kind.B, 0)))
    alone = seconds(cost, 0, Kind.F), seconds(cost, 0, Kind.B)
    assert max(alone) <= pair <= sum(alone) * (1 + 1e-12)
    if layout in ("tensor", "sequence"):
        assert pair < sum(alone) - 0.5 * cost.exposed_seconds(op(0, Kind.F))["tp"]


def test_messages_cost_what_their_link_costs(make_run: MakeRun) -> None:
    """2 s b h bytes at a share of the NIC across nodes, of NVLink inside, and a call; nothing on one rank."""
    size = 2 * 2048 * 4096
    near, far = (RooflineCost(make_run(mesh={"dp": dp, "pp": 4}), straight(4)) for dp in (2, 8))
    assert near.hop_seconds(0, 1) == pytest.approx(size / (FITTED.message_nvlink * 450e9) + FITTED.message_s)
    assert (
        far.hop_seconds(0, 1)
        == far.hop_seconds(2, 1)
        == pytest.approx(size / (FITTED.message_nic * 50e9) + FITTED.message_s)
    )
    vee = Placement(((0, 1, 2, 3),), (0, 1, 1, 0), (0, 1, 2, 3))
    assert RooflineCost(make_run(mesh={"pp": 2}), vee).hop_seconds(1, 2) == 0.0
    cut = RooflineCost(make_run(mesh={"tp": 8, "pp": 4}, sequence_parallel=True), straight(4))
    assert cut.hop_seconds(0, 1) == pytest.approx(size / 8 / (FITTED.message_nic * 50e9) + FITTED.message_s)


def test_words_of_four_bytes_travel_and_load_as_such(make_run: MakeRun) -> None:
    short, long = (
        RooflineCost(make_run(mesh={"tp": 2, "pp": 2}, gpu="local-cpu", precision=p), straight(2))
        for p in ("bf16", "fp32")
    )
    latency = short.constants.message_s
    assert long.hop_seconds(0, 1) - latency == pytest.approx(2 * (short.hop_seconds(0, 1) - latency))
    sizes = [
        sum(s.size_bytes for b in c.segments(op(0, Kind.F))[0] for s in b if isinstance(s, Collective))
        for c in (short, long)
    ]
    assert sizes[1] == 2 * sizes[0] > 0


def test_a_short_benchmark_on_hopper_is_not_throttled(make_run: MakeRun) -> None:
    for gpu, quicker in (("h100-80g-sxm", True), ("a100-80g-sxm", False)):
        times = [
            seconds(RooflineCost(make_run(gpu=gpu, software={"throttled": flag}), straight(1)), 0, Kind.F)
            for flag in (True, False)
        ]
        assert (times[1] < times[0]) == quicker


def test_copies_of_a_part_are_reduced_together(make_run: MakeRun) -> None:
    """DualPipe holds each part on two ranks: a reduction over twice as many ranks, even without data parallelism."""
    run = make_run(mesh={"pp": 4}, software={"dp_overlap": False}, split="even")
    one, both = RooflineCost(run, straight(4)), RooflineCost(run, mirrored(4))
    assert one.exposed_seconds(op(1, Kind.STEP))["dp"] == 0
    assert both.exposed_seconds(op(1, Kind.STEP))["dp"] > 0


def test_only_compute_ops_have_segments(make_run: MakeRun) -> None:
    cost = RooflineCost(make_run(), straight(1))
    with pytest.raises(ScheduleError, match="0STEP has no segments"):
        cost.segments(op(0, Kind.STEP))
    assert cost.seconds(Slot(Op(0, Kind.SEND_F, 0))) == 0.0


def test_evidence_names_every_constant(make_run: MakeRun) -> None:
    cost = RooflineCost(make_run(), straight(1))
    evidence = cost.evidence
    assert evidence["constants.wave_weight"] == "fitted"
    assert evidence["constants.pair_contention"] == "assumed"
    assert set(evidence.values()) <= {"datasheet", "fitted", "calibrated", "assumed"}


def test_a_large_run_is_priced_in_no_time(make_run: MakeRun) -> None:
    """All 128 stages of an interleaved 405B run on 16,384 GPUs: 16 ms where this was written; 300 here is slack."""
    run = make_run(
        model=load_model("llama3-405b"),
        mesh={"tp": 8, "dp": 128, "pp": 16},
        sequence_parallel=True,
        schedule="interleaved",
        stages_per_rank=8,
        split="ends_one_fewer",
        microbatches=16,
    )
    start = time.process_time()
    cost = RooflineCost(run, looped(16, 8))
    total = sum(cost.seconds(op(stage, kind)) for stage in range(128) for kind in (*PASSES, Kind.STEP))
    assert time.process_time() - start < 0.3
    assert math.isfinite(total)


def test_unit_costs_import_no_specifications() -> None:
    code = "import sys; from parsim.cost import UnitCost; sys.exit(bool({'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
