"""Brute force: every layout of a space as a run, judged by the run's own checks and ledger, played by SimPy."""

from typing import NamedTuple

import numpy as np

from parsim.errors import ParsimError
from parsim.search.grid import grid_of
from parsim.search.layouts import run_of
from parsim.search.shape import Shape
from parsim.search.space import meshes, shapes
from parsim.search.survey import limit_of
from parsim.simulation import simulate
from parsim.spec import Search


class Layout(NamedTuple):
    """A layout that fits: its step time and peak."""

    step_s: float
    shape: Shape
    point: int
    peak_bytes: float


def every_layout(search: Search, contention: bool = False) -> list[Layout]:
    """All that are legal and fit."""
    found = []
    for nodes in search.sizes:
        for mesh in meshes(search, nodes):
            grid = grid_of(search, mesh)
            for shape in shapes(search, mesh):
                for point in np.flatnonzero(grid.combinations.reshape(-1)).tolist():
                    try:
                        run = run_of(search, shape, grid.at(point))
                        played = simulate(run, engine="events", contention=contention)
                    except ParsimError:
                        continue
                    assert played.peak_memory_bytes is not None
                    if played.peak_memory_bytes <= limit_of(search):
                        scale = search.batch.global_batch_size / mesh.sequences
                        found.append(Layout(played.step_time_s * scale, shape, point, played.peak_memory_bytes))
    return found
