"""Explain: why some layouts are out, or how far the best of them is behind, and what it loses where.

The layouts are a smaller space. Those of them that rules remove are explained rule by rule; the best that is left is
compared with the best of all: its place in the list by counting every faster cost vector, and the seconds of each cause
that it takes more or less.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from parsim.errors import LayoutError, ParsimError
from parsim.search.branch import Entry
from parsim.search.explore import explore, floored
from parsim.search.finalists import run_of_entry
from parsim.search.planner import search
from parsim.search.reasons import memory_text
from parsim.search.result import SearchResult
from parsim.search.space import shape_at
from parsim.search.survey import MEMORY
from parsim.simulation import simulate
from parsim.spec import Search

__all__ = ["explain", "faster"]

_EVERY = 10**9


def explain(
    result: SearchResult,
    smaller: Search,
    conditions: Sequence[tuple[str, str]],
    *,
    jobs: int | None = 1,
    executor: Executor | None = None,
    budget_s: float | None = None,
) -> dict[str, Any]:
    """What there is to say of the layouts that meet the conditions."""
    asked = ",".join(f"{name}={value}" for name, value in conditions)
    try:
        found = search(smaller, top=1, jobs=jobs, executor=executor, budget_s=budget_s, contention=0)
    except LayoutError as error:
        return {"asked": asked, "layouts": 0, "feasible": 0, "removed": {}, "answer": f"none is in the space: {error}"}
    says: dict[str, str] = {}
    rows = [(mesh, row) for size in found.sizes for mesh, row in size.rows]
    for _, row in rows:
        for rule, text in row.says.items():
            says.setdefault(rule, text)
    if MEMORY in says:
        says[MEMORY] = memory_text(found.scope, rows)
    document: dict[str, Any] = {
        "asked": asked,
        "layouts": found.space,
        "feasible": found.feasible,
        "removed": {
            rule: {"layouts": count, "because": says[rule]} for rule, count in found.document()["removed"].items()
        },
    }
    best = found.best
    if best is None:
        return {**document, "answer": f"all {found.space} are out"}
    document["best"] = found.entry(best)
    winner = result.best
    if winner is None or best.step_s <= winner.step_s * (1 + 1e-9):
        return {**document, "rank": 1, "answer": "the best of them is the best of all"}
    ahead = faster(result, best.step_s)
    behind = best.step_s / winner.step_s - 1
    document |= {"rank": ahead + 1, "behind": behind, "differs": _difference(result, winner, found, best)}
    return {
        **document,
        "answer": f"the best of them is {behind:.1%} slower than the best; {ahead} cost vectors are faster",
    }


def faster(result: SearchResult, step_s: float) -> int:
    """How many distinct cost vectors of the whole space take less than `step_s`: each is played."""
    count = 0
    for size in result.sizes:
        for mesh, row in size.rows:
            if row.feasible and row.floor_s < step_s:
                shape = shape_at(result.scope, mesh, row.number)
                if floored(result.scope, shape) >= step_s:
                    continue
                count += len(explore(result.scope, shape, step_s * (1 - 1e-9), _EVERY).best)
    return count


def _difference(result: SearchResult, winner: Entry, found: SearchResult, other: Entry) -> list[dict[str, Any]]:
    """Seconds by cause that the other layout takes more, averaged over ranks, the most first."""
    causes = []
    for owner, entry in ((result, winner), (found, other)):
        run, unsaid = run_of_entry(owner.scope, entry)
        if unsaid:
            return []
        scale = owner.scope.batch.global_batch_size / entry.shape.mesh.sequences
        try:
            rows = simulate(run).waterfall.document()
        except ParsimError:
            return []
        causes.append({row["cause"]: row["seconds"] * scale for row in rows})
    names = dict.fromkeys((*causes[0], *causes[1]))
    more = {name: causes[1].get(name, 0.0) - causes[0].get(name, 0.0) for name in names}
    return [
        {"cause": name, "more_s": seconds}
        for name, seconds in sorted(more.items(), key=lambda item: -abs(item[1]))
        if abs(seconds) > 1e-9
    ]
