"""Branch and bound: surveys every mesh, then takes the shape of the least bound until none can be better.

A shape has first the rough floor of its survey. When that is the least of all it is replaced by the shape's floor, this
by its bound without messages, then by the least bound of its layouts; when that is the least they are played. So links
are priced, and plans made, only where nothing else can tell. Shapes are taken in waves of fixed sizes: what a wave has
to beat is what those before it have found, however many workers play it. So the result, and how much was played, is the
same for one worker and for many.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from parsim.search.explore import Explored, Found
from parsim.search.journal import Journal
from parsim.search.scope import Scope
from parsim.search.shape import Mesh, Shape
from parsim.search.space import meshes, shape_at
from parsim.search.survey import Row
from parsim.search.tasks import explored_of, row_of, run_bare, run_bound, run_explore, run_floor, run_survey

__all__ = ["Branches", "Entry", "Progress", "Workers", "branch_and_bound"]

_TASKS = (run_floor, run_bare, run_bound, run_explore)
_WAVES = (16, 16, 16, 4)  # shapes that are taken together, by how much is known of them
_KNOWN = len(_TASKS) - 1

Progress = Callable[[str, int, int, float | None], None]
"""Told the phase, how much of it is done, of how much, and the best step time so far."""


class Entry(NamedTuple):
    """A layout of the list: where it stands in the order of the space, and what was found of it."""

    step_s: float
    order: int
    found: Found
    shape: Shape


@dataclass
class Branches:
    """What branch and bound finds on one size of cluster."""

    nodes: int
    rows: list[tuple[Mesh, Row]]
    top: list[Entry] = field(default_factory=list)
    vectors: int = 0
    played: int = 0
    inexact: int = 0
    opened: int = 0
    bound_s: float = float("inf")
    """No layout that was not played takes less."""
    complete: bool = True

    @property
    def layouts(self) -> int:
        return sum(row.layouts for _, row in self.rows)

    @property
    def feasible(self) -> int:
        return sum(row.feasible for _, row in self.rows)

    @property
    def removed(self) -> dict[str, int]:
        """Layouts by the first rule that removed them."""
        found: Counter[str] = Counter()
        for _, row in self.rows:
            found.update(row.removed)
        return dict(sorted(found.items()))


class Workers:
    """Who does tasks: an executor, or whoever asks, one after the other. Answers come in the order of the questions."""

    def __init__(self, executor: Executor | None, journal: Journal, deadline: float | None) -> None:
        self._executor, self._journal, self._deadline = executor, journal, deadline

    @property
    def late(self) -> bool:
        """Whether the budget is spent."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def ask(self, task: Callable[..., Any], questions: Sequence[tuple[str, tuple[Any, ...]]]) -> Iterator[Any]:
        """The answers of one kind of task; stops early where the budget ends."""
        waiting: list[Future[Any] | None] = [None] * len(questions)
        if self._executor is not None:
            waiting = [None if key in self._journal else self._executor.submit(task, *args) for key, args in questions]
        try:
            for (key, args), future in zip(questions, waiting, strict=True):
                if key in self._journal:
                    answer = self._journal[key]
                elif self.late:
                    return
                else:
                    answer = task(*args) if future is None else future.result()
                    self._journal.put(key, answer)
                yield answer
        finally:
            for left in waiting:
                if left is not None:
                    left.cancel()


def branch_and_bound(scope: Scope, text: str, nodes: int, keep: int, workers: Workers, progress: Progress) -> Branches:
    """The best `keep` layouts on `nodes` nodes, or what the budget allows to find."""
    every = list(meshes(scope, nodes))
    questions = [(f"survey {tuple(mesh)}", (text, tuple(mesh))) for mesh in every]
    answers = []
    for answer in workers.ask(run_survey, questions):
        answers.append(answer)
        progress("survey", len(answers), len(every), None)
    found = Branches(nodes, [(mesh, row_of(one)) for mesh, rows in zip(every, answers, strict=False) for one in rows])
    if len(answers) < len(every):
        found.complete, found.bound_s = False, 0.0
        return found
    shapes = [_Open(row.floor_s, number, 0) for number, (_, row) in enumerate(found.rows) if row.feasible]
    _explore(scope, text, shapes, keep, workers, progress, found)
    return found


class _Open(NamedTuple):
    """A shape that is not decided: no layout of it takes less than `bound_s`, which is the rough floor (`known` 0), the
    floor (1), the bound without messages (2) or the least bound of all its layouts (3).
    """

    bound_s: float
    number: int
    known: int


def _explore(
    scope: Scope, text: str, every: list[_Open], keep: int, workers: Workers, progress: Progress, found: Branches
) -> None:
    """Take shapes, least bound first, until no bound is below the last of the list."""
    heapify(every)
    total, decided = len(every), 0
    while every and every[0].bound_s < (cutoff := _cutoff(found.top, keep)):
        wave = _wave(every, cutoff)
        limit = None if cutoff == float("inf") else cutoff
        questions = []
        for shape in wave:
            mesh, row = found.rows[shape.number]
            more = (limit, keep) if shape.known == _KNOWN else ()
            args = (text, tuple(mesh), row.number, *more)
            questions.append((f"{_TASKS[shape.known].__name__} {args[1:]}", args))
        answers = list(workers.ask(_TASKS[wave[0].known], questions))
        for shape, answer in zip(wave, answers, strict=False):
            if shape.known == _KNOWN:
                _take(scope, found, shape.number, explored_of(answer), keep)
                decided += 1
            else:
                bound_s, vectors = answer
                found.vectors += vectors
                found.opened += vectors > 0
                heappush(every, _Open(max(bound_s, shape.bound_s), shape.number, shape.known + 1))
            progress("play", decided, total, found.top[0].step_s if found.top else None)
        if len(answers) < len(wave):
            found.complete = False
            for shape in wave[len(answers) :]:
                heappush(every, shape)
            break
    if every:
        found.bound_s = min(found.bound_s, every[0].bound_s)


def _wave(every: list[_Open], cutoff: float) -> list[_Open]:
    """The next shapes of which as much is known as of the first."""
    known = every[0].known
    wave = [heappop(every)]
    while every and every[0].known == known and every[0].bound_s < cutoff and len(wave) < _WAVES[known]:
        wave.append(heappop(every))
    return wave


def _take(scope: Scope, found: Branches, number: int, explored: Explored, keep: int) -> None:
    mesh, row = found.rows[number]
    shape = shape_at(scope, mesh, row.number)
    found.played += explored.played
    found.inexact += explored.inexact
    found.bound_s = min(found.bound_s, explored.bound_s)
    entries = [Entry(best.step_s, number, best, shape) for best in explored.best]
    found.top = sorted([*found.top, *entries], key=lambda entry: (entry.step_s, entry.order, entry.found.point))[:keep]


def _cutoff(top: Sequence[Entry], keep: int) -> float:
    return top[-1].step_s if len(top) == keep else float("inf")
