"""Branch and bound: surveys every mesh, then explores shapes in the order of their floors until none can be better.

Shapes are explored in waves of fixed sizes: what a wave has to beat is what those before it have found, however many
workers play it. So the result, and how much was played, is the same for one worker and for many.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from parsim.search.explore import Explored, Found
from parsim.search.journal import Journal
from parsim.search.scope import Scope
from parsim.search.shape import Mesh, Shape
from parsim.search.space import meshes, shapes
from parsim.search.survey import Row
from parsim.search.tasks import explored_of, row_of, run_explore, run_survey

__all__ = ["Branches", "Entry", "Progress", "Workers", "branch_and_bound"]

_WAVES = (1, 1, 2, 4)  # then always the next
_WAVE = 8

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
    order = sorted((row.floor_s, number) for number, (_, row) in enumerate(found.rows) if row.feasible)
    _explore(scope, text, order, keep, workers, progress, found)
    return found


def _explore(
    scope: Scope,
    text: str,
    order: list[tuple[float, int]],
    keep: int,
    workers: Workers,
    progress: Progress,
    found: Branches,
) -> None:
    start = wave = 0
    while start < len(order) and order[start][0] < _cutoff(found.top, keep):
        size = _WAVES[wave] if wave < len(_WAVES) else _WAVE
        cutoff = _cutoff(found.top, keep)
        members = [number for floor, number in order[start : start + size] if floor < cutoff]
        questions = []
        for number in members:
            mesh, row = found.rows[number]
            args = (text, tuple(mesh), row.number, None if cutoff == float("inf") else cutoff, keep)
            questions.append((f"explore {args[1:]}", args))
        answered = 0
        for number, values in zip(members, workers.ask(run_explore, questions), strict=False):
            _take(scope, found, number, explored_of(values), keep)
            answered += 1
            progress("play", start + answered, len(order), found.top[0].step_s if found.top else None)
        if answered < len(members):
            found.complete = False
            break
        start, wave = start + len(members), wave + 1
    if start < len(order):
        found.bound_s = min(found.bound_s, order[start][0])


def _take(scope: Scope, found: Branches, number: int, explored: Explored, keep: int) -> None:
    mesh, row = found.rows[number]
    shape = next(shape for at, shape in enumerate(shapes(scope, mesh)) if at == row.number)
    found.vectors += explored.vectors
    found.played += explored.played
    found.inexact += explored.inexact
    found.opened += 1
    found.bound_s = min(found.bound_s, explored.bound_s)
    entries = [Entry(best.step_s, number, best, shape) for best in explored.best]
    found.top = sorted([*found.top, *entries], key=lambda entry: (entry.step_s, entry.order, entry.found.point))[:keep]


def _cutoff(top: Sequence[Entry], keep: int) -> float:
    return top[-1].step_s if len(top) == keep else float("inf")
