"""Explore: the layouts of one shape played, best bound first, as long as a bound is below what is to be beaten.

Layouts with one cost vector are one play: switches that no time depends on, and values that come to the same.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from parsim.search.bounds import SLACK, bound, floor
from parsim.search.grid import AXES, Bools, Floats
from parsim.search.playing import Points, at_points, columns_of, settle
from parsim.search.shape import Shape
from parsim.search.survey import judged
from parsim.search.times import Times
from parsim.spec import Search

__all__ = ["Candidates", "Explored", "Found", "bared", "candidates", "explore", "floored", "opened", "tightened"]

_FIRST, _CHUNK = 32, 256


class Found(NamedTuple):
    """A cost vector played: the step time, the first layout that has it, how many do, its peak."""

    step_s: float
    point: int
    layouts: int
    peak_bytes: float


class Explored(NamedTuple):
    """What came of a shape: the best found, how many cost vectors were played, the least bound of the others."""

    best: tuple[Found, ...]
    played: int
    inexact: int
    """Plays of which only an interval is known, and which it proves too slow."""
    bound_s: float


@dataclass(frozen=True)
class Candidates:
    """The distinct cost vectors among a shape's feasible layouts, least bound first."""

    points: Points
    bounds: Floats
    layouts: Points
    peaks: Floats


def floored(search: Search, shape: Shape) -> float:
    """The least work of a shape's busiest rank, over its feasible layouts."""
    times = Times(search, shape)
    seconds = floor(times)
    points, _ = _cells(judged(search, shape).feasible, seconds.shape)
    return float(at_points(times, seconds, points).min()) * SLACK


def bared(search: Search, shape: Shape) -> float:
    """The least bound of a shape's feasible layouts as if nothing were sent and the step had no end."""
    times = Times(search, shape)
    over = np.broadcast_shapes(*(column.shape for column in columns_of(times, bare=True).values()))
    points, _ = _cells(judged(search, shape).feasible, over)
    return float(bound(times, points, bare=True).min()) * SLACK


def tightened(search: Search, shape: Shape) -> tuple[float, int]:
    """The least bound of a shape's feasible layouts, and how many cost vectors they have."""
    found = opened(search, shape)[1]
    return float(found.bounds[0]), len(found.points)


@lru_cache(maxsize=512)
def opened(search: Search, shape: Shape) -> tuple[Times, "Candidates"]:
    """A shape's times and cost vectors, for a while."""
    times = Times(search, shape)
    return times, candidates(times)


def explore(search: Search, shape: Shape, cutoff_s: float, keep: int) -> Explored:
    """Play a shape's layouts that may be faster than `cutoff_s`; the best `keep` of them."""
    times, found = opened(search, shape)
    best: list[Found] = []
    played = inexact = start = 0
    while start < len(found.points) and found.bounds[start] < cutoff_s:
        size = _FIRST if start == 0 else _CHUNK
        stop = min(start + size, int(np.searchsorted(found.bounds, cutoff_s)))
        lanes = slice(start, stop)
        interval = settle(times, found.points[lanes], cutoff_s if np.isfinite(cutoff_s) else None)
        close = np.flatnonzero((interval.lower < cutoff_s) & ~interval.exact)
        if len(close):
            interval.put(close, settle(times, found.points[lanes][close]))
        inexact += int((~interval.exact).sum())
        played += stop - start
        for lane in np.flatnonzero(interval.exact & (interval.upper < cutoff_s)).tolist():
            at = start + lane
            best.append(
                Found(
                    float(interval.upper[lane]), int(found.points[at]), int(found.layouts[at]), float(found.peaks[at])
                )
            )
        best = sorted(best)[:keep]
        if len(best) == keep:
            cutoff_s = min(cutoff_s, best[-1].step_s)
        start = stop
    left = float(found.bounds[start]) if start < len(found.points) else float("inf")
    return Explored(tuple(best), played, inexact, left)


def candidates(times: Times) -> Candidates:
    """The cost vectors of a shape's feasible layouts."""
    verdict = judged(times.search, times.shape)
    columns = list(columns_of(times).values())
    identity = _moved_identity(times)
    over = np.broadcast_shapes(identity.shape, *(column.shape for column in columns))
    points, count = _cells(_worth(times, verdict.feasible), over)
    table = np.stack([at_points(times, column, points) for column in columns])
    table = np.concatenate((_rounded(table), at_points(times, identity, points)[None]))
    _, chosen, number = np.unique(table, axis=1, return_index=True, return_inverse=True)
    layouts = np.bincount(number.reshape(-1), weights=count, minlength=len(chosen)).astype(int)
    points = points[chosen]
    bounds = bound(times, points) * SLACK
    order = np.lexsort((points, bounds))
    assert verdict.peak is not None
    return Candidates(points[order], bounds[order], layouts[order], verdict.peak.reshape(-1)[points[order]])


def _worth(times: Times, feasible: Bools) -> Bools:
    """The layouts without those that move activations though the same one fits without: copies only delay."""
    axis = AXES.index("offload_activations")
    if feasible.shape[axis] == 1:
        return feasible
    without = feasible.take([times.grid.of("offload_activations").index(False)], axis=axis)
    return feasible & ~(times.grid.where("offload_activations", True) & without)


def _moved_identity(times: Times) -> Floats:
    """A number for what decides how much moves to the host and back; 0 where no activations do."""
    grid = times.grid
    found = np.ones((1,) * len(AXES))
    for axis in ("recompute", "precision"):
        found = found * len(grid.of(axis)) + grid.along(axis, np.arange(len(grid.of(axis))))
    cut = [times.shape.mesh.tp > 1 and comm.startswith("sequence") for comm in grid.of("tp_comm")]
    found = 2 * found + grid.along("tp_comm", cut)
    identity: Floats = found * grid.where("offload_activations", True)
    return identity


def _rounded(table: Floats) -> Floats:
    """The same for times that differ by rounding alone."""
    scale = float(np.abs(table).max()) or 1.0
    rounded: Floats = np.round(table / scale, 13)
    return rounded


def _cells(feasible: Bools, over: tuple[int, ...]) -> tuple[Points, Points]:
    """Of each cell of the axes that times depend on in which something is feasible: the first such point, and how many
    there are."""
    free = [axis for axis, (n, m) in enumerate(zip(feasible.shape, over, strict=True)) if n > 1 and m == 1]
    kept = [axis for axis in range(feasible.ndim) if axis not in free]
    numbers = np.arange(feasible.size).reshape(feasible.shape)
    cells = int(np.prod([feasible.shape[axis] for axis in kept]))
    by_cell = feasible.transpose(*kept, *free).reshape(cells, -1)
    points = numbers.transpose(*kept, *free).reshape(cells, -1)
    count = by_cell.sum(axis=1)
    first = points[np.arange(cells), by_cell.argmax(axis=1)]
    return first[count > 0], count[count > 0]
