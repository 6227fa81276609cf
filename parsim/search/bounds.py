"""Bounds: step times that no play of a shape's plan can beat, from closed forms, the cheapest first.

least  a whole shape: the kernels of its busiest rank, for which no collective is priced
floor  over the grid: the work of the busiest rank, for which no message and no end of the step is priced
bound  at points of the grid: the chain bound (sim.chain_bound), the end of the step being each rank's tail
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from parsim.cost.constants import FITTED
from parsim.cost.step_end import straggler_factor
from parsim.model.layer import LayerKind
from parsim.plan import Kind
from parsim.schedules import get
from parsim.search.grid import Floats
from parsim.search.playing import Points, at_points, columns_of
from parsim.search.shape import Shape
from parsim.search.stages import stages_of
from parsim.search.times import Times
from parsim.search.units import LOOP_S, PASSES, least_units, unit_key
from parsim.sim import StageTimes, chain_bound
from parsim.spec import Search

__all__ = ["SLACK", "bound", "floor", "least"]

SLACK = 1 - 1e-12
"""What rounding may add to a bound."""


def least(search: Search, shape: Shape, recomputes: Sequence[int]) -> float:
    """Less than any layout of a shape takes that has one of these values of recompute (by number): the kernels of the
    busiest rank, for which no collective is priced.
    """
    stages, mesh = stages_of(search, shape), shape.mesh
    units = least_units(search, unit_key(search, mesh, shape.micro_batch_size))
    alone = []
    for stage in stages.classes:
        held: list[tuple[LayerKind | str, int]] = [*stage.layers]
        held += [(name, 1) for name, has in (("embedding", stage.first), ("head", stage.last)) if has]
        alone.append(sum(LOOP_S[kind] + sum(n * units.alone[name, kind] for name, n in held) for kind in PASSES))
    found = []
    for number in recomputes:
        work = [
            seconds + sum(n * units.again[number][layer] for layer, n in stage.again[number])
            for seconds, stage in zip(alone, stages.classes, strict=True)
        ]
        found.append(max(sum(work[which] for which in kind) for kind in stages.rank_kinds))
    m = shape.microbatches / len(stages.placement.chains)
    return m * min(found) * straggler_factor(mesh.gpus, FITTED) * search.batch.global_batch_size / mesh.sequences


def floor(times: Times) -> Floats:
    """The work of the busiest rank: needs no message and no end of the step priced."""
    m = times.shape.microbatches / len(times.stages.placement.chains)
    work = [_sum(times, rank, Kind.F) + _sum(times, rank, Kind.B) for rank in times.stages.rank_kinds.values()]
    return m * reduce(np.maximum, work) * times.scale


def _sum(times: Times, rank: int, kind: Kind) -> Floats:
    return reduce(np.add, (times.op(number, kind) for number in times.stages.ranks[rank]))


def bound(times: Times, points: Points, bare: bool = False) -> Floats:
    """The chain bound of a shape's plan at points of the grid; `bare`: as if messages and the end of the step took no
    time, so that no link has to be priced.
    """
    shape, stages, placement = times.shape, times.stages, times.stages.placement
    counted = get(shape.schedule).edges
    if counted is None:
        return at_points(times, floor(times), points)
    columns = {key: at_points(times, column, points) for key, column in columns_of(times, bare).items()}
    none = np.zeros(len(points))

    def hops(way: Sequence[int | None]) -> Floats:
        pairs = [
            None if to is None else (placement.rank_of[stage], placement.rank_of[to]) for stage, to in enumerate(way)
        ]
        return np.array([columns.get(pair, none) for pair in pairs])

    kinds = {str(kind): np.array([columns[number, kind] for number in stages.of]) for kind in times.kinds}
    ends = {kind: none if bare else _tail(columns, kind) for kind in stages.rank_kinds}
    tails = np.array([ends[tuple(sorted(own))] for own in stages.ranks])
    edges = counted(shape.mesh.pp, shape.microbatches, shape.stages_per_rank)
    stage_times = StageTimes(kinds, hops(placement.after), hops(placement.before))
    return chain_bound(edges, placement, stage_times, tails) * times.scale


def _tail(columns: Mapping[Any, Floats], own: Sequence[int]) -> Floats:
    """What follows the last op of a rank with stages of these classes: all its optimizer steps; the reduction and step
    of the stage it was of.
    """
    steps: Floats = reduce(np.add, (columns[number, Kind.STEP] for number in own))
    last: Floats = reduce(
        np.minimum, (columns[number, Kind.REDUCE_GRAD] + columns[number, Kind.STEP] for number in own)
    )
    return np.maximum(steps, last)
