"""Kernels of a run, measured alone: every row that can be played has its seconds, and the table is one that is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from executor.calibrate import kernel_section
from executor.device import open_device
from executor.job import job_of
from executor.kernels import measure_kernels
from parsim.cli import run as parsim
from parsim.cost import RooflineCost, layer_table_from_document
from parsim.errors import SpecError
from parsim.run_plan import plan_of
from parsim.simulation import simulate
from parsim.spec import load_run

SMALL: dict[str, Any] = {"name": "matmul", "rows": 16, "inner": 8, "cols": 4, "dtype": "fp32"}
HEADS: dict[str, Any] = {"name": "attention", "batch": 2, "seq": 16, "heads": 4, "kv_heads": 2, "head_dim": 8}


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "tf32", "bf16"])
def test_matmuls_and_attention_are_played(dtype: str) -> None:
    rows = [{**SMALL, "dtype": dtype}, *({**HEADS, "dtype": dtype, "which": which} for which in "FB")]
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    measured = measure_kernels(rows, open_device("cpu", 0), repetitions=3)
    assert [{key: row[key] for key in row if key != "seconds"} for row in measured] == rows
    assert all(row["seconds"] > 0 for row in measured)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


@pytest.mark.parametrize(
    "row",
    [
        {"name": "norm", "elements": 64, "dtype": "fp32", "which": "F"},
        {**SMALL, "experts": 4},
        {**SMALL, "rows": 2.5},
        {**SMALL, "dtype": "mxfp8"},
        {**HEADS, "dtype": "fp32", "which": "F", "window": 4},
        {**HEADS, "dtype": "fp32", "which": "F", "context": 32},
    ],
)
def test_what_cannot_be_played_is_left_out(row: dict[str, Any]) -> None:
    assert measure_kernels([row], open_device("cpu", 0)) == []


def test_a_cost_file_with_kernels_is_a_layer_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = load_run("tiny-local")
    job = job_of(run, plan_of(run), steps=1)
    document = json.loads(json.dumps({"schema_version": "1.0", "kind": "cost", "ops": {}, **kernel_section(job)}))
    layers = layer_table_from_document(document)
    shapes = RooflineCost(run, plan_of(run).placement).kernel_shapes
    assert set(layers.seconds) == {shape for shape in shapes if shape.name in ("matmul", "attention")}
    assert "fit none" not in simulate(run, layers=layers).warnings[0]
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(document))
    assert parsim(["simulate", "tiny-local", "--layers", str(path)]) == 0
    assert "kernel shapes are measured" in capsys.readouterr().out.replace("\n", " ")


def test_kernels_measured_on_cuda_need_the_name_of_the_gpu() -> None:
    run = load_run("tiny-local")
    with pytest.raises(SpecError, match="name the GPU"):
        kernel_section(job_of(run, plan_of(run), steps=1, device="cuda"))
