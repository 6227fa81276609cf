"""What the search prices from tables is what `simulate` says of the same layout: time and memory."""

import random
from typing import Any

import numpy as np
import pytest

from parsim.errors import ParsimError
from parsim.memory import memory_of
from parsim.run_plan import plan_of
from parsim.search.bounds import bound, floor, least
from parsim.search.grid import grid_of
from parsim.search.layouts import run_of
from parsim.search.legality import refusals
from parsim.search.memory import held_floor, peaks
from parsim.search.playing import at_points, play
from parsim.search.shape import Shape
from parsim.search.space import meshes, shapes
from parsim.search.survey import judged, recomputes_of
from parsim.search.times import Times
from parsim.simulation import simulate
from parsim.spec import Search
from parsim.spec.load import search_from_document
from tests.search.conftest import document, small

_FEW = 12
_OFFLOADS = ["weights", "activations", "optimizer"]


def layouts(search: Search, seed: int, count: int) -> list[tuple[Shape, int]]:
    """Random layouts that a run can state."""
    rng = random.Random(seed)
    every = [shape for mesh in meshes(search, search.sizes[0]) for shape in shapes(search, mesh)]
    found: list[tuple[Shape, int]] = []
    for shape in rng.sample(every, min(len(every), 4 * count)):
        grid = grid_of(search, shape.mesh)
        point = int(rng.choice(np.flatnonzero(grid.combinations.reshape(-1)).tolist()))
        try:
            plan_of(run_of(search, shape, grid.at(point)))
        except ParsimError:
            continue
        found.append((shape, point))
    return found[:count]


@pytest.mark.parametrize("seed", range(8))
def test_times_are_those_of_simulate(seed: int) -> None:
    search = small(seed)
    for shape, point in layouts(search, seed, _FEW):
        times = Times(search, shape)
        played = play(times, np.array([point]))
        step_s = simulate(run_of(search, shape, times.grid.at(point))).step_time_s
        assert played.lower[0] <= step_s * (1 + 1e-9), shape
        assert played.upper[0] >= step_s * (1 - 1e-9), shape
        if played.exact[0]:
            assert played.upper[0] == pytest.approx(step_s, rel=1e-9), shape


@pytest.mark.parametrize(
    "software",
    [
        {"framework": "zero-bubble-megatron"},
        {"framework": "pytorch", "optimizer": "adam"},
        {"framework": "deepspeed"},
        {"framework": "torchtitan"},
        {"framework": "pytorch", "bucket_bytes": 25 * 2**20, "dp_overlap": False},
    ],
)
def test_times_follow_the_habits_of_frameworks(software: dict[str, Any]) -> None:
    search = search_from_document(
        document(4, zero=[0, 1], dp_overlap=software.get("dp_overlap", True)) | {"software": software}
    )
    for shape, point in layouts(search, 2, 6):
        times = Times(search, shape)
        step_s = simulate(run_of(search, shape, times.grid.at(point))).step_time_s
        played = play(times, np.array([point]))
        assert played.lower[0] <= step_s * (1 + 1e-9)
        assert played.upper[0] >= step_s * (1 - 1e-9)
        if played.exact[0]:
            assert played.upper[0] == pytest.approx(step_s, rel=1e-9), shape


def test_a_reduction_far_longer_than_its_backward_is_that_of_simulate() -> None:
    """What little of it runs beside the backward meets no more than that."""
    values = document(2, tp=1, cp=1, pp=[1, 2], schedule="1f1b", zero=[0, 1], dp_overlap=[True, False], split="even")
    values["batch"] = {"sequence_length": 64, "global_batch_size": 16}
    values["model"] |= {"hidden": 8192, "heads": 64, "ffn": 32768, "layers": 8}
    values["cluster"]["nodes"] = 2
    search = search_from_document(values | {"network": {"nic_gbps_per_gpu": 50}})
    for mesh in meshes(search, search.sizes[0]):
        for shape in shapes(search, mesh):
            times = Times(search, shape)
            points = np.flatnonzero(times.grid.combinations.reshape(-1))
            runs = [run_of(search, shape, times.grid.at(point)) for point in points.tolist()]
            played, truth = play(times, points), [simulate(run).step_time_s for run in runs]
            assert played.exact.all()
            assert played.upper == pytest.approx(truth, rel=1e-9), shape


@pytest.mark.parametrize("seed", range(8))
def test_memory_is_that_of_the_replay(seed: int) -> None:
    search = small(seed)
    for shape, point in layouts(search, seed, _FEW):
        grid = grid_of(search, shape.mesh)
        run = run_of(search, shape, grid.at(point))
        peak = max(rank.peak_bytes for rank in memory_of(run, plan_of(run)))
        found = peaks(search, shape)
        assert max(np.broadcast_to(one.bytes, grid.shape).reshape(-1)[point] for one in found) == pytest.approx(
            peak, rel=1e-12
        ), shape
        assert np.broadcast_to(held_floor(search, shape), grid.shape).reshape(-1)[point] <= peak


@pytest.mark.parametrize("software", ["torchtitan", "pytorch", "deepspeed", "megatron-2022"])
def test_memory_follows_the_habits_of_frameworks(software: str) -> None:
    search = small(3)
    search = search.model_copy(update={"software": search.software.model_validate({"framework": software})})
    for shape, point in layouts(search, 1, 6):
        grid = grid_of(search, shape.mesh)
        run = run_of(search, shape, grid.at(point))
        peak = max(rank.peak_bytes for rank in memory_of(run, plan_of(run)))
        found = peaks(search, shape)
        assert max(np.broadcast_to(one.bytes, grid.shape).reshape(-1)[point] for one in found) == pytest.approx(
            peak, rel=1e-12
        ), shape


@pytest.mark.parametrize("seed", range(8))
def test_bounds_are_never_above_the_truth(seed: int) -> None:
    search = small(seed)
    for shape, _ in layouts(search, seed, _FEW):
        times, feasible = Times(search, shape), judged(search, shape).feasible
        points = np.flatnonzero(feasible.reshape(-1))
        if not len(points):
            continue
        true = play(times, points).lower
        for bare in (False, True):
            assert (bound(times, points, bare) <= true * (1 + 1e-12)).all(), shape
        assert (at_points(times, floor(times), points) <= true * (1 + 1e-12)).all(), shape
        assert least(search, shape, recomputes_of(feasible)) <= true.min() * (1 + 1e-12), shape


@pytest.mark.parametrize("seed", range(4))
def test_layouts_with_something_on_the_host_are_those_of_simulate(seed: int) -> None:
    """Time, device and host memory of random combinations of offload; and no bound above the time."""
    search = small(seed, offload=_OFFLOADS)
    checked = 0
    for shape, point in layouts(search, seed, _FEW):
        grid, times = grid_of(search, shape.mesh), Times(search, shape)
        run = run_of(search, shape, grid.at(point))
        memory, found = memory_of(run, plan_of(run)), peaks(search, shape)
        for bytes_, columns in (
            (max(rank.peak_bytes for rank in memory), [one.bytes for one in found]),
            (max(sum(rank.host.values()) for rank in memory), [one.host for one in found]),
        ):
            most = max(np.broadcast_to(column, grid.shape).reshape(-1)[point] for column in columns)
            assert most == pytest.approx(bytes_, rel=1e-12), shape
        if any(np.broadcast_to(where, grid.shape).reshape(-1)[point] for _, where, _ in refusals(search, shape.mesh)):
            continue
        played, step_s = play(times, np.array([point])), simulate(run).step_time_s
        assert played.lower[0] <= step_s * (1 + 1e-9), shape
        assert played.upper[0] >= step_s * (1 - 1e-9), shape
        if played.exact[0]:
            assert played.upper[0] == pytest.approx(step_s, rel=1e-9), shape
        assert bound(times, np.array([point]))[0] <= step_s * (1 + 1e-12), shape
        checked += any(grid.at(point)[f"offload_{name}"] for name in _OFFLOADS)
    assert checked > 2


def test_switches_that_no_run_can_say_change_what_they_should() -> None:
    """Keeping gathered inputs saves the regathers of W and costs memory; a scatter and a gather is no all-reduce."""
    comms = ["all_reduce", "scatter_gather", "sequence_parallel", "sequence_parallel_kept"]
    search = small(2, tp=4, pp=2, cp=1, schedule="1f1b", tp_comm=comms, recompute="none", zero=1, split="even")
    mesh = next(iter(meshes(search, search.sizes[0])))
    shape = next(iter(shapes(search, mesh)))
    times, grid = Times(search, shape), grid_of(search, shape.mesh)
    where = [np.flatnonzero(np.broadcast_to(grid.where("tp_comm", comm), grid.shape).reshape(-1))[0] for comm in comms]
    plain, split, cut, kept = (float(play(times, np.array([point])).upper[0]) for point in where)
    assert kept < cut
    assert split != plain
    memory = np.broadcast_to(np.maximum.reduce([one.bytes for one in peaks(search, shape)]), grid.shape).reshape(-1)
    assert memory[where[3]] > memory[where[2]]
    assert memory[where[1]] == memory[where[0]]


def test_an_axis_on_the_nics_is_slower_than_on_nvlink() -> None:
    search = small(2, tp=2, pp=2, cp=1, schedule="1f1b", recompute="none", zero=1, split="even", networks=True)
    search = search.model_copy(update={"cluster": search.cluster.model_copy(update={"nodes": 4})})
    mesh = next(iter(meshes(search, search.sizes[0])))
    shape = next(iter(shapes(search, mesh)))
    times = Times(search, shape)
    points = {tuple(times.grid.at(p)[f"{a}_network"] for a in ("tp", "dp", "pp")): p for p in range(times.grid.size)}
    near, far = (play(times, np.array([points[names]])).upper[0] for names in (("nvlink", "nic", "nic"), ("nic",) * 3))
    assert far > near
