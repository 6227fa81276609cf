"""Survey: of every shape on a mesh how many layouts it has, which rules remove how many, and what the rest takes.

Rules in their order: what the schedule is defined for, what model and cluster allow and the cost model can price, the
networks, memory. A layout counts under the first that removes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from parsim.search.bounds import SLACK, least
from parsim.search.grid import AXES, Bools, Floats, grid_of
from parsim.search.legality import refusals, size_refusal
from parsim.search.memory import held_floor, peaks
from parsim.search.shape import Mesh, Shape
from parsim.search.space import shapes
from parsim.spec import Search

__all__ = ["HOST", "MEMORY", "Judged", "Row", "judged", "limit_of", "recomputes_of", "survey"]

MEMORY, HOST = "memory", "host_memory"
_ON_HOST = "host memory: what the {} ranks of a node keep there is more than its {:.0f} GiB; less offload would do"


class Row(NamedTuple):
    """One shape: by its number on its mesh."""

    number: int
    layouts: int
    removed: Mapping[str, int]
    says: Mapping[str, str]
    """What each rule says of the first layout that it removes."""
    feasible: int
    floor_s: float
    """No layout of the shape takes less; infinite where none is left."""
    least_peak: tuple[float, int, int] | None
    """Of the layouts that only memory can remove the one that needs least: bytes, pipeline rank, point of the grid."""


@dataclass(frozen=True)
class Judged:
    """A shape's layouts: which are left, and the peak of each where memory decides."""

    removed: Mapping[str, int]
    says: Mapping[str, str]
    legal: Bools
    feasible: Bools
    peak: Floats | None
    """Over the whole grid; None where no layout is legal."""
    rank: Floats | None


def limit_of(search: Search) -> float:
    """Bytes that a layout may allocate."""
    return search.cluster.node.gpu.memory_bytes - search.reserve_bytes


def survey(search: Search, mesh: Mesh) -> list[Row]:
    """A row for each shape on a mesh."""
    return [_row(search, number, shape) for number, shape in enumerate(shapes(search, mesh))]


def _row(search: Search, number: int, shape: Shape) -> Row:
    grid = grid_of(search, shape.mesh)
    found = judged(search, shape)
    feasible = int(found.feasible.sum())
    least_s, least_peak = float("inf"), None
    if found.peak is not None and found.legal.any():
        point = int(np.argmin(np.where(found.legal, found.peak, np.inf)))
        assert found.rank is not None
        least_peak = float(found.peak.reshape(-1)[point]), int(found.rank.reshape(-1)[point]), point
    if feasible:
        least_s = least(search, shape, recomputes_of(found.feasible)) * SLACK
    return Row(number, int(grid.combinations.sum()), found.removed, found.says, feasible, least_s, least_peak)


def recomputes_of(feasible: Bools) -> list[int]:
    """The values of the recompute switch, by number, of which something is left."""
    others = tuple(axis for axis in range(len(AXES)) if AXES[axis] != "recompute")
    found: list[int] = np.flatnonzero(feasible.any(axis=others)).tolist()
    return found


@lru_cache(maxsize=20_000)
def judged(search: Search, shape: Shape) -> Judged:
    """Which layouts of a shape the rules leave."""
    grid = grid_of(search, shape.mesh)
    left = grid.combinations
    removed: dict[str, int] = {}
    says: dict[str, str] = {}

    def remove(rule: str, where: Any, text: str) -> None:
        nonlocal left
        gone = left & where
        if count := int(gone.sum()):
            removed[rule], says[rule] = removed.get(rule, 0) + count, says.get(rule, text)
            left = left & ~gone

    refusal = size_refusal(shape)
    if refusal is not None:
        remove("schedule", True, refusal)
        return Judged(removed, says, left, left, None, None)
    for rule, where, text in refusals(search, shape.mesh):
        remove(rule, where, text)
    if not left.any():
        return Judged(removed, says, left, left, None, None)
    legal, limit, host_limit = left, limit_of(search), search.cluster.node.host_memory_bytes
    held = held_floor(search, shape)
    if float(held.min()) > limit:
        remove(MEMORY, True, "")
        return Judged(removed, says, legal, left, np.broadcast_to(held, grid.shape), np.zeros(grid.shape))
    found = peaks(search, shape)
    peak = np.broadcast_to(np.maximum.reduce([one.bytes for one in found]), grid.shape)
    rank = np.zeros(grid.shape)
    for one in reversed(found):
        rank = np.where(one.bytes == peak, one.rank, rank)
    remove(MEMORY, peak > limit, "")
    if search.space.offload and host_limit is not None:
        ranks = min(search.cluster.node.gpus, shape.mesh.gpus)
        host = ranks * np.maximum.reduce([one.host for one in found])
        remove(HOST, host > host_limit, _ON_HOST.format(ranks, host_limit / 2**30))
        legal = legal & ~(host > host_limit)
    return Judged(removed, says, legal, left, peak, rank)
