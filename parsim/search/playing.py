"""Playing: the plans of shapes, each family compiled once, and the prices of many layouts side by side."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from parsim.plan import Kind, Plan, Slot, add_gradient_reduction, add_offload, add_optimizer_step
from parsim.schedules import build, get
from parsim.search.copies import PointCopies, moving_stages
from parsim.search.grid import Floats
from parsim.search.times import Times
from parsim.sim import Family, Interval, Prices, Program

__all__ = [
    "Points",
    "at_points",
    "columns_of",
    "families",
    "family_of",
    "plan_for",
    "play",
    "prices_of",
    "settle",
]

Points = npt.NDArray[np.intp]
_COPIES = (Kind.OFFLOAD, Kind.RELOAD)
_MODEL_PER_RANK = 8  # micro-batches of the program whose slots all prices follow: every slot of a schedule is in it


def plan_for(
    schedule: str, pp: int, microbatches: int, stages_per_rank: int, moving: frozenset[int] = frozenset()
) -> Plan:
    """What a run with this pipeline plays; the activations of the stages `moving` on the host."""
    plan = build(schedule, pp, microbatches, stages_per_rank)
    return add_optimizer_step(add_gradient_reduction(add_offload(plan, moving) if moving else plan))


@lru_cache(maxsize=256)
def family_of(schedule: str, pp: int, stages_per_rank: int, moving: frozenset[int] = frozenset()) -> Family:
    """All plans of a schedule on p ranks with v stages each, of which some move their activations."""
    return Family(
        lambda m: plan_for(schedule, pp, m, stages_per_rank, moving),
        lambda m: get(schedule).period(pp, m, stages_per_rank),
        pp,
        _MODEL_PER_RANK * pp,
    )


def families(times: Times, points: Points) -> Iterator[tuple[Family, Points]]:
    """The families of a shape's layouts at points of the grid, and which of the points are theirs: activations that
    move have ops in the plan."""
    shape = times.shape
    away = at_points(times, times.grid.where("offload_activations", True).astype(float), points) > 0
    for moving, lanes in ((frozenset[int](), ~away), (moving_stages(times.search, shape), away)):
        if lanes.any():
            family = family_of(shape.schedule, shape.mesh.pp, shape.stages_per_rank, moving)
            yield family, np.flatnonzero(lanes)


def settle(times: Times, points: Points, incumbent: float | None = None, doublings: bool = True) -> Interval:
    """Step times of a shape's layouts at points of the grid, as Family.settle finds them; without `doublings` only as
    narrow as the small programs tell.
    """
    found = Interval.unknown(len(points))
    for family, lanes in families(times, points):
        prices, counts = prices_of(times, points[lanes], family.model), np.full(len(lanes), times.shape.microbatches)
        found.put(lanes, family.settle(prices, counts, incumbent) if doublings else family.play(prices, counts))
    return found


def columns_of(times: Times, bare: bool = False) -> dict[Any, Floats]:
    """The times that a shape's prices are made of, over the grid: of each class of stage and pass, each message between
    ranks. Known without the plan. `bare`: compute alone, neither messages nor the end of the step.
    """
    classes = range(len(times.stages.classes))
    found: dict[Any, Floats] = {(number, kind): times.op(number, kind) for number in classes for kind in times.kinds}
    if bare:
        return found
    for number in classes:
        found[number, Kind.REDUCE_GRAD], found[number, Kind.STEP] = times.reduction(number), times.step(number)
    for source, target in enumerate(times.stages.placement.after):
        if target is not None and _hop_key(times, (source, target))[0] != _hop_key(times, (source, target))[1]:
            for boundary in ((source, target), (target, source)):
                found[_hop_key(times, boundary)] = times.hop(*boundary)
    return found


def _op_key(times: Times, slot: Slot) -> tuple[int, Kind]:
    return times.stages.of[slot.first.stage], slot.first.kind


def _hop_key(times: Times, boundary: tuple[int, int]) -> tuple[int, int]:
    source, target = (times.stages.placement.rank_of[stage] for stage in boundary)
    return source, target


def prices_of(times: Times, points: Points, program: Program) -> Prices:
    """The cost vectors of a shape's layouts at points of the grid, side by side as `program` orders them, stretched to
    whole steps."""
    columns = columns_of(times)
    row_of = {key: row for row, key in enumerate(columns)}
    table = np.stack([*(at_points(times, column, points) for column in columns.values()), np.zeros(len(points))])
    copies = [PointCopies(times, int(point)) for point in points] if program.lags else []
    priced = []
    for slot in program.priced:
        copy = slot.first.kind in _COPIES
        row = [each.seconds(slot.first) for each in copies] if copy else table[row_of[_op_key(times, slot)]]
        priced.append(row)
    delayed = [table[row_of[_hop_key(times, boundary)]] for boundary in program.boundaries]
    delayed += [np.array([each.lag(lag) for each in copies]) for lag in program.lags]
    return Prices(np.array(priced) * times.scale, np.array([*delayed, np.zeros(len(points))]) * times.scale)


def at_points(times: Times, column: Floats, points: Points) -> Floats:
    """An array over the grid at some of its points."""
    found: Floats = (
        np.broadcast_to(column, times.grid.shape).reshape(-1)[points]
        if column.size > 1
        else np.full(len(points), column.item())
    )
    return found


def play(times: Times, points: Points) -> Interval:
    """Step times of a shape's layouts at points of the grid: as the longest path has them, for the search's batch."""
    return settle(times, points, doublings=False)
