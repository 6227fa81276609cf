"""Sensitivity: what a little more of the machine would buy, each found by a search of its own."""

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from parsim.errors import ParsimError
from parsim.search.planner import search
from parsim.search.result import SearchResult
from parsim.spec import Search

__all__ = ["sensitivity_of"]

_GIB = 2.0**30


def sensitivity_of(
    result: SearchResult, *, jobs: int | None = 1, executor: Executor | None = None, budget_s: float | None = None
) -> list[dict[str, Any]]:
    """For each change the best step time, and what it is against the winner's."""
    best = result.best
    if best is None:
        return []
    found: list[dict[str, Any]] = []
    for what, changed in _changes(result.scope, best.shape.mesh.nodes):
        try:
            other = search(changed, top=1, jobs=jobs, executor=executor, budget_s=budget_s, contention=0)
        except ParsimError as error:
            found.append({"change": what, "step_time_s": None, "gain": None, "note": str(error)})
            continue
        entry = other.best
        gain = None if entry is None else 1 - entry.step_s / best.step_s
        found.append(
            {
                "change": what,
                "step_time_s": None if entry is None else entry.step_s,
                "gain": gain,
                "certified": other.certified,
                "note": None if entry is not None else "no layout is left",
            }
        )
    return found


def _changes(scope: Search, nodes: int) -> Iterator[tuple[str, Search]]:
    known = Search.model_validate(scope.document()).model_copy(update={"nodes": (nodes,)})
    node = known.cluster.node
    yield (
        "1 GiB more memory on each GPU",
        _with_node(known, gpu=node.gpu.model_copy(update={"memory_bytes": node.gpu.memory_bytes + _GIB})),
    )
    yield "NICs 10 % faster", _with_node(known, nic_bytes_per_s=node.nic_bytes_per_s * 1.1)
    yield (
        "NVLink 10 % faster",
        _with_node(known, gpu=node.gpu.model_copy(update={"nvlink_bytes_per_s": node.gpu.nvlink_bytes_per_s * 1.1})),
    )
    yield "one more node", known.model_copy(update={"nodes": (nodes + 1,)})


def _with_node(known: Search, **changes: Any) -> Search:
    cluster = known.cluster.model_copy(update={"node": known.cluster.node.model_copy(update=changes)})
    return known.model_copy(update={"cluster": cluster})
