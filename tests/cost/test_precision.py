"""Matmuls in fp8 and fp4: faster, less what casting and scales cost; nothing else changes."""

from collections.abc import Callable

import pytest

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.matmul import matmul_seconds
from parsim.cost.rates import layer_rates_of, rates_of
from parsim.cost.segments import Kernel
from parsim.plan import Kind, Op, Slot, straight
from parsim.spec import Run, load_gpu

MakeRun = Callable[..., Run]
FP8 = {"h100-80g-sxm": 0.55, "b200-180g-sxm": 0.49, "gb200-nvl72": 0.48, "gb300-nvl72": 0.58}


def kernels(run: Run, kind: Kind) -> dict[str, float]:
    """Seconds of the kernels of an op by name, of all layers."""
    (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, kind, 0)))
    found: dict[str, float] = {}
    for block in blocks:
        for segment in block:
            if isinstance(segment, Kernel):
                found[segment.name] = found.get(segment.name, 0.0) + segment.seconds
    return found


@pytest.mark.parametrize("gpu", FP8)
def test_visible_efficiency_of_fp8_matmuls(make_run: MakeRun, gpu: str) -> None:
    """8192^3 with casts, as a share of the fp8 peak."""
    run = make_run(gpu=gpu, precision="mxfp8" if gpu != "h100-80g-sxm" else "fp8-current-scaling")
    rates, size = layer_rates_of(run, FITTED), 8192
    cast = size**2 * (1 + FITTED.cast_weights / run.microbatches)
    reached = 2 * size**3 / matmul_seconds(size, size, size, rates, FITTED, cast=cast) / rates.peak_flops_per_s
    assert rates.peak_flops_per_s == load_gpu(gpu).flops_per_s["fp8"]
    assert reached == pytest.approx(FP8[gpu], abs=0.025)


@pytest.mark.parametrize("kind", [Kind.F, Kind.I, Kind.W])
def test_only_the_layers_matmuls_change(make_run: MakeRun, kind: Kind) -> None:
    wide, narrow = (kernels(make_run(precision=dtype, micro_batch_size=4), kind) for dtype in ("bf16", "fp8"))
    assert wide.keys() - {"host"} == narrow.keys() - {"host"}
    for name, seconds in wide.items():
        if name.split("_")[0] in ("qkv", "proj", "fc1", "fc2"):
            assert narrow[name] < 0.85 * seconds
        elif name != "host":
            assert narrow[name] == seconds


def test_scales_of_rows_and_blocks_cost_more(make_run: MakeRun) -> None:
    """Row-wise scales eat all of the gain; blocks of 128 a good part of it."""
    total = {
        dtype: sum(
            seconds
            for name, seconds in kernels(make_run(precision=dtype, micro_batch_size=8), Kind.F).items()
            if name in ("qkv", "proj", "fc1", "fc2")
        )
        for dtype in ("bf16", "fp8-tensorwise", "fp8-blockwise", "fp8-rowwise")
    }
    assert total["fp8-tensorwise"] < total["fp8-blockwise"] < total["bf16"] < total["fp8-rowwise"]


def test_weights_are_cast_once_a_step(make_run: MakeRun) -> None:
    few, many = (kernels(make_run(precision="fp8", microbatches=m), Kind.F)["fc1"] for m in (1, 64))
    weights, layers = 4096 * 2 * 14336, 8
    saved = layers * FITTED.cast_passes * 3 * FITTED.cast_weights * weights * (1 - 1 / 64) / 3.35e12
    assert few - many == pytest.approx(saved)


def test_fp4_is_faster_still_on_blackwell(make_run: MakeRun) -> None:
    runs = [make_run(gpu="gb300-nvl72", precision=dtype, micro_batch_size=8) for dtype in ("bf16", "mxfp8", "nvfp4")]
    times = [kernels(run, Kind.F)["fc1"] for run in runs]
    assert times == sorted(times, reverse=True)
    assert rates_of(runs[2], FITTED).peak_flops_per_s == load_gpu("gb300-nvl72").flops_per_s["bf16"]
