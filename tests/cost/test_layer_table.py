"""Layer tables: a measured kernel goes before the roofline's where shape and dtype are the same, and only there."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.cli import run as parsim
from parsim.cost import LayerTable, MeasuredCost, RooflineCost, layer_table_from_document
from parsim.cost.layer_table import KernelShape
from parsim.cost.segments import Kernel
from parsim.errors import SpecError
from parsim.plan import Kind, Op, Slot
from parsim.run_plan import plan_of
from parsim.simulation import simulate
from parsim.spec import MlaSpec, ModelSpec, MoeSpec, Run, load_run

from .conftest import SMALL, MakeRun

MATMUL = {"name": "matmul", "rows": 2048, "inner": 4096, "cols": 6144, "dtype": "bf16", "seconds": 0.5}
ATTENTION = {
    "name": "attention",
    "batch": 1,
    "seq": 2048,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "dtype": "bf16",
    "which": "F",
    "seconds": 0.25,
}
NORM = {"name": "norm", "elements": 2048 * 4096, "dtype": "bf16", "which": "B", "seconds": 0.125}


def table(*rows: Any, gpu: object = "h100-80g-sxm", **fields: Any) -> dict[str, Any]:
    return {"schema_version": "1.0", "gpu": gpu, "kernels": list(rows), **fields}


def cost_of(run: Run, *rows: Any) -> RooflineCost:
    layers = layer_table_from_document(table(*rows)) if rows else None
    return RooflineCost(run, plan_of(run).placement, layers=layers)


def kernels(cost: RooflineCost, kind: Kind) -> dict[str, float]:
    """Seconds of every kernel by name, over all stages."""
    return {
        segment.name: segment.seconds
        for stage in range(cost.placement.stages)
        for blocks in cost.segments(Slot(Op(stage, kind, 0)))
        for block in blocks
        for segment in block
        if isinstance(segment, Kernel) and segment.name not in ("host", "loop")
    }


@pytest.mark.parametrize(
    ("row", "kind", "names"),
    [
        (MATMUL, Kind.F, {"qkv"}),
        ({**MATMUL, "inner": 6144, "cols": 4096}, Kind.I, {"qkv_input"}),
        ({**MATMUL, "rows": 4096, "inner": 2048}, Kind.W, {"qkv_weight"}),
        ({**MATMUL, "cols": 128256}, Kind.F, {"head"}),
        (ATTENTION, Kind.F, {"attention"}),
        ({**ATTENTION, "which": "B"}, Kind.I, {"attention_input"}),
        ({**ATTENTION, "context": 2048, "value_dim": 128, "window": 4096}, Kind.F, {"attention"}),
        (NORM, Kind.I, {"attention_norm_input", "mlp_norm_input"}),
        ({**NORM, "name": "activation", "elements": 2048 * 14336 * 3}, Kind.I, {"activation_input"}),
        ({**NORM, "name": "embedding"}, Kind.W, {"embedding_weight"}),
    ],
)
def test_the_very_shape_is_replaced_and_nothing_else(
    make_run: MakeRun, row: dict[str, Any], kind: Kind, names: set[str]
) -> None:
    run = make_run()
    before, after = (kernels(cost_of(run, *rows), kind) for rows in ((), (row,)))
    assert {name for name in before if before[name] != after[name]} == names
    assert {after[name] for name in names} == {row["seconds"]}
    assert cost_of(run, row).evidence.items() >= {f"layers.{name}": "calibrated" for name in names}.items()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 2047},
        {"rows": 4096},
        {"dtype": "fp16"},
        {"dtype": "fp8"},
        {"experts": 8},
        {"inner": 6144, "cols": 4096},
    ],
)
def test_another_shape_changes_no_forward(make_run: MakeRun, change: dict[str, Any]) -> None:
    run = make_run()
    assert kernels(cost_of(run, {**MATMUL, **change}), Kind.F) == kernels(cost_of(run), Kind.F)


def test_axes_cut_the_shapes_that_are_looked_up(make_run: MakeRun) -> None:
    cut = make_run({"tp": 4, "cp": 2}, sequence_parallel=True)
    rows = (
        {**MATMUL, "rows": 1024, "cols": 1536},
        {**ATTENTION, "seq": 1024, "context": 2048, "heads": 8, "kv_heads": 2},
        {**NORM, "elements": 256 * 4096, "which": "F"},
    )
    after = kernels(cost_of(cut, *rows), Kind.F)
    assert (after["qkv"], after["attention"], after["mlp_norm"]) == (0.5, 0.25, 0.125)


def test_fp8_is_its_own_dtype_and_casts_stay(make_run: MakeRun) -> None:
    run = make_run(precision="fp8-delayed-scaling")
    row = {**MATMUL, "dtype": "fp8-delayed-scaling"}
    measured = kernels(cost_of(run, row, ATTENTION, {**MATMUL, "cols": 128256}), Kind.F)
    assert 0.5 < measured["qkv"] < 0.5 + kernels(cost_of(run), Kind.F)["qkv"]
    assert (measured["attention"], measured["head"]) == (0.25, 0.5)  # bf16 outside the layers' matmuls


def test_experts_and_latent_heads(make_run: MakeRun) -> None:
    moe = MoeSpec(experts=16, topk=2, expert_ffn=1024)
    mla = MlaSpec(q_rank=512, kv_rank=256, nope_dim=128, rope_dim=64, value_dim=128)
    plain = {"name": "m", "layers": 2, "hidden": 2048, "heads": 16, "kv_heads": 16, "ffn": 8192, "vocab": 32000}
    run = make_run({"dp": 4}, ModelSpec(**plain, head_dim=192, moe=moe, mla=mla), ep=4)
    shapes = {shape.name: shape.row() for shape in cost_of(run).kernel_shapes if shape.name != "matmul"}
    assert shapes["attention"].items() >= {"heads": 16, "kv_heads": 16, "head_dim": 192, "value_dim": 128}.items()
    # 4096 routed tokens of each of 4 ranks go to 16 experts, 4 of them here.
    grouped = {**MATMUL, "rows": 1024, "inner": 2048, "cols": 2048, "experts": 4}
    assert kernels(cost_of(run, grouped), Kind.F)["expert_fc1"] == 0.5


@pytest.mark.parametrize("name", ["llama3-70b-64", "tiny-local"])
def test_every_kernel_of_a_run_can_be_measured(name: str) -> None:
    run = load_run(name)
    placement = plan_of(run).placement
    plain = RooflineCost(run, placement)
    shapes = plain.kernel_shapes
    assert len(shapes) == len(set(shapes)) > 10
    rows = [{**shape.row(), "seconds": 1.0} for shape in shapes]
    layers = layer_table_from_document(json.loads(json.dumps(table(*rows, gpu=run.cluster.node.gpu.name))))
    assert set(layers.seconds) == set(shapes)  # what is written is what is looked up
    measured = RooflineCost(run, placement, layers=layers)
    assert f"{len(shapes)} of the run's {len(shapes)} kernel shapes are measured" in measured.notes[0]
    assert "roofline" not in measured.notes[0]
    assert "fit none" not in measured.notes[0]


@given(st.floats(1.01, 100.0))
def test_a_slower_kernel_slows_the_step(factor: float) -> None:
    run = load_run("tiny-local")
    shape = next(s for s in RooflineCost(run, plan_of(run).placement).kernel_shapes if s.name == "matmul")
    gpu = run.cluster.node.gpu.name
    slow, slower = (
        simulate(run, layers=LayerTable(gpu, {shape: seconds})).step_time_s for seconds in (0.01, 0.01 * factor)
    )
    assert simulate(run).step_time_s < slow < slower


def test_what_was_found_is_said(make_run: MakeRun) -> None:
    run = make_run()
    rows = (MATMUL, {**MATMUL, "rows": 3})
    result = simulate(run, layers=layer_table_from_document(table(*rows)))
    (note,) = (line for line in result.warnings if line.startswith("layer table"))
    count = len(cost_of(run).kernel_shapes)
    assert note.startswith(
        f"layer table: 1 of the run's {count} kernel shapes are measured, 1 of the table's 2 fit none"
    )
    assert "by the roofline: " in note
    assert note.endswith("more")
    assert result.evidence["calibrated"] == ["layers.qkv"]
    assert "layers.qkv" not in json.dumps(simulate(run).document())
    assert result.waterfall.hardware_flops == simulate(run).waterfall.hardware_flops
    assert math.isclose(sum(result.exposed_s.values()) + result.compute_s, result.step_time_s)


def test_evidence_does_not_wait_for_prices(make_run: MakeRun) -> None:
    early, late = (cost_of(make_run({"pp": 2}), MATMUL, ATTENTION) for _ in range(2))
    for kind in (Kind.F, Kind.B):
        late.seconds(Slot(Op(0, kind, 0)))
    assert early.evidence == late.evidence
    assert early.notes == late.notes


def test_kernels_faster_than_the_peak_are_played_too(make_run: MakeRun) -> None:
    run = make_run()
    rows = [{**shape.row(), "seconds": 1e-12} for shape in cost_of(run).kernel_shapes]
    fast = simulate(run, layers=layer_table_from_document(table(*rows)))
    assert 0 < fast.step_time_s < simulate(run).step_time_s
    assert math.isfinite(fast.waterfall.document()[0]["seconds"])


def test_contention_plays_measured_kernels(make_run: MakeRun) -> None:
    run = make_run({"tp": 2}, ModelSpec(**{**SMALL.model_dump(exclude={"mla", "moe"}), "layers": 1}))
    layers = layer_table_from_document(table({**MATMUL, "cols": 3072, "seconds": 0.5}))
    assert simulate(run, layers=layers, contention=True).step_time_s > 8 * 0.5


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "must be an object"),
        ({}, 'has no "kernels"'),
        ({"kind": "cost", "ops": {}}, "calibrate --kernels"),
        ({"kernels": [MATMUL], "gpu": "x"}, "schema_version 'None'"),
        (table(MATMUL, schema_version="2.0"), "reads 1.x"),
        (table(MATMUL, gpu=None), '"gpu" must name'),
        (table(MATMUL, gpu=" "), '"gpu" must name'),
        (table(), "at least one measured kernel"),
        (table(kernels={"a": 1}), "at least one measured kernel"),
        (table(3), r"kernels\[0\] must be an object"),
        (table({**MATMUL, "name": "gemm"}), "'gemm' is not one of matmul, attention, norm"),
        (table({**MATMUL, "name": ["matmul"]}), "is not one of matmul"),
        (table({**MATMUL, "seconds": -1}), r"kernels\[0\].seconds -1 is negative"),
        (table({**MATMUL, "seconds": float("nan")}), "'nan' is not a finite number"),
        (table({**MATMUL, "seconds": float("inf")}), "'inf' is not a finite number"),
        (table({**MATMUL, "seconds": "1 ms"}), "'1 ms' is not a finite number"),
        (table({**MATMUL, "seconds": True}), "'True' is not a finite number"),
        (table({**MATMUL, "seconds": 0}), "seconds 0: must be more than 0"),
        (table({key: MATMUL[key] for key in MATMUL if key != "cols"}), "cols 'None' is not a finite number"),
        (table({**MATMUL, "rows": 0}), "rows 0: must be more than 0"),
        (table({**MATMUL, "k": 3}), r"kernels\[0\].k is not a field of matmul; it has name, rows"),
        (table({**MATMUL, "dtype": "int8"}), "dtype 'int8' is not one of fp64, fp32"),
        (table({**MATMUL, "dtype": ["bf16"]}), "is not one of fp64"),
        (table({**ATTENTION, "which": "I"}), "which 'I' is not F .forward. or B"),
        (table({**NORM, "which": None}), "which 'None' is not F"),
        (
            table(MATMUL, NORM, {**MATMUL, "seconds": 1}),
            r"kernels\[2\] has the shape of kernels\[0\] .matmul.; keep one",
        ),
        (table(ATTENTION, {**ATTENTION, "context": 2048}), r"kernels\[1\] has the shape of kernels\[0\]"),
    ],
)
def test_ugly_tables_are_refused(document: object, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        layer_table_from_document(document)
    assert len(str(caught.value).splitlines()) == 1


def test_tables_of_another_gpu_and_measured_costs_are_refused(make_run: MakeRun) -> None:
    layers = layer_table_from_document(table(MATMUL, gpu="a100-80g-sxm"))
    with pytest.raises(SpecError, match="measured on a100-80g-sxm, the run has h100-80g-sxm; measure on that GPU"):
        simulate(make_run(), layers=layers)
    run = load_run("tiny-local")
    measured = MeasuredCost(plan_of(run).placement, {"F": (1.0,) * 4, "B": (1.0,) * 4}, 0.0)
    own = LayerTable(run.cluster.node.gpu.name, {KernelShape("matmul", (), "fp32"): 1.0})
    with pytest.raises(SpecError, match="hold their kernels already"):
        simulate(run, cost=measured, layers=own)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run("tiny-local")
    shape = next(s for s in RooflineCost(run, plan_of(run).placement).kernel_shapes if s.name == "matmul")
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table({**shape.row(), "seconds": 0.5}, gpu=run.cluster.node.gpu.name)))
    assert parsim(["simulate", "tiny-local", "--layers", str(path), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["step_time_s"] > 0.5
    assert any("kernel shapes are measured" in line for line in document["warnings"])
    assert any(name.startswith("layers.") for name in document["evidence"]["calibrated"])
    for text, message in (
        ("{", "not JSON"),
        (json.dumps(table(MATMUL)), "measured on h100-80g-sxm, the run has local-cpu"),
        (json.dumps(table(gpu="local-cpu")), "table.json: layer table: "),
    ):
        path.write_text(text)
        assert parsim(["simulate", "tiny-local", "--layers", str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
    assert parsim(["simulate", "tiny-local", "--layers", str(tmp_path / "none.json")]) == 2
    assert "no such layer table" in capsys.readouterr().err
