"""A profiler's trace as a layer table: shapes, the kernels' seconds, and what is not taken for a kernel of the run."""

import copy
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cli import run as parsim
from parsim.cost import RooflineCost
from parsim.cost.profiler_trace import layer_table_from_trace
from parsim.errors import SpecError
from parsim.plan import straight
from parsim.simulation import simulate
from parsim.spec import run_from_document

H100 = {"id": 0, "name": "NVIDIA H100 80GB HBM3", "totalGlobalMem": 85045149696}
RUN = run_from_document(
    {
        "model": {"name": "m", "layers": 2, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 32000},
        "cluster": {"name": "dgx-h100", "nodes": 1},
        "layout": {"mesh": {"tp": 2}},
        "batch": {"sequence_length": 2048, "global_batch_size": 2},
    }
)


def op(identity: int, name: str, dims: list[Any], concrete: list[str], dtype: str = "c10::BFloat16") -> dict[str, Any]:
    types = [dtype if dim else "Scalar" for dim in dims]
    args = {"External id": identity, "Input Dims": dims, "Input type": types, "Concrete Inputs": concrete}
    return {"ph": "X", "cat": "cpu_op", "name": name, "ts": 1.0, "dur": 9.0, "args": args}


def kernel(identity: int, micros: float) -> dict[str, Any]:
    args = {"External id": identity, "correlation": identity, "device": 0, "stream": 7}
    return {"ph": "X", "cat": "kernel", "name": "nvjet", "ts": 2.0, "dur": micros, "args": args}


@dataclass
class Recorded:
    """Events and what stands before them, as a file's are read."""

    events: list[Any]
    header: Mapping[str, Any]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.events)


def trace(*events: dict[str, Any], devices: Any = (H100,)) -> Recorded:
    return Recorded([{"ph": "M"}, *events], {"deviceProperties": list(devices)})


QKV = op(1, "aten::mm", [[2048, 4096], [4096, 3072]], ["", ""])
WGRAD = op(2, "aten::mm", [[3072, 2048], [2048, 4096]], ["", ""])
CORE = op(
    3,
    "aten::_scaled_dot_product_cudnn_attention",
    [[1, 16, 2048, 128], [1, 4, 2048, 128], [1, 4, 2048, 128], [], [], [], []],
    ["", "", "", "", "True", "0.", "True"],
)
KERNELS = (kernel(1, 100.0), kernel(2, 110.0), kernel(3, 60.0), kernel(3, 20.0))


def seconds(table: Any, **sides: float) -> float | None:
    for shape, found in table.seconds.items():
        if all(dict(shape.lengths).get(name) == value for name, value in sides.items()):
            return float(found)
    return None


def test_ops_last_as_long_as_their_kernels() -> None:
    table = layer_table_from_trace(trace(QKV, WGRAD, CORE, *KERNELS))
    assert table.gpu == "h100-80g-sxm"
    assert seconds(table, rows=2048, inner=4096, cols=3072) == pytest.approx(100e-6)
    assert seconds(table, rows=3072, inner=2048, cols=4096) == pytest.approx(110e-6)
    assert seconds(table, rows=4096, inner=2048, cols=3072) == pytest.approx(110e-6)  # as the table has it
    assert seconds(table, heads=16, kv_heads=4, head_dim=128) == pytest.approx(80e-6)


def test_shapes_are_those_of_the_run() -> None:
    table = layer_table_from_trace(trace(QKV, WGRAD, CORE, *KERNELS))
    wanted = RooflineCost(RUN, straight(1)).kernel_shapes
    names = sorted(shape.name for shape in table.seconds if shape in wanted)
    assert names == ["attention", "matmul", "matmul"]
    usual, measured = simulate(RUN), simulate(RUN, layers=table)
    assert measured.step_time_s != usual.step_time_s
    assert {"layers.attention", "layers.qkv", "layers.qkv_weight"} <= set(measured.evidence["calibrated"])


def test_of_several_the_median_counts() -> None:
    again = [{**copy.deepcopy(QKV), "args": {**QKV["args"], "External id": i}} for i in (11, 12, 13)]
    table = layer_table_from_trace(trace(*again, kernel(11, 5.0), kernel(12, 900.0), kernel(13, 7.0)))
    assert seconds(table, rows=2048, inner=4096, cols=3072) == pytest.approx(7e-6)


def test_experts_and_narrow_types() -> None:
    grouped = op(1, "aten::_grouped_mm", [[8192, 4096], [8, 4096, 1024], [8]], ["", "", ""])
    narrow = op(2, "aten::_scaled_mm", [[64, 32], [32, 16], [], []], [""] * 4, "c10::Float8_e4m3fn")
    table = layer_table_from_trace(trace(grouped, narrow, kernel(1, 10.0), kernel(2, 20.0)))
    assert seconds(table, rows=1024, inner=4096, cols=1024, experts=8) == pytest.approx(10e-6)
    assert {shape.dtype for shape in table.seconds} == {"bf16", "fp8"}


def test_what_is_not_told_apart_is_left_out() -> None:
    """Attention without a mask, ops that launched nothing, other ops, operands of two types."""
    full = copy.deepcopy(CORE)
    full["args"]["Concrete Inputs"][6] = "False"
    mixed = copy.deepcopy(QKV)
    mixed["args"]["Input type"] = ["float", "c10::BFloat16"]
    silent = op(9, "aten::mm", [[8, 8], [8, 8]], ["", ""])
    other = op(4, "aten::add", [[8, 8], [8, 8]], ["", ""])
    table = layer_table_from_trace(trace(WGRAD, full, mixed, silent, other, *KERNELS, kernel(4, 5.0)))
    assert {shape.name for shape in table.seconds} == {"matmul"}
    assert len(table.seconds) == 2  # and its transposed one


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (trace(), "record_shapes=True"),
        (trace(QKV, kernel(1, 5.0), devices=[{"name": "Quadro 4000"}]), "recorded on 'Quadro 4000'"),
        (trace(QKV, kernel(1, 5.0), devices=[]), "no device"),
    ],
)
def test_what_is_no_trace_of_a_run_is_refused(document: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        layer_table_from_trace(document)


@pytest.mark.parametrize(
    ("device", "size", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", 42_297_786_368, "a100-40g-sxm"),
        ("NVIDIA A100-SXM4-80GB", 84_974_239_744, "a100-80g-sxm"),
        ("NVIDIA GB200", 198_000_000_000, "gb200-nvl72"),
        ("AMD Instinct MI300X", 206_141_652_992, "mi300x"),
    ],
)
def test_devices_are_those_of_the_catalogue(device: str, size: int, name: str) -> None:
    devices = [{"name": device, "totalGlobalMem": size}]
    assert layer_table_from_trace(trace(QKV, kernel(1, 5.0), devices=devices)).gpu == name


FIELDS = ["cat", "name", "args", "dur", "Input Dims", "Input type", "External id"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS), inner),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values)), json_values)
def test_nothing_that_parses_breaks_it(events: list[Any], devices: Any) -> None:
    with pytest.raises(SpecError):
        layer_table_from_trace(Recorded([QKV, kernel(1, 5.0), *events], {"deviceProperties": devices}))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = {"schemaVersion": 1, "deviceProperties": [H100], "traceEvents": [QKV, kernel(1, 5.0)]}
    for name, opened in (("trace.json", open), ("trace.json.gz", gzip.open)):
        path = tmp_path / name
        with opened(path, "wt") as stream:
            json.dump(document, stream)
        assert parsim(["simulate", "tiny-local", "--layers", str(path)]) == 2
        assert "measured on h100-80g-sxm, the run has local-cpu" in capsys.readouterr().err
    assert parsim(["simulate", "tiny-local", "--layers", str(tmp_path / "none.json")]) == 2
    assert "no such layer table" in capsys.readouterr().err
