"""A whole step: what must hold for every prediction, closed forms, published figures, noise, ugly runs."""

import json
import math
from typing import Any

import pytest

from parsim.axes.mesh import coordinates
from parsim.cost.roofline import RooflineCost
from parsim.errors import LayoutError, ParsimError, ScheduleError, SpecError
from parsim.plan import Kind, Op, Slot, add_gradient_reduction, add_optimizer_step, parse_csv, write_csv
from parsim.schedules import build, get, names
from parsim.simulation import simulate
from parsim.spec import Run, load_run, run_from_document
from parsim.step_result import StepResult

SMALL = {"name": "small", "layers": 16, "hidden": 2048, "heads": 16, "kv_heads": 8, "ffn": 8192, "vocab": 32000}


def make_run(
    cluster: str | dict[str, Any] = "dgx-h100",
    model: str | dict[str, Any] | None = None,
    sequence: int = 2048,
    microbatches: int = 8,
    software: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None,
    **layout: Any,
) -> Run:
    dp = layout.get("mesh", {}).get("dp", 1)
    batch = microbatches * layout.get("micro_batch_size", 1) * dp
    document = {
        "model": SMALL if model is None else model,
        "cluster": cluster,
        "layout": layout,
        "batch": {"sequence_length": sequence, "global_batch_size": batch},
        "software": software or {},
        "network": network or {},
    }
    return run_from_document(document)


def step(**run: Any) -> float:
    return simulate(make_run(**run)).step_time_s


def check_result(result: StepResult) -> dict[str, Any]:
    """What holds for every result; returns its document."""
    total = result.compute_s + sum(result.exposed_s.values())
    assert total == pytest.approx(result.step_time_s, rel=1e-12)
    assert result.compute_s >= 0
    assert all(seconds >= -1e-12 * result.step_time_s for seconds in result.exposed_s.values()), result.exposed_s
    for row in result.rows:
        assert row.busy_s + row.idle_s == pytest.approx(max(result.step_times_s[0], result.step_time_s), rel=1e-9)
        assert row.busy_s > 0
        assert row.idle_s >= 0
    document = result.document()
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    run, seconds = result.run, result.step_time_s
    tokens = run.batch.global_batch_size * run.batch.sequence_length
    assert document["tokens_per_s"] * seconds == pytest.approx(tokens)
    assert document["tokens_per_s_per_gpu"] * seconds * run.ranks == pytest.approx(tokens)
    assert document["model_tflops_per_gpu"] * 1e12 * run.ranks * seconds == pytest.approx(result.model_flops)
    peak = run.cluster.node.gpu.peak_flops_per_s(run.layout.precision)
    assert document["mfu"] == pytest.approx(document["model_tflops_per_gpu"] * 1e12 / peak)
    assert document["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in document["per_rank"])
    for row in document["per_rank"]:
        assert sum(row["memory_by_category"].values()) == pytest.approx(row["peak_memory_bytes"])
    return document


LAYOUTS: list[dict[str, Any]] = [{"mesh": {"pp": 4}, "schedule": name} for name in names()]
LAYOUTS += [
    {"mesh": {"tp": 2, "dp": 2, "pp": 2}, "zero": 1, "sequence_parallel": True},
    {"mesh": {"dp": 8}, "zero": 3, "fsdp": True, "recompute": "full"},
    {"mesh": {"tp": 8, "dp": 4, "pp": 2}, "schedule": "interleaved", "stages_per_rank": 4, "zero": 1},
    {"mesh": {}, "microbatches": 1},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_result_adds_up_and_engines_agree(layout: dict[str, Any]) -> None:
    run = make_run(**layout)
    clean = simulate(run)
    assert check_result(clean) == check_result(simulate(run, engine="events"))
    assert 0 < clean.mfu < 1
    noisy = {engine: simulate(run, engine=engine, jitter=0.1, seed=3, every_rank=True) for engine in ("path", "events")}
    assert check_result(noisy["path"]) == check_result(noisy["events"])


def test_the_rows_of_every_rank_repeat_their_pipeline_rank() -> None:
    run = make_run(mesh={"tp": 2, "dp": 3, "pp": 4}, cluster={"name": "dgx-h100", "nodes": 3})
    folded, unfolded = simulate(run), simulate(run, every_rank=True)
    assert (folded.lanes, unfolded.lanes) == (1, 3)
    assert [row.rank for row in unfolded.rows] == list(range(24))
    assert unfolded.step_time_s == folded.step_time_s
    for row in unfolded.rows:
        twin = folded.rows[row.pipeline_rank]
        assert coordinates(run.layout.mesh, row.rank or 0).pp == row.pipeline_rank
        assert (row.busy_s, row.idle_s) == pytest.approx((twin.busy_s, twin.idle_s), rel=1e-12)


@pytest.mark.parametrize("slow", [0, 7, 13, 23])
def test_a_slow_rank_slows_its_own_ops_and_the_step(slow: int) -> None:
    """Busy time grows by the factor on the slow rank's tp group, and nowhere else."""
    run = make_run(mesh={"tp": 2, "dp": 3, "pp": 4}, cluster={"name": "dgx-h100", "nodes": 3})
    clean, slowed = simulate(run, every_rank=True), simulate(run, every_rank=True, slow_ranks={slow: 1.5})
    check_result(slowed)
    assert slowed.step_time_s > clean.step_time_s
    for before, after in zip(clean.rows, slowed.rows, strict=True):
        factor = 1.5 if (after.rank or 0) // 2 == slow // 2 else 1.0
        assert after.busy_s == pytest.approx(factor * before.busy_s, rel=1e-12)
    at = coordinates(run.layout.mesh, slow).pp
    longer = {
        span.rank
        for span, base in zip(slowed.timeline.spans, clean.timeline.spans, strict=True)
        if span.end_s - span.start_s > (base.end_s - base.start_s) * (1 + 1e-6)
    }
    assert longer == {at}  # the recording is of the lane with the slow rank


def test_one_fast_rank_does_not_speed_up_its_group() -> None:
    run = make_run(mesh={"tp": 8, "dp": 2}, cluster={"name": "dgx-h100", "nodes": 2})
    clean = simulate(run).step_time_s
    assert simulate(run, slow_ranks={0: 0.01, 9: 0.5}).step_time_s == clean
    fast = simulate(run, slow_ranks=dict.fromkeys(range(16), 0.01))
    assert fast.step_time_s < clean
    check_result(fast)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_impossible_slow_ranks(factor: float) -> None:
    with pytest.raises(SpecError, match="slow rank 1: the factor must be finite and more than 0"):
        simulate(make_run(mesh={"tp": 8}), slow_ranks={1: factor})
    with pytest.raises(SpecError, match="slow rank 8: the run has ranks 0 to 7"):
        simulate(make_run(mesh={"tp": 8}), slow_ranks={8: 1.1})
    with pytest.raises(SpecError, match="steps 0"):
        simulate(make_run(mesh={"tp": 8}), steps=0)


def test_seeds_and_steps() -> None:
    run = make_run(mesh={"dp": 2, "pp": 4})
    many = simulate(run, jitter=0.05, steps=5, seed=1)
    again = simulate(run, jitter=0.05, steps=5, seed=1)
    assert json.dumps(many.document()) == json.dumps(again.document())
    assert simulate(run, jitter=0.05, seed=2).step_time_s != simulate(run, jitter=0.05, seed=1).step_time_s
    assert simulate(run.changed(seed=1), jitter=0.05).step_time_s == simulate(run, jitter=0.05, seed=1).step_time_s
    assert len(set(many.step_times_s)) == 5
    assert many.step_time_s == sorted(many.step_times_s)[2]
    found = many.document()["steps"]
    assert found["count"] == 5
    assert found["p50_s"] == many.step_time_s
    assert found["p95_s"] == max(many.step_times_s)
    assert found["mean_s"] == pytest.approx(sum(many.step_times_s) / 5)
    assert "steps" not in simulate(run).document()


@pytest.mark.parametrize("name", [name for name in names() if get(name).name != "lookahead"])
def test_a_custom_plan_plays_as_its_schedule(name: str) -> None:
    run = make_run(mesh={"pp": 4}, schedule=name)
    plan = build(name, 4, 8)
    expected = simulate(run).step_time_s
    assert simulate(run, plan=plan).step_time_s == expected
    assert simulate(run, plan=add_optimizer_step(add_gradient_reduction(plan))).step_time_s == expected
    if plan.placement.parts == plan.placement.stages:
        read = parse_csv(write_csv(plan))
        if read.placement == plan.placement:
            assert simulate(run, plan=read).step_time_s == expected


def test_a_plan_that_does_not_fit() -> None:
    run = make_run(mesh={"pp": 4, "dp": 2})
    with pytest.raises(ScheduleError, match="has 2 pipeline ranks, the run has pp 4"):
        simulate(run, plan=build("1f1b", 2, 8))
    with pytest.raises(ScheduleError, match=r"plays 6 micro-batches, the run has 8 .* a global batch of 12 would do"):
        simulate(run, plan=build("1f1b", 4, 6))
    with pytest.raises(ParsimError, match="16 layers do not divide into 3 parts"):
        simulate(make_run(mesh={"pp": 3}))


@pytest.mark.parametrize(("pp", "microbatches"), [(1, 1), (1, 5), (2, 2), (4, 4), (4, 16), (8, 32)])
def test_1f1b_in_closed_form(pp: int, microbatches: int) -> None:
    """T = m R_max + sum of R - R_max + STEP where nothing travels and the slowest rank is the last, as its head makes
    it; 1 for pp 1: m (F + B) + STEP.
    """
    run = make_run(mesh={"pp": pp}, microbatches=microbatches, cluster="dgx-h100")
    result = simulate(run)
    cost = RooflineCost(run, result.plan.placement)
    ranks = [sum(cost.seconds(Slot(Op(r, kind, 0))) for kind in (Kind.F, Kind.B)) for r in range(pp)]
    hops = sum(2 * cost.hop_seconds(r, r + 1) for r in range(pp - 1))
    ends = [cost.seconds(Slot(Op(r, Kind.STEP))) for r in range(pp)]
    path = microbatches * ranks[-1] + sum(ranks[:-1]) + hops
    assert max(ranks) == ranks[-1]
    assert (path + min(ends)) * cost.straggler <= result.step_time_s * (1 + 1e-9)
    assert result.step_time_s == pytest.approx((path + ends[0]) * cost.straggler, rel=1e-9)


def test_more_of_anything_costs_more() -> None:
    base: dict[str, Any] = {"mesh": {"dp": 2, "pp": 2}, "zero": 1}
    assert step(**base, model={**SMALL, "hidden": 4096}) > step(**base)
    assert step(**base, model={**SMALL, "layers": 32}) > step(**base)
    assert step(**base, sequence=4096) > step(**base)
    assert step(**base, microbatches=16) > step(**base)
    assert step(**base, recompute="full") > step(**base)


@pytest.mark.parametrize(
    "layout",
    [{"zero": 0}, {"zero": 1}, {"zero": 3, "fsdp": True}, {"zero": 1, "mesh": {"tp": 8, "dp": 2, "pp": 4}}],
    ids=str,
)
@pytest.mark.parametrize("overlap", [False, True])
def test_a_faster_network_is_never_slower(layout: dict[str, Any], overlap: bool) -> None:
    times = [
        step(**{"mesh": {"dp": 32}, **layout}, network={"nic_gbps_per_gpu": rate}, software={"dp_overlap": overlap})
        for rate in (1e-6, 10.0, 100.0, 400.0, 3200.0)
    ]
    assert times == sorted(times, reverse=True)
    assert all(math.isfinite(time) for time in times)


@pytest.mark.parametrize("zero", [0, 1])
def test_data_parallelism_adds_only_communication(zero: int) -> None:
    """At equal work per rank the rest of the step is the same; cut optimizer states can only shrink it."""
    small, large = (simulate(make_run(mesh={"dp": dp}, zero=zero)) for dp in (1, 32))
    assert large.compute_s == pytest.approx(small.compute_s, rel=1e-9)
    assert large.exposed_s["optimizer"] <= small.exposed_s["optimizer"] * (1 + 1e-9)
    assert large.exposed_s["dp"] > small.exposed_s["dp"] == 0
    assert large.step_time_s >= small.step_time_s - small.exposed_s["optimizer"]


def test_tensor_parallelism_saves_memory() -> None:
    peaks = [simulate(make_run(mesh={"tp": tp})).peak_memory_bytes for tp in (1, 2, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4


def test_recomputed_layers_are_counted_by_rank() -> None:
    """Time and memory agree: of a rank's 8 layers in 2 stages, more recomputed ones cost time and save memory."""
    shape: dict[str, Any] = {"mesh": {"pp": 2}, "schedule": "interleaved", "stages_per_rank": 2}
    found = [simulate(make_run(**shape, recompute={"mode": "full", "layers": n})) for n in (0, 2, 4, 6, 8, None)]
    times, peaks = [result.step_time_s for result in found], [result.peak_memory_bytes for result in found]
    assert times == sorted(times)
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(times)) == len(set(peaks)) == 5


@pytest.mark.parametrize(("compiled", "gib"), [(False, 82.4), (True, 77.0)])
def test_selective_recomputation_of_llama3_8b_in_torchtitan(compiled: bool, gib: float) -> None:
    """torchtitan's report of December 2024 (benchmarks/llama3_h100_202412_torchtitan.md): the memory
    reserved on 8 H100 of 96 GB, FSDP, batch 2 of 8,192 tokens, selective op recomputation.
    """
    run = make_run(
        cluster="meta-h100-96g",
        model="llama3-8b",
        sequence=8192,
        microbatches=1,
        micro_batch_size=2,
        mesh={"dp": 8},
        zero=3,
        fsdp=True,
        recompute={"mode": "selective", "modules": ["every_second_matmul"]},
        software={"framework": "torchtitan", "ops": "compiled" if compiled else "eager"},
    )
    assert simulate(run).peak_reserved_bytes / 2**30 == pytest.approx(gib, rel=0.02)


def test_llama3_405b_reaches_its_published_rate() -> None:
    """Llama 3 (2407.21783), table 4: 400 TFLOP/s a GPU on 16,384 H100, 41 % MFU."""
    result = simulate(load_run("llama3-405b-16k"))
    check_result(result)
    assert result.model_tflops_per_gpu == pytest.approx(400, rel=0.06)


@pytest.mark.parametrize(("dp", "seconds"), [(4, 40.0), (8, 21.2), (12, 15.2), (16, 11.9)])
def test_gpt3_175b_takes_its_published_time(dp: int, seconds: float) -> None:
    """MegaScale (2402.15627), table 2: Megatron-LM, 175B, batch 768, on 256, 512, 768 and 1,024 GPUs."""
    result = simulate(load_run("gpt3-175b-1024", [f"layout.mesh.dp={dp}", f"cluster.nodes={8 * dp}"]))
    check_result(result)
    assert result.step_time_s == pytest.approx(seconds, rel=0.08)


UGLY: dict[str, dict[str, Any]] = {
    "gpt2 on the machine at hand": {"model": "gpt2", "cluster": "local-cpu", "precision": "fp32", "sequence": 8},
    "one token": {"sequence": 1},
    "one token, one micro-batch, pipeline": {"sequence": 1, "microbatches": 1, "mesh": {"pp": 4}},
    "one word": {"model": {**SMALL, "vocab": 1}},
    "tied, one word, unpadded": {
        "model": {**SMALL, "vocab": 1, "tied_embeddings": True},
        "software": {"vocab_pad_multiple": None},
        "mesh": {"pp": 4},
    },
    "the smallest model": {
        "model": {"name": "dot", "layers": 1, "hidden": 1, "heads": 1, "ffn": 1, "vocab": 1},
        "sequence": 1,
        "microbatches": 1,
    },
    "one layer a stage": {"model": {**SMALL, "layers": 8}, "mesh": {"pp": 8}, "microbatches": 1},
    "stages without layers": {
        "model": {**SMALL, "layers": 2},
        "mesh": {"pp": 4},
        "split": [0, 1, 1, 0],
        "software": {"cuda_graphs": ["attn", "mlp"]},
    },
    "a huge batch": {"micro_batch_size": 10**6, "microbatches": 2},
    "1 kb/s": {"mesh": {"dp": 16, "pp": 2}, "network": {"nic_gbps_per_gpu": 1e-6}},
}


@pytest.mark.parametrize("engine", ["path", "events"])
@pytest.mark.parametrize("run", UGLY.values(), ids=UGLY)
def test_ugly_runs_have_finite_numbers(run: dict[str, Any], engine: Any) -> None:
    check_result(simulate(make_run(**run), engine=engine, jitter=0.02, every_rank=True))


def test_what_cannot_be_priced_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"software\.optimizer muon: .* would do"):
        simulate(make_run(mesh={"tp": 8}, offload={"optimizer": True}, software={"optimizer": "muon"}))
