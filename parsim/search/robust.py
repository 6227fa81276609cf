"""Robust: the layouts of the list once more with jitter on every op, and what half and 95 % of their steps take.

Every rank of a tensor-parallel group and every data-parallel replica draws for itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from parsim.search.branch import Entry
from parsim.search.copies import moving_stages
from parsim.search.finalists import switches_of
from parsim.search.playing import plan_for, prices_of
from parsim.search.scope import Scope
from parsim.search.times import Times
from parsim.sim import Noise, Prices, compile_plan
from parsim.sim.replicas import step_samples

__all__ = ["SAMPLES", "Robust", "robust"]

SAMPLES = 1000


class Robust(NamedTuple):
    """A layout by its place in the list, counted from 1, and the seconds that half and 95 % of its steps last."""

    rank: int
    p50_s: float
    p95_s: float

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return self._asdict()


def robust(scope: Scope, top: Sequence[Entry], jitter: float, samples: int = SAMPLES) -> tuple[Robust, ...]:
    """The list by the p95 of its steps, least first. `jitter`: sigma of the lognormal factor; the seed is the search's.

    SpecError for an impossible sigma.
    """
    noise = Noise(jitter, seed=scope.seed)
    found = []
    for rank, entry in enumerate(top, 1):
        shape = entry.shape
        mesh = shape.mesh
        away = switches_of(scope, entry)["offload_activations"]
        moving = moving_stages(scope, shape) if away else frozenset[int]()
        program = compile_plan(plan_for(shape.schedule, mesh.pp, shape.microbatches, shape.stages_per_rank, moving))
        lane = prices_of(Times(scope, shape), np.array([entry.found.point]), program)
        prices = Prices(lane.durations[:, 0], lane.delays[:, 0])
        seconds = step_samples(program, prices, noise, samples, mesh.dp * mesh.cp, mesh.tp)
        p50, p95 = np.quantile(seconds, (0.5, 0.95)).tolist()
        found.append(Robust(rank, p50, p95))
    return tuple(sorted(found, key=lambda one: (one.p95_s, one.rank)))
