"""Grid: the switches of a layout, every combination at once.

The switches span a grid with one axis each, in the order of `AXES`. A quantity of a layout is an array over the grid,
of length 1 along the switches that it does not depend on: numpy's broadcasting puts them together. A switch of a mesh
axis has one value where that axis has one rank.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from parsim.search.shape import Mesh
from parsim.spec import Search
from parsim.spec.search import OFFLOADS

__all__ = ["AXES", "Bools", "Floats", "Grid", "grid_of"]

AXES = (
    "recompute",
    "tp_comm",
    "tp_overlap",
    "tp_network",
    "ep_overlap",
    "cp_comm",
    "precision",
    "zero",
    "dp_overlap",
    "dp_network",
    "pp_network",
    "offload_activations",
    "offload_weights",
    "offload_optimizer",
)

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """The values of each switch, in the order of `AXES`."""

    values: tuple[tuple[Any, ...], ...]
    _columns: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.values))

    @property
    def size(self) -> int:
        """Points, those that are no combination of the space included."""
        return int(np.prod(self.shape))

    def of(self, axis: str) -> tuple[Any, ...]:
        """The values of a switch."""
        return self.values[AXES.index(axis)]

    def along(self, axis: str, numbers: Any) -> Any:
        """One number for each value of a switch, as an array over the grid."""
        shape = [1] * len(AXES)
        shape[AXES.index(axis)] = len(self.of(axis))
        return np.asarray(numbers).reshape(shape)

    def where(self, axis: str, value: object) -> Bools:
        """Where a switch has a value."""
        found: Bools = self.along(axis, [one == value for one in self.of(axis)])
        return found

    def over(self, *axes: str) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], dict[str, Any]]]]:
        """The part of the grid that some switches span: the shape of an array over it, and for each of its points the
        index and the values of these switches."""
        numbers = [AXES.index(axis) for axis in axes]
        shape = tuple(len(v) if at in numbers else 1 for at, v in enumerate(self.values))
        points = []
        for index in product(*(range(n) for n in shape)):
            points.append((index, {axis: self.values[at][index[at]] for axis, at in zip(axes, numbers, strict=True)}))
        return shape, points

    def at(self, point: int) -> dict[str, Any]:
        """The values of all switches at a point, numbered in C order."""
        index = np.unravel_index(point, self.shape)
        return {axis: self.values[n][int(i)] for n, (axis, i) in enumerate(zip(AXES, index, strict=True))}

    @cached_property
    def combinations(self) -> Bools:
        """The points that are combinations of the space: with whole layers recomputed there is nothing to keep gathered
        for their backward, and no activation to move to the host."""
        whole = self.along("recompute", [one.mode == "full" and one.layers is None for one in self.of("recompute")])
        kept = self.where("tp_comm", "sequence_parallel_kept")
        offloaded = self.where("offload_activations", True)
        found: Bools = np.broadcast_to(~(whole & (kept | offloaded)), self.shape)
        return found


def grid_of(search: Search, mesh: Mesh) -> Grid:
    """The grid of the layouts on a mesh."""
    return _grid(search, mesh.tp > 1, mesh.cp > 1, mesh.ep > 1, mesh.holders > 1, mesh.pp > 1)


@lru_cache(maxsize=256)
def _grid(search: Search, tp: bool, cp: bool, ep: bool, holders: bool, pp: bool) -> Grid:
    """The grid where these axes have more than one rank."""
    space = search.space
    networks = {"tp_network": tp, "dp_network": holders, "pp_network": pp}
    several: dict[str, tuple[Any, ...]] = {
        "recompute": space.recompute,
        "tp_comm": space.tp_comm,
        "tp_overlap": space.tp_overlap if tp else ("none",),
        "ep_overlap": space.ep_overlap if ep else (False,),
        "cp_comm": space.cp_comm if cp else ("ring",),
        "precision": space.precision,
        "zero": space.zero if holders else (0,),
        "dp_overlap": space.dp_overlap if holders else (space.dp_overlap[0],),
        **{name: ("nvlink", "nic") if space.networks and several else ("usual",) for name, several in networks.items()},
        **{f"offload_{name}": (False, True) if name in space.offload else (False,) for name in OFFLOADS},
    }
    return Grid(tuple(several[axis] for axis in AXES))
