"""The period of a step without a barrier: every rank starts its next step as soon as it has ended its own.

With the optimizer's barrier all ranks start together, and steps lap each other by the makespan. Post-validation (Qi et
al. 2024, 2401.10241, section 4) takes the barrier away: a rank steps at once and the global norm is checked while the
next step runs. If A[r, q] is the longest path from rank r's start of a step to rank q's end of it, the ends x of a step
give those of the next as max over r of (x[r] + A[r, q]): a linear system in the (max, +) algebra, which settles to a
period, the largest mean of a circle of A (Karp 1978; Baccelli et al. 1992, chapter 3). The period is never above the
makespan, never below the busiest rank's work.
"""

import numpy as np

from parsim.sim.played import Played
from parsim.sim.prices import Floats, row_delays, row_seconds
from parsim.sim.program import COMPUTE

__all__ = ["largest_circle_mean", "lasting", "step_period"]


def lasting(played: Played, barrier: bool) -> float:
    """Seconds that a step lasts: with a barrier its makespan, without one its period."""
    return played.makespan if barrier else step_period(played)


def step_period(played: Played, lane: int = 0) -> float:
    """Seconds between a rank's steps once they have settled."""
    return largest_circle_mean(_paths(played, lane))


def _paths(played: Played, lane: int) -> Floats:
    """A[ranks, ranks]: the longest path from the start of a rank to the end of another (minus infinity: none)."""
    program, ranks = played.program, played.program.plan.placement.ranks
    seconds = row_seconds(program, played.prices, lane, played.multipliers).tolist()
    delays = row_delays(program, played.prices, lane).tolist()
    rank, prev, deps = program.rank.tolist(), program.prev.tolist(), program.dep.tolist()
    started = np.where(np.eye(ranks, dtype=bool), 0.0, -np.inf)
    ends = np.full((program.rows + 1, ranks), -np.inf)  # [row, from rank]
    for index, (before, lasts) in enumerate(zip(prev, seconds, strict=True)):
        start = started[rank[index]] if before == 0 else ends[before]
        for dep, delay in zip(deps, delays, strict=True):
            if dep[index]:
                start = np.maximum(start, ends[dep[index]] + delay[index])
        ends[index + 1] = start + lasts
    paths = np.full((ranks, ranks), -np.inf)
    for at, stream, rows in program.lines:
        if stream == COMPUTE:
            paths[:, at] = ends[rows[-1]]
    return paths


def largest_circle_mean(paths: Floats) -> float:
    """The largest mean weight of a circle of a graph whose edge from r to q weighs `paths[r, q]` (Karp's theorem), of
    which every node can be reached from every other.
    """
    nodes = len(paths)
    walks = np.full((nodes + 1, nodes), -np.inf)  # the heaviest walk of k edges from node 0
    walks[0, 0] = 0.0
    for edges in range(nodes):
        walks[edges + 1] = (walks[edges][:, None] + paths).max(axis=0)
    lengths = nodes - np.arange(nodes)[:, None]
    means = np.where(np.isfinite(walks[:-1]), (walks[-1] - walks[:-1]) / lengths, np.inf)
    return float(means.min(axis=0).max())
