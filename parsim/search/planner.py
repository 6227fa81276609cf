"""search(...): the planner. From a search to its best layouts, with a certificate, and a reason for every rejection.

result = parsim.search(parsim.load_search("llama3-405b-h100"))
result.best.step_s, result.certified, result.document()
"""

import json
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from parsim.errors import LayoutError, SpecError
from parsim.schedules import get
from parsim.search.branch import Progress, Workers, branch_and_bound
from parsim.search.finalists import contended
from parsim.search.journal import Journal
from parsim.search.result import SearchResult
from parsim.search.scope import scope_of
from parsim.search.tasks import end_with_parent
from parsim.sim import Noise
from parsim.spec import Search

__all__ = ["check_search", "search"]

_FORMAT = "search 4"  # of journals: changes with what tasks answer


def _silent(phase: str, done: int, total: int, best_s: float | None) -> None:
    """Nobody wants to know."""


def search(
    what: Search,
    *,
    top: int = 10,
    jobs: int | None = 1,
    executor: Executor | None = None,
    budget_s: float | None = None,
    journal: Path | None = None,
    contention: int = 3,
    jitter: float = 0.0,
    progress: Progress = _silent,
) -> SearchResult:
    """The best `top` layouts of a search.

    `jobs` processes (None: all cores) or an `executor` do the work; the result is the same for any number, apart from
    `run_info`. With `budget_s` it ends early and says what gap is left. `journal`: a folder from which an interrupted
    search goes on. The first `contention` layouts are also played with contention; with `jitter`, the sigma of a
    lognormal factor on every op, all of the list a thousand times. Raises SpecError for a search that makes no sense,
    LayoutError where its space is empty or no layout is legal.
    """
    if top < 1:
        raise SpecError(f"top {top}: at least 1")
    check_search(what)
    Noise(jitter)
    started, cpu = time.monotonic(), time.process_time()
    text = json.dumps(what.document())
    scope = scope_of(text)
    deadline = None if budget_s is None else started + budget_s
    count = (os.cpu_count() or 1) if jobs is None else jobs
    own = executor is None and count > 1
    pool = ProcessPoolExecutor(count, get_context("spawn"), end_with_parent) if own else executor
    try:
        with Journal(journal, json.dumps({"format": _FORMAT, "top": top, "search": json.loads(text)})) as kept:
            workers = Workers(pool, kept, deadline)
            found = [branch_and_bound(scope, text, nodes, top, workers, progress) for nodes in scope.sizes]
    finally:
        if own and pool is not None:
            pool.shutdown(cancel_futures=True)
    if all(branches.complete for branches in found) and not any(branches.layouts for branches in found):
        raise LayoutError(_empty(what))
    decided = time.process_time() - cpu, time.monotonic() - started
    best = [
        contended(scope, branches.top, branches.complete, branches.bound_s, contention) if branches.top else None
        for branches in found
    ]
    info = {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.monotonic() - started,
        "certificate_cpu_s": decided[0],
        "certificate_wall_s": decided[1],
        "workers": count if executor is None else None,
    }
    return SearchResult(scope, tuple(found), tuple(best), info, jitter)


def check_search(what: Search) -> None:
    """SpecError for what the planner cannot do."""
    for name in what.space.schedule:
        if get(name).timed:
            raise SpecError(
                f"space.schedule {name}: it is made for the times of one layout, and so is no plan of many; "
                "`parsim simulate` plays it for the layout that is found"
            )
        if name.startswith("dualpipe"):
            raise SpecError(f"space.schedule {name}: pairs of ops are not priced by the search yet; zb-v would do")
    if what.software.bucket_bytes is not None and True in what.space.dp_overlap:
        raise SpecError(
            "software.bucket_bytes: the search hides reductions as they are reduced, without buckets of a stated size; "
            "none, or space.dp_overlap false, would do"
        )
    if what.software.post_validation:
        raise SpecError("software.post_validation: the search plays a step with its barrier; false would do")
    if what.space.networks and what.model.moe is not None:
        raise SpecError("space.networks: not for a model with experts, whose exchanges have groups of their own")


def _empty(what: Search) -> str:
    gpus = ", ".join(f"{nodes * what.cluster.node.gpus}" for nodes in what.sizes)
    return (
        f"space: no combination of it multiplies to {gpus} GPUs and divides {what.model.heads} heads, "
        f"{what.model.layers} layers and {what.batch.global_batch_size} sequences; `all` for tp, pp and dp would do"
    )
