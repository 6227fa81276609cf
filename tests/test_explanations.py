"""Explanations: the waterfall adds up and moves as its causes do, the slowest stage and its reasons, MFU and HFU."""

import json
import math
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cli import run_app
from parsim.cli.commands import app
from parsim.comparison import compare_results
from parsim.cost import MeasuredCost, RooflineCost
from parsim.errors import SpecError
from parsim.explanation.budget import budget_of, gpu_hours_at
from parsim.explanation.waterfall import CAUSES
from parsim.model.flops import model_flops, part_flops
from parsim.plan import Kind
from parsim.plan.op import Op, Slot
from parsim.report.waterfall_plot import rank_bars, waterfall_plot
from parsim.simulation import simulate
from parsim.spec import Run, load_gpu, load_model, load_run
from parsim.step_result import StepResult

PLAIN = ("layout.stages_per_rank=1", "layout.schedule=1f1b")


@cache
def result_of(name: str, *overrides: str, **options: Any) -> StepResult:
    return simulate(load_run(name, overrides), **options)


def check_waterfall(result: StepResult) -> None:
    """What holds for each: it adds up on every rank, its share of ideal compute is the MFU, and only what the kernel
    skips is below zero.
    """
    step, waterfall = result.step_time_s, result.waterfall
    for causes in (waterfall.mean, *waterfall.ranks):
        assert math.fsum(causes.values()) == pytest.approx(step, rel=1e-9)
        assert all(s >= -1e-9 * step for cause, s in causes.items() if cause != "causal_skip"), causes
    document = result.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    rows = {row["cause"]: row for row in document["waterfall"]}
    assert sum(row["seconds"] for row in rows.values()) == pytest.approx(step, rel=1e-9)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1, rel=1e-9)
    assert rows["ideal_compute"]["share"] == pytest.approx(result.mfu, rel=1e-9)
    assert [*rows] == [cause for cause in CAUSES if cause in rows]
    each = document["waterfall_per_rank"]
    assert [one["pipeline_rank"] for one in each] == list(range(result.run.layout.mesh.pp))
    for cause, row in rows.items():
        seconds = [found["seconds"] for one in each for found in one["causes"] if found["cause"] == cause]
        assert row["seconds"] == pytest.approx(sum(seconds) / len(each), rel=1e-9, abs=1e-12 * step)
    for cause, seconds in result.exposed_s.items():
        assert seconds == pytest.approx(rows[cause]["seconds"], rel=1e-12, abs=1e-15)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    name=st.sampled_from(["llama3-70b-64", "gpt3-175b-1024"]),
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 4, 8]),
    schedule=st.sampled_from(["1f1b", "gpipe", "zb-h1", "interleaved", "dualpipe", "zb-v"]),
    recompute=st.sampled_from(["none", "full", "{mode: selective, modules: [core_attn]}"]),
    zero=st.sampled_from([0, 1]),
    attention=st.sampled_from(["flash2", "unfused"]),
    jitter=st.sampled_from([0.0, 0.1]),
)
def test_the_waterfall_adds_up(
    name: str, tp: int, pp: int, schedule: str, recompute: str, zero: int, attention: str, jitter: float
) -> None:
    stages = 2 if schedule in ("interleaved", "zb-v") and pp > 1 else 1
    overrides = [
        "model.layers=16",
        f"layout.mesh.tp={tp}",
        f"layout.mesh.pp={pp}",
        "layout.mesh.dp=2",
        f"cluster.nodes={max(1, tp * pp * 2 // 8)}",
        "batch.global_batch_size=32",
        "layout.micro_batch_size=1",
        f"layout.schedule={schedule if pp > 1 else '1f1b'}",
        f"layout.stages_per_rank={stages}",
        f"layout.recompute={recompute}",
        f"layout.zero={zero}",
        "layout.split=even",
        f"layout.sequence_parallel={'true' if tp > 1 else 'false'}",
        f"software.attention={attention}",
    ]
    result = simulate(load_run(name, overrides), jitter=jitter)
    check_waterfall(result)
    mean = result.waterfall.mean
    assert (mean["recompute"] > 0) == (recompute != "none")
    assert (mean["causal_skip"] < 0) == (attention == "flash2")
    assert (mean["tp"] > 0) == (tp > 1)
    if pp == 1:
        assert mean["pipeline"] == pytest.approx(0, abs=1e-9 * result.step_time_s)


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=mixtral-8x7b", *PLAIN, "layout.ep=2"),
        ("model=deepseek-v3", "layout.stages_per_rank=1", "layout.schedule=dualpipe", "layout.split=[16,15,15,15]"),
        ("layout.mesh.cp=2", "layout.mesh.dp=8"),
    ],
    ids=["experts", "latent attention, MTP, overlapped pairs", "context"],
)
def test_every_kind_of_run_has_its_waterfall_and_its_memory(overrides: tuple[str, ...]) -> None:
    result = result_of("llama3-70b-64", *overrides)
    check_waterfall(result)
    document = result.document()
    assert document["fits"] == (document["peak_device_bytes"] <= result.run.cluster.node.gpu.memory_bytes)
    assert document["peak_memory_bytes"] == max(row["peak_memory_bytes"] for row in document["per_rank"])
    assert result.timeline.memory


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("software.tp_overlap=te_userbuffers", "tp"),
        ("layout.recompute=none", "recompute"),
        ("software.ops=compiled", "memory"),
        ("network.nic_gbps_per_gpu=1e6", "dp"),
    ],
)
def test_less_of_a_cause_speeds_the_step_and_adds_to_no_other_kernel(change: str, cause: str) -> None:
    slow = ("layout.recompute=full", "software.ops=eager", "network.nic_gbps_per_gpu=100")
    before, after = result_of("llama3-70b-64", *slow), result_of("llama3-70b-64", *slow, change)
    assert after.waterfall.mean[cause] < before.waterfall.mean[cause]
    assert after.step_time_s < before.step_time_s
    for other in ("ideal_compute", "causal_skip", "matmul", "attention"):
        assert after.waterfall.mean[other] == pytest.approx(before.waterfall.mean[other], rel=1e-9)


def test_measured_times_have_kernels_nobody_knows() -> None:
    run = load_run("tiny-local")
    plan = simulate(run).plan
    ops = {"F": (0.2, 0.1, 0.1, 0.3), "B": (0.3, 0.2, 0.2, 0.5), "STEP": (0.1,) * 4}
    result = simulate(run, cost=MeasuredCost(plan.placement, ops, 0.01))
    check_waterfall(result)
    assert result.hfu is None
    assert "matmul" not in result.waterfall.mean
    m = run.microbatches
    for rank, causes in enumerate(result.waterfall.ranks):
        assert causes["ideal_compute"] + causes["kernels"] == pytest.approx(m * (ops["F"][rank] + ops["B"][rank]))
    slowest = result.slowest_stage
    assert (slowest.stage, slowest.seconds) == (3, {"F": 0.3, "B": 0.5})
    assert [(reason.part, reason.seconds) for reason in slowest.why] == [("head and loss", None)]


@pytest.mark.parametrize("name", ["llama3-70b", "mixtral-8x7b", "deepseek-v3", "gpt3-175b"])
def test_parts_of_a_model_add_up_to_its_flop(name: str) -> None:
    model = load_model(name)
    cut = model.layers // 3
    parts = [
        part_flops(model, layers, layers.stop == model.layers, 4096, 2)
        for layers in (range(cut), range(cut, model.layers - 1), range(model.layers - 1, model.layers))
    ]
    assert sum(part.matmul + part.attention for part in parts) == pytest.approx(model_flops(model, 4096, 2), rel=1e-12)


def _times(run: Run) -> list[float]:
    plan = simulate(run).plan
    cost = RooflineCost(run, plan.placement)
    return [
        sum(cost.seconds(Slot(Op(stage, kind, 0))) for kind in (Kind.F, Kind.B))
        for stage in range(plan.placement.stages)
    ]


def test_the_slowest_stage_has_the_head() -> None:
    result = result_of("llama3-70b-64", *PLAIN)
    slowest = result.slowest_stage
    assert (slowest.stage, slowest.rank, slowest.alike) == (3, 3, 1)
    assert [reason.part for reason in slowest.why] == ["head and loss"]
    times = _times(result.run)
    assert sum(slowest.seconds.values()) == pytest.approx(times[3])
    assert slowest.over_median == pytest.approx(times[3] / statistics.median(times) - 1, rel=1e-9)
    assert slowest.why[0].seconds == pytest.approx(times[3] - times[1], rel=1e-9)
    assert "head and loss" in slowest.text
    assert slowest.document()["why"][0]["part"] == "head and loss"


@pytest.mark.parametrize(
    ("overrides", "stage", "part"),
    [
        (("layout.split=[18,26,18,18]",), 1, "more layers (26, the median stage 18)"),
        (("layout.split=[17,17,17,29]", "model.vocab=64"), 3, "more layers (29, the median stage 17)"),
        (("layout.split=[21,20,20,19]", "model.vocab=64"), 0, "more layers (21, the median stage 20)"),
        (("layout.mesh.pp=1", "layout.mesh.dp=64"), 0, None),
    ],
)
def test_the_slowest_stage_and_its_reasons(overrides: tuple[str, ...], stage: int, part: str | None) -> None:
    slowest = result_of("llama3-70b-64", *PLAIN, *overrides).slowest_stage
    assert slowest.stage == stage
    assert (slowest.why[0].part if slowest.why else None) == part


def test_prediction_layers_are_a_reason() -> None:
    overrides = ("model=deepseek-v3", *PLAIN, "layout.split=[16,15,15,15]")
    slowest = result_of("llama3-70b-64", *overrides).slowest_stage
    assert slowest.stage == 3
    assert [reason.part for reason in slowest.why] == ["MTP", "head and loss"]


def test_hardware_flop_in_closed_form() -> None:
    """Of a dense model with full recomputation and attention over the square: 4/3 of the layers' share, the head once
    with its padded vocabulary; half of the attention, and 2.5 forwards in its backward, with a flash kernel.
    """
    run = ("model.vocab=128256", "software.vocab_pad_multiple=128", "layout.recompute=full")
    square = result_of("llama3-70b-64", *run, "software.attention=unfused")
    flash = result_of("llama3-70b-64", *run)
    model = load_model("llama3-70b")
    sequence, batch = square.run.batch.sequence_length, square.run.batch.global_batch_size
    all_of_it = part_flops(model, range(model.layers), True, sequence, batch)
    layers = part_flops(model, range(model.layers), False, sequence, batch)
    head = (all_of_it.matmul - layers.matmul) * (-(-128256 // 1024) * 1024) / 128256
    expected = layers.matmul * 4 / 3 + head
    assert square.waterfall.hardware_flops == pytest.approx(expected + layers.attention * 4 / 3, rel=1e-9)
    assert flash.waterfall.hardware_flops == pytest.approx(expected + layers.attention / 2 * (1 + 1 + 2.5) / 3)
    for result in (square, flash):
        assert result.hfu / result.mfu == pytest.approx(result.flops["hardware"] / result.flops["model"], rel=1e-9)
    assert square.hfu > square.mfu
    assert "full square in both" in square.flops["convention"]["hardware"]
    assert "causal half" in flash.flops["convention"]["hardware"]


def test_a_token_budget_is_plain_arithmetic() -> None:
    budget = budget_of(
        tokens=15e12,
        tokens_per_s=5e5,
        tokens_per_step=4_000_000,
        gpus=512,
        flops_per_step=1.8e18,
        active_parameters=70e9,
        dollars_per_gpu_hour=2.5,
        watts_per_gpu=700,
    )
    assert budget.days == pytest.approx(15e12 / 5e5 / 86_400)
    assert budget.gpu_hours == pytest.approx(512 * 24 * budget.days)
    assert budget.dollars == pytest.approx(2.5 * budget.gpu_hours)
    assert budget.megawatt_hours == pytest.approx(0.7 * budget.gpu_hours / 1000)
    assert budget.steps == 3_750_000
    assert budget.six_n_d == pytest.approx(6.3e24)
    assert budget.flops == pytest.approx(1.8e18 * 3_750_000)
    assert "700 W" in budget.document()["assumptions"][1]


def test_compute_of_70b_parameters_and_15t_tokens() -> None:
    """6 N D = 6.3e24 FLOP: 4.42 million GPU-hours of an H100 at 40 % of 989.4 TFLOP/s."""
    peak = load_gpu("h100-80g-sxm").peak_flops_per_s("bf16")
    assert gpu_hours_at(6 * 70e9 * 15e12, peak, 0.4) == pytest.approx(4.42e6, rel=0.002)
    with pytest.raises(SpecError, match="mfu 0: must be above 0"):
        gpu_hours_at(1e20, peak, 0)


@pytest.mark.parametrize("tokens", [0, -1, math.nan, math.inf])
def test_impossible_budgets(tokens: float) -> None:
    with pytest.raises(SpecError, match=r"--tokens .* must be above 0"):
        budget_of(tokens=tokens, tokens_per_s=1, tokens_per_step=1, gpus=1, flops_per_step=1, active_parameters=1)


def test_the_budget_of_a_run_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["simulate", "llama3-70b-64", "--tokens", "15e12", "--dollars-per-gpu-hour", "2"]
    assert run_app(app, "parsim", [*words, "--watts-per-gpu", "500", "--json", str(out)]) == 0
    shown, document = capsys.readouterr().out, json.loads(out.read_text())
    budget = document["budget"]
    assert budget["gpu_hours"] == pytest.approx(512 * 15e12 / document["tokens_per_s"] / 3600)
    assert (budget["dollars"], budget["mwh"]) == pytest.approx((2 * budget["gpu_hours"], budget["gpu_hours"] / 2000))
    assert budget["six_n_d"] == pytest.approx(6.35e24, rel=0.001)
    assert budget["flops"] > budget["six_n_d"]
    for words_shown in (
        "token budget",
        "GPU-hours",
        "500 W",
        "HFU",
        "6 N D",
        "where the step goes",
        "slowest: stage 19",
    ):
        assert words_shown in shown
    assert run_app(app, "parsim", ["simulate", "llama3-70b-64", "--watts-per-gpu", "500"]) == 2
    assert "go with --tokens" in capsys.readouterr().err


def test_the_page_has_the_waterfall_and_each_rank(tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    assert run_app(app, "parsim", ["simulate", "llama3-70b-64", "--html", str(out)]) == 0
    text = out.read_text()
    assert 'id="figure0"' in text
    assert 'id="figure1"' in text
    assert "From ideal compute to the step" in text
    assert "Slowest: stage 19 on pipeline rank 3" in text


@pytest.mark.parametrize("name", ["llama3-70b-64", "tiny-local"])
def test_bars_of_the_waterfall_stand_end_to_end(name: str) -> None:
    result = result_of(name)
    document, step = result.document(), result.step_time_s
    bars = waterfall_plot(document["waterfall"], step, CAUSES).data[0]
    assert bars.y[-1] == "step"
    scale = bars.x[-1] / step
    reached = 0.0
    rows = [row for row in document["waterfall"] if row["seconds"]]
    for row, base, length in zip(rows, bars.base[:-1], bars.x[:-1], strict=True):
        ends = (base, base + length) if row["seconds"] > 0 else (base + length, base)
        assert ends[0] == pytest.approx(reached, abs=1e-9 * step * scale)
        reached = ends[1]
    assert reached == pytest.approx(step * scale, rel=1e-9)
    stacked = rank_bars(document["waterfall_per_rank"], step)
    for rank in range(result.run.layout.mesh.pp):
        assert sum(trace.x[rank] for trace in stacked.data) == pytest.approx(step * scale, rel=1e-3)


def test_two_results_are_compared_by_their_waterfalls() -> None:
    a, b = (result_of("llama3-70b-64", f"layout.recompute={mode}").document() for mode in ("none", "full"))
    found = compare_results(a, b)
    causes = {cause.name: cause.delta for cause in found.causes}
    assert found.causes[0].name == "recompute"
    assert sum(causes.values()) == pytest.approx(found.total.delta, rel=1e-9)
    coarse = compare_results({key: value for key, value in a.items() if key != "waterfall"}, b)
    assert "compute" in {cause.name for cause in coarse.causes}
    for broken in ([{"cause": "tp"}], [{"cause": "tp", "seconds": 1.0}], 7, [7]):
        assert "compute" in {cause.name for cause in compare_results({**a, "waterfall": broken}, b).causes}


def _free(cost: RooflineCost, **constants: float) -> RooflineCost:
    return replace(cost, constants=replace(cost.constants, **constants))


@pytest.mark.parametrize(
    ("cause", "constants"),
    [
        ("host", {"host_layer_s": 0.0, "microbatch_s": 0.0}),
        ("straggler", {"straggler": 0.0}),
        ("matmul", {"matmul_bytes": 0.0, "wave_weight": 0.0}),
        ("attention", {"flash_overhead_tokens": 0.0}),
        ("memory", {"norm_passes": 0.0, "rope_passes": 0.0, "activation_passes": 0.0}),
        ("optimizer", {"optimizer_bytes": 0.0, "step_s": 0.0}),
    ],
)
@pytest.mark.parametrize("schedule", ["interleaved", "zb-h1"])
def test_removing_a_term_takes_it_from_its_cause_alone(cause: str, constants: dict[str, float], schedule: str) -> None:
    overrides = () if schedule == "interleaved" else ("layout.stages_per_rank=1", f"layout.schedule={schedule}")
    before = result_of("llama3-70b-64", *overrides)
    cost = _free(RooflineCost(before.run, before.plan.placement), **constants)
    after = simulate(before.run, cost=cost)
    check_waterfall(after)
    assert after.waterfall.mean[cause] < before.waterfall.mean[cause]
    assert after.step_time_s < before.step_time_s
    # The host covers what the GPU leaves; hiding and waiting move with what stands beside them.
    moving = {cause, "host", "pipeline", "straggler", "dp", "tp"}
    for other, seconds in before.waterfall.mean.items():
        if other not in moving:
            assert after.waterfall.mean[other] == pytest.approx(seconds, rel=1e-9)


def test_a_result_tells_active_and_all_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """Mixtral 8x7B: 46.7 billion, of which a token meets 12.9 (arXiv:2401.04088)."""
    words = ["simulate", "llama3-70b-64", "--set", "model=mixtral-8x7b"]
    assert run_app(app, "parsim", [*words, *(word for change in PLAIN for word in ("--set", change))]) == 0
    shown = capsys.readouterr().out
    assert "46.7 billion" in shown
    assert "a token meets 12.88 billion" in shown
    assert result_of("llama3-70b-64").document()["parameters"] == {"total": 70553706496, "active": 70553706496}
