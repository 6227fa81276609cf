"""Legality: which layouts of the space are none, and by which rule. A layout counts under the first rule it breaks."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from parsim.cost.priceable import check_priceable
from parsim.errors import LayoutError, ParsimError, ScheduleError
from parsim.schedules import get
from parsim.schedules.schedule import Size
from parsim.search.grid import Bools, Grid, grid_of
from parsim.search.layouts import run_on
from parsim.search.networks import fits_domain
from parsim.search.shape import Mesh, Shape
from parsim.spec import Search
from parsim.spec.search import OFFLOADS

__all__ = ["Refusal", "refusals", "size_refusal"]

Refusal = tuple[str, Bools, str]
"""A rule, where on the grid it holds, and what it says of the first layout there."""

_NETWORKS = "networks: axes on NVLink must fill a domain or an even part of it, those on the NICs need several domains"
_KEPT = (
    "tp_comm: gathered inputs that are kept are not priced beside parameters or gradients that are cut without a "
    "pipeline; sequence_parallel would do"
)
_COPIES = (
    "offload: copies of weights or activations are not priced beside parameters or gradients that are cut without a "
    "pipeline; the optimizer's states alone, or zero 1, would do"
)


def size_refusal(shape: Shape) -> str | None:
    """Why the schedule is not defined at this size; None if it is."""
    if shape.mesh.pp == 1:
        return None
    try:
        get(shape.schedule).check(Size(shape.mesh.pp, shape.microbatches, shape.stages_per_rank))
    except ScheduleError as error:
        return str(error)
    return None


@lru_cache(maxsize=4096)
def refusals(search: Search, mesh: Mesh) -> tuple[Refusal, ...]:
    """What rules of model, cluster and price say of the layouts on a mesh, whatever its pipeline plays."""
    grid = grid_of(search, mesh)
    return tuple(_refused(search, mesh, grid))


def _refused(search: Search, mesh: Mesh, grid: Grid) -> Iterator[Refusal]:
    switches = ("tp_comm", "cp_comm", "precision")
    shape, points = grid.over(*switches)
    found: dict[str, tuple[Bools, str]] = {}
    for index, values in points:
        try:
            check_priceable(run_on(search, mesh, 1, values))
        except LayoutError as error:
            rule = _rule(error)
            where = found.setdefault(rule, (np.zeros(shape, bool), str(error)))[0]
            where[index] = True
    for rule, (where, text) in found.items():
        yield rule, where, text
    if search.space.networks:
        names = ("tp_network", "dp_network", "pp_network")
        shape, points = grid.over(*names)
        where = np.zeros(shape, bool)
        for index, values in points:
            where[index] = not fits_domain(search, mesh, (values[names[0]], values[names[1]], values[names[2]]))
        yield "networks", where, _NETWORKS
    if mesh.pp == 1 and "sequence_parallel_kept" in grid.of("tp_comm"):
        cut = grid.along("zero", [zero >= 2 for zero in grid.of("zero")])
        yield "tp_comm", grid.where("tp_comm", "sequence_parallel_kept") & cut, _KEPT
    if search.space.offload:
        yield from _unmoved(search, mesh, grid)


def _unmoved(search: Search, mesh: Mesh, grid: Grid) -> Iterator[Refusal]:
    """What cannot be kept in the host's memory."""
    plain = _stated(search, mesh, grid)
    for name in OFFLOADS:
        axis = f"offload_{name}"
        if True not in grid.of(axis) or plain is None:
            continue
        for recompute in grid.of("recompute") if name == "activations" else (None,):
            if recompute is not None and recompute.mode == "full" and recompute.layers is None:
                continue  # no combination of the space
            more = {axis: True} if recompute is None else {axis: True, "recompute": recompute}
            try:
                check_priceable(run_on(search, mesh, 1, {**plain, **more}))
            except LayoutError as error:
                where = grid.where(axis, True)
                yield (
                    _rule(error),
                    where if recompute is None else where & grid.where("recompute", recompute),
                    str(error),
                )
    if mesh.pp == 1:
        cut = grid.along("zero", [zero >= 2 for zero in grid.of("zero")])
        moved = grid.where("offload_weights", True) | grid.where("offload_activations", True)
        yield "offload", moved & cut, _COPIES


def _stated(search: Search, mesh: Mesh, grid: Grid) -> dict[str, Any] | None:
    """Switches of a run on a mesh that no rule refuses; None if there are none."""
    for _, values in grid.over("tp_comm", "cp_comm", "precision")[1]:
        try:
            check_priceable(run_on(search, mesh, 1, values))
        except LayoutError:
            continue
        return values
    return None


def _rule(error: ParsimError) -> str:
    """A refusal's rule: the field that its sentence begins with."""
    return str(error).split(":", 1)[0].split(" ", 1)[0]
