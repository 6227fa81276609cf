"""The end of a step: what the reduction hides, what it shows, and the optimizer."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.step_end import EndWork, straggler_factor
from parsim.network.estimate import estimate
from parsim.network.groups import axis_groups
from parsim.plan import Kind, Op, Slot, looped, straight
from parsim.spec import Run

MakeRun = Callable[..., Run]
REDUCE, STEP = Slot(Op(0, Kind.REDUCE_GRAD)), Slot(Op(0, Kind.STEP))


def cost_of(make_run: MakeRun, **layout: Any) -> RooflineCost:
    return RooflineCost(make_run(**layout), straight(layout.get("mesh", {}).get("pp", 1)))


def test_without_overlap_the_step_pays_for_all_of_it(make_run: MakeRun) -> None:
    """An all-reduce of gradients of 4 bytes as NCCL plays it, in buckets of 40 M elements."""
    cost = cost_of(make_run, mesh={"dp": 8}, software={"dp_overlap": False})
    run = cost.run
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336
    parameters = 8 * layer + 2 * 4096 * 128256
    buckets = -(-parameters // 40_000_000)
    replicas = axis_groups(run.cluster, run.layout.mesh, "cp", "dp").reach
    expected = buckets * estimate("all_reduce", 4 * parameters / buckets, replicas).seconds
    assert 0.8 < expected / (2 * 7 / 8 * 4 * parameters / 450e9) < 1.2  # in-switch reduction: about the links' own rate
    assert cost.seconds(REDUCE) == 0.0
    assert cost.exposed_seconds(STEP)["dp"] == pytest.approx(expected)


def test_overlap_hides_the_reduction_behind_the_last_backward(make_run: MakeRun) -> None:
    """max(0, reduce - dp_window B) on the collective stream, and dp_contention of it as contention in STEP."""
    plain = cost_of(make_run, mesh={"dp": 8}, software={"dp_overlap": False})
    reduce = plain.exposed_seconds(STEP)["dp"]
    cost = cost_of(make_run, mesh={"dp": 8})
    backward = cost.seconds(Slot(Op(0, Kind.B, 0)))
    assert cost.seconds(REDUCE) == pytest.approx(max(0.0, reduce - FITTED.dp_window * backward))
    assert cost.exposed_seconds(STEP)["dp"] == pytest.approx(FITTED.dp_contention * reduce)
    many = cost_of(make_run, mesh={"dp": 8}, micro_batch_size=16)
    assert many.seconds(REDUCE) == 0.0


@pytest.mark.parametrize("window", [0.0, 0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("reduce", [0.0, 0.05, 1.0, 20.0])
@pytest.mark.parametrize("gather", [0.0, 0.3])
def test_overlap_never_costs_more_than_none(reduce: float, gather: float, window: float) -> None:
    """A reduction far longer than the backward meets what it runs beside, and nothing else."""
    work = EndWork(reduce, gather, 0.0, 0.04, FITTED)
    beside, alone = (work.end(overlap, (window, window)) for overlap in (True, False))
    assert beside.reduce_grad_s + beside.step_s <= alone.reduce_grad_s + alone.step_s + 1e-12
    if not window:
        assert beside.reduce_grad_s + beside.step_s == pytest.approx(alone.step_s)


def test_one_replica_reduces_nothing(make_run: MakeRun) -> None:
    cost = cost_of(make_run, mesh={"tp": 8})
    assert cost.seconds(REDUCE) == 0.0
    assert cost.exposed_seconds(STEP)["dp"] == 0.0


def test_cut_optimizer_states_divide_the_optimizer(make_run: MakeRun) -> None:
    """Bytes of Adam for each parameter of the rank's share; the norm reads all gradients; step_s is once a rank's."""
    whole, cut = (cost_of(make_run, mesh={"dp": 8}, zero=zero) for zero in (0, 1))
    times = [cost.exposed_seconds(STEP)["optimizer"] for cost in (whole, cut)]
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336
    parameters = 8 * layer + 2 * 4096 * 128256
    traffic, gpu = FITTED.optimizer_overhead * FITTED.optimizer_bytes, whole.run.cluster.node.gpu
    assert times[0] - times[1] == pytest.approx(traffic * parameters * 7 / 8 / (gpu.efficiency.hbm * 3.35e12), rel=1e-9)
    assert min(times) > FITTED.step_s
    interleaved = RooflineCost(make_run(mesh={"pp": 2}, schedule="interleaved", stages_per_rank=2), looped(2, 2))
    straight_cost = cost_of(make_run, mesh={"pp": 2})
    both = sum(interleaved.exposed_seconds(Slot(Op(s, Kind.STEP)))["optimizer"] for s in (0, 2))
    tables = straight_cost.exposed_seconds(STEP)["optimizer"]
    assert both == pytest.approx(tables)


def test_a_set_of_eight_keeps_most_traffic_inside_the_node(make_run: MakeRun) -> None:
    """Many nodes: scatter and gather inside a node and reducing only shares outside is cheaper than one ring."""
    software = {"dp_overlap": False}
    ring = cost_of(make_run, mesh={"dp": 256}, zero=1, software=software)
    sets = cost_of(make_run, mesh={"dp": 256}, zero=1, zero_group=8, software=software)
    assert sets.exposed_seconds(STEP)["dp"] < 0.6 * ring.exposed_seconds(STEP)["dp"]


def test_fsdp_inside_a_pipeline_shows_a_share_of_one_gather_and_one_scatter(make_run: MakeRun) -> None:
    cost = cost_of(make_run, mesh={"dp": 4, "pp": 2}, zero=3, fsdp=True)
    assert cost.seconds(REDUCE) == 0.0
    assert cost.exposed_seconds(STEP)["dp"] > 0
    plain = cost_of(make_run, mesh={"dp": 4, "pp": 2})
    assert cost.seconds(Slot(Op(0, Kind.F, 0))) == plain.seconds(Slot(Op(0, Kind.F, 0)))


def test_stragglers_grow_with_the_logarithm_of_gpus() -> None:
    assert straggler_factor(1, FITTED) == straggler_factor(8, FITTED) == 1.0
    assert straggler_factor(96, FITTED) == pytest.approx(1 + FITTED.straggler * math.log2(12))
    assert straggler_factor(10_000, FITTED) == pytest.approx(1.07, abs=0.01)


def test_each_optimizer_pays_for_the_bytes_it_moves(make_run: MakeRun) -> None:
    """30 bytes a parameter for Adam, 42 for LAMB, 22 for momentum, 14 for SGD; the rest of the step is the same."""
    names = ("sgd", "momentum", "adam", "lamb")
    costs = [cost_of(make_run, mesh={"dp": 8}, software={"optimizer": name}) for name in names]
    sgd, *others = (cost.exposed_seconds(STEP)["optimizer"] for cost in costs)
    adam = others[1]
    assert [(seconds - sgd) / (adam - sgd) for seconds in others] == pytest.approx([0.5, 1.0, 1.75])


def test_muon_multiplies_each_matrix_of_a_layer_five_times_over(make_run: MakeRun) -> None:
    """5 (4 m^2 n + 2 m^3) FLOP for a matrix of m <= n, at the speed of matmuls; cut states share the matrices out."""
    plain = cost_of(make_run, mesh={"dp": 8}, software={"optimizer": "momentum"})
    muon = cost_of(make_run, mesh={"dp": 8}, software={"optimizer": "muon"})
    matrices = ((4096, 4096 + 2 * 1024), (4096, 4096), (4096, 2 * 14336), (4096, 14336))
    flops = 8 * sum(5 * (4 * m**2 * n + 2 * m**3) for m, n in matrices)
    rate = 989e12 * plain.run.cluster.node.gpu.efficiency.matmul["bf16"]
    more = muon.exposed_seconds(STEP)["optimizer"] - plain.exposed_seconds(STEP)["optimizer"]
    assert more == pytest.approx(flops / rate)
    costs = [
        cost_of(make_run, mesh={"dp": 8}, zero=1, software={"optimizer": name}).exposed_seconds(STEP)["optimizer"]
        for name in ("momentum", "muon")
    ]
    assert costs[1] - costs[0] == pytest.approx(flops / rate / 8)


def test_a_pipeline_reduces_cut_gradients_once_a_step(make_run: MakeRun) -> None:
    """ZeRO-2 as MegaScale runs it: what ZeRO-1 pays, at the end of the step and not in every micro-batch."""
    first, second = (cost_of(make_run, mesh={"dp": 4, "pp": 2}, zero=zero) for zero in (1, 2))
    for slot in (REDUCE, Slot(Op(0, Kind.B, 0))):
        assert first.seconds(slot) == pytest.approx(second.seconds(slot))
    assert first.exposed_seconds(STEP)["dp"] == pytest.approx(second.exposed_seconds(STEP)["dp"])
