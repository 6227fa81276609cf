"""What is recomputed runs again in the backward: modules, some layers of a rank; windows and sinks of attention."""

from collections.abc import Callable
from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.segments import Kernel
from parsim.plan import Kind, Op, Slot, straight
from parsim.spec import ModelSpec, Run, load_gpu

MakeRun = Callable[..., Run]
MODEL: dict[str, Any] = {"name": "m", "layers": 8, "hidden": 4096, "heads": 32, "ffn": 16384, "vocab": 32000}
QUIET = {"cuda_graphs": "full"}  # no host time


def seconds(run: Run, kind: Kind) -> float:
    return RooflineCost(run, straight(1)).seconds(Slot(Op(0, kind, 0)))


def kernel(run: Run, name: str, kind: Kind = Kind.F) -> list[float]:
    (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, kind, 0)))
    return [s.seconds for b in blocks for s in b if isinstance(s, Kernel) and s.name == name]


def grown(make_run: MakeRun, *modules: str, **layout: Any) -> float:
    plain = seconds(make_run(software=QUIET, **layout), Kind.I)
    again = make_run(software=QUIET, recompute={"mode": "selective", "modules": modules}, **layout)
    assert seconds(again, Kind.F) == seconds(make_run(software=QUIET, **layout), Kind.F)
    return seconds(again, Kind.I) - plain


def test_modules_run_again(make_run: MakeRun) -> None:
    """`mlp`: both matmuls and the activation; `act`: the activation; `layernorm`: half of both norms."""
    run = make_run(software=QUIET)
    sums = {name: sum(kernel(run, name)) for name in ("fc1", "fc2", "activation", "attention_norm", "mlp_norm")}
    assert grown(make_run, "mlp") == pytest.approx(sums["fc1"] + sums["activation"] + sums["fc2"])
    assert grown(make_run, "act") == pytest.approx(sums["activation"])
    assert grown(make_run, "layernorm") == pytest.approx(0.5 * (sums["attention_norm"] + sums["mlp_norm"]))
    assert grown(make_run, "moe_act") == grown(make_run, "moe") == grown(make_run, "mla_up_proj") == 0
    assert grown(make_run, "mlp", "act") == pytest.approx(grown(make_run, "mlp"))


def test_a_recomputed_mlp_reduces_again(make_run: MakeRun) -> None:
    """With tp 8 the second matmul's all-reduce runs again."""
    layout = {"mesh": {"tp": 8}, "micro_batch_size": 8}
    quiet = make_run(software=QUIET, **layout)
    again = make_run(software=QUIET, recompute={"mode": "selective", "modules": ("mlp",)}, **layout)
    cost = [RooflineCost(run, straight(1)) for run in (quiet, again)]
    shown = [c.exposed_seconds(Slot(Op(0, Kind.I, 0)))["tp"] for c in cost]
    forward = cost[0].exposed_seconds(Slot(Op(0, Kind.F, 0)))["tp"]
    assert 0.4 * forward < shown[1] - shown[0] < 0.6 * forward


def test_some_layers_of_a_rank(make_run: MakeRun) -> None:
    every, two = (
        make_run(software=QUIET, recompute={"mode": "selective", "modules": ("mlp",), "layers": count})
        for count in (8, 2)
    )
    plain = seconds(make_run(software=QUIET), Kind.I)
    assert seconds(two, Kind.I) - plain == pytest.approx((seconds(every, Kind.I) - plain) / 4)


@pytest.mark.parametrize(("window", "share"), [(128, 2 * 128 / 4096), (1024, 0.5), (2048, 1.0), (8192, 1.0)])
def test_a_window_leaves_its_share_of_the_causal_half(make_run: MakeRun, window: int, share: float) -> None:
    """Of a sequence s a window w leaves min(1/2, w/s) of the square, in every second layer."""
    model = ModelSpec(**MODEL, sliding_window=window, sliding_window_every=2)
    cores = kernel(make_run(model=model, sequence=4096), "attention")
    assert len(cores) == 8
    assert cores[0] == pytest.approx(cores[1] * share)
    assert cores[::2] == [cores[0]] * 4
    assert cores[1::2] == [cores[1]] * 4


def test_sinks_outside_the_kernel_move_the_scores(make_run: MakeRun) -> None:
    """Passes over 2 b s^2 a bytes, at the sustained rate of HBM."""
    run, sinks = (make_run(sequence=4096, software={"attention": name}) for name in ("cudnn", "unfused_sinks"))
    scores = 2 * 4096**2 * 32 / (load_gpu("h100-80g-sxm").efficiency.hbm * 3.35e12)
    assert kernel(sinks, "attention")[0] - kernel(run, "attention")[0] == pytest.approx(
        FITTED.sinks_forward_passes * scores
    )
    both = [kernel(r, "attention_input", Kind.I)[0] for r in (run, sinks)]
    assert both[1] - both[0] == pytest.approx(FITTED.sinks_backward_passes * scores)


@pytest.mark.parametrize(
    ("gpu", "slower"),
    [("h100-80g-sxm", FITTED.deterministic_backward), ("gb200-nvl72", FITTED.deterministic_blackwell)],
)
def test_a_deterministic_backward_is_slower(make_run: MakeRun, gpu: str, slower: float) -> None:
    plain, ordered = (
        kernel(make_run(gpu=gpu, software={"deterministic_attention": flag}), "attention_input", Kind.I)[0]
        for flag in (False, True)
    )
    assert ordered == pytest.approx(slower * plain)


def test_cut_gradients_are_scattered_in_every_micro_batch(make_run: MakeRun) -> None:
    """ZeRO-2: the backward pays, and the end of the step only gathers; ZeRO-1 reduces at the end."""
    step, backward = Slot(Op(0, Kind.STEP, None)), Slot(Op(0, Kind.B, 0))
    one, two = (
        RooflineCost(make_run(mesh={"dp": 16}, zero=zero, software={"dp_overlap": False}), straight(1))
        for zero in (1, 2)
    )
    assert two.seconds(backward) > one.seconds(backward)
    assert 0 < two.exposed_seconds(step)["dp"] < one.exposed_seconds(step)["dp"]
    assert "dp" not in one.exposed_seconds(backward)
    assert "dp" not in two.exposed_seconds(Slot(Op(0, Kind.F, 0)))


def test_sets_of_shards_gather_inside_a_node(make_run: MakeRun) -> None:
    """Hybrid sharding: gathers stay on NVLink, one share of each gradient crosses nodes."""
    software = {"dp_overlap": False}
    whole, sets = (
        RooflineCost(
            make_run(mesh={"tp": 2, "dp": 16}, zero=3, fsdp=True, zero_group=n, software=software), straight(1)
        )
        for n in (None, 4)
    )
    forward = Slot(Op(0, Kind.F, 0))
    assert sets.exposed_seconds(forward)["dp"] < whole.exposed_seconds(forward)["dp"]
    assert sets.exposed_seconds(Slot(Op(0, Kind.B, 0)))["dp"] > sets.exposed_seconds(forward)["dp"]
