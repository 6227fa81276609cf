"""Tasks: what a worker is asked, as functions of plain values, and what it answers, as plain JSON values.

A worker is given the document of the search, from which it makes its own scope once; floats survive JSON, infinity
as None.
"""

import os
from multiprocessing import parent_process
from threading import Thread
from typing import Any

from parsim.search.explore import Explored, Found, bared, explore, floored, tightened
from parsim.search.scope import scope_of
from parsim.search.shape import Mesh
from parsim.search.space import shape_at
from parsim.search.survey import Row, survey

__all__ = [
    "end_with_parent",
    "explored_of",
    "row_of",
    "run_bare",
    "run_bound",
    "run_explore",
    "run_floor",
    "run_survey",
]

_INFINITE = float("inf")


def end_with_parent() -> None:
    """A worker ends when the process that started it does, even one that was killed and could not say so: it would wait
    for a task for ever.
    """
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    Thread(target=watch, daemon=True).start()


def run_survey(text: str, mesh: tuple[int, ...]) -> list[Any]:
    """The rows of a mesh."""
    return [
        [row.number, row.layouts, dict(row.removed), dict(row.says), row.feasible, _finite(row.floor_s), row.least_peak]
        for row in survey(scope_of(text), Mesh(*mesh))
    ]


def row_of(values: list[Any]) -> Row:
    """A row as `run_survey` answers it."""
    number, layouts, removed, says, feasible, floor_s, least = values
    peak = None if least is None else (float(least[0]), int(least[1]), int(least[2]))
    return Row(number, layouts, removed, says, feasible, _INFINITE if floor_s is None else floor_s, peak)


def run_floor(text: str, mesh: tuple[int, ...], number: int) -> list[Any]:
    """The floor of a shape, by its number on its mesh; nobody has counted its cost vectors."""
    scope = scope_of(text)
    return [floored(scope, shape_at(scope, Mesh(*mesh), number)), 0]


def run_bare(text: str, mesh: tuple[int, ...], number: int) -> list[Any]:
    """The same of its bound without messages and ends."""
    scope = scope_of(text)
    return [bared(scope, shape_at(scope, Mesh(*mesh), number)), 0]


def run_bound(text: str, mesh: tuple[int, ...], number: int) -> list[Any]:
    """The least bound of a shape, and how many cost vectors it has."""
    scope = scope_of(text)
    return list(tightened(scope, shape_at(scope, Mesh(*mesh), number)))


def run_explore(text: str, mesh: tuple[int, ...], number: int, cutoff_s: float | None, keep: int) -> list[Any]:
    """What comes of a shape."""
    scope = scope_of(text)
    cutoff = _INFINITE if cutoff_s is None else cutoff_s
    found = explore(scope, shape_at(scope, Mesh(*mesh), number), cutoff, keep)
    return [[list(best) for best in found.best], found.played, found.inexact, _finite(found.bound_s)]


def explored_of(values: list[Any]) -> Explored:
    """As `run_explore` answers it."""
    best, played, inexact, bound_s = values
    return Explored(tuple(Found(*one) for one in best), played, inexact, _INFINITE if bound_s is None else bound_s)


def _finite(seconds: float) -> float | None:
    return None if seconds == _INFINITE else seconds
