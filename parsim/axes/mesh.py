"""The mesh: which coordinates a rank has, and which ranks form the groups of an axis.

Ranks are numbered with tp innermost, then cp, dp, pp: rank = tp + TP * (cp + CP * (dp + DP * pp)). So the ranks of
a tensor-parallel group are neighbours and those of a pipeline lie farthest apart (Megatron's and DeepSpeed's
usual order).

Experts see the same ranks in another way: those of one pipeline rank are expert_tp * ep * expert_dp, expert_tp
innermost, so that the ranks of a dispatch are neighbours and those that hold the same experts lie ep * expert_tp apart.
"""

from itertools import product
from math import prod
from typing import NamedTuple

from parsim.errors import LayoutError
from parsim.spec import Mesh

__all__ = ["AXES", "EXPERT_AXES", "Coordinates", "coordinates", "expert_groups", "group_of", "groups", "rank_at"]

AXES = ("tp", "cp", "dp", "pp")
EXPERT_AXES = ("expert_tp", "ep", "expert_dp")


class Coordinates(NamedTuple):
    """Where a rank stands on each axis."""

    tp: int = 0
    cp: int = 0
    dp: int = 0
    pp: int = 0


def coordinates(mesh: Mesh, rank: int) -> Coordinates:
    """The coordinates of a global rank. LayoutError unless 0 <= rank < mesh.size."""
    if not 0 <= rank < mesh.size:
        raise LayoutError(f"rank {rank}: the mesh has ranks 0 to {mesh.size - 1}")
    found = []
    for axis in AXES:
        rank, index = divmod(rank, _degree(mesh, axis))
        found.append(index)
    return Coordinates(*found)


def rank_at(mesh: Mesh, at: Coordinates) -> int:
    """The global rank at coordinates. LayoutError for a coordinate outside its axis."""
    rank = 0
    for axis, index in reversed(list(zip(AXES, at, strict=True))):
        degree = _degree(mesh, axis)
        if not 0 <= index < degree:
            raise LayoutError(f"coordinate {axis} {index}: the axis has indices 0 to {degree - 1}")
        rank = rank * degree + index
    return rank


def groups(mesh: Mesh, *axes: str) -> tuple[tuple[int, ...], ...]:
    """All groups of ranks that differ on `axes` alone, each in rank order: they partition the ranks.

    `groups(mesh, "cp", "dp")` are the groups that share weights. LayoutError for an unknown axis.
    """
    for axis in axes:
        _degree(mesh, axis)
    fixed = [range(1) if axis in axes else range(_degree(mesh, axis)) for axis in AXES]
    offsets = _offsets(mesh, axes)
    return tuple(
        tuple(base + offset for offset in offsets)
        for base in sorted(rank_at(mesh, Coordinates(*at)) for at in product(*fixed))
    )


def group_of(mesh: Mesh, rank: int, *axes: str) -> tuple[int, ...]:
    """The ranks that differ from `rank` on `axes` alone, itself included, in rank order."""
    at = coordinates(mesh, rank)
    base = rank_at(mesh, Coordinates(*(0 if axis in axes else at[i] for i, axis in enumerate(AXES))))
    return tuple(base + offset for offset in _offsets(mesh, axes))


def expert_groups(mesh: Mesh, ep: int, expert_tp: int, axis: str) -> tuple[tuple[int, ...], ...]:
    """All groups of ranks that differ on one of EXPERT_AXES alone, each in rank order: they partition the ranks.

    LayoutError for another axis, or where ep * expert_tp does not divide dp * cp * tp.
    """
    width = mesh.tp * mesh.cp * mesh.dp
    if axis not in EXPERT_AXES:
        raise LayoutError(f"axis {axis!r}: the experts' view of a mesh has {', '.join(EXPERT_AXES)}")
    if width % (ep * expert_tp):
        raise LayoutError(f"ep {ep} * expert_tp {expert_tp}: must divide dp * cp * tp = {width}")
    degrees = (expert_tp, ep, width // (ep * expert_tp))
    at = EXPERT_AXES.index(axis)
    stride = prod(degrees[:at])
    block = stride * degrees[at]
    return tuple(
        tuple(range(start, start + block, stride))
        for first in range(0, mesh.size, block)
        for start in range(first, first + stride)
    )


def _offsets(mesh: Mesh, axes: tuple[str, ...]) -> list[int]:
    free = [range(_degree(mesh, axis)) if axis in axes else range(1) for axis in AXES]
    return sorted(rank_at(mesh, Coordinates(*at)) for at in product(*free))


def _degree(mesh: Mesh, axis: str) -> int:
    if axis not in AXES:
        raise LayoutError(f"axis {axis!r}: the mesh has {', '.join(AXES)}")
    degree: int = getattr(mesh, axis)
    return degree
