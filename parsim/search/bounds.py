"""Bounds: step times that no play of a shape's plan can beat, from closed forms; over the grid.

    work   a rank plays one slot at a time: m times its stages' F and B
    chain  its first op waits for the forwards before its first stage, and what it ends with goes back to the first one
    way    one micro-batch through all stages and back

and behind each what the last op still has to wait for: its stage's reduction and the optimizer steps of its rank. Where
I and W are apart a rank may end in W, which nothing waits for: the way back then starts at its last I, with m F and m I
behind it. Each is a path of the plan, or the work of one stream, so the step takes at least as long.
"""

from collections import Counter
from collections.abc import Sequence
from functools import reduce

import numpy as np

from parsim.cost.constants import FITTED
from parsim.cost.step_end import straggler_factor
from parsim.model.layer import LayerKind
from parsim.plan import Kind
from parsim.search.grid import Floats
from parsim.search.shape import Shape
from parsim.search.stages import stages_of
from parsim.search.times import Times
from parsim.search.units import LOOP_S, PASSES, least_prices, least_units, unit_key
from parsim.spec import Search

__all__ = ["bound", "floor", "least"]


def least(search: Search, shape: Shape, recomputes: Sequence[int], whole: bool = False) -> float:
    """Less than any layout of a shape takes that has one of these values of recompute (by number): the kernels of the
    busiest rank, for which no collective is priced; or with `whole` its ops.
    """
    stages, mesh = stages_of(search, shape), shape.mesh
    units = (least_prices if whole else least_units)(search, unit_key(search, mesh, shape.micro_batch_size))
    alone = []
    for stage in stages.classes:
        held: list[tuple[LayerKind | str, int]] = [*stage.layers]
        held += [(name, 1) for name, has in (("embedding", stage.first), ("head", stage.last)) if has]
        alone.append(sum(LOOP_S[kind] + sum(n * units.alone[name, kind] for name, n in held) for kind in PASSES))
    found = []
    for number in recomputes:
        work = [
            seconds + sum(n * units.again[number][layer] for layer, n in stage.again[number])
            for seconds, stage in zip(alone, stages.classes, strict=True)
        ]
        found.append(max(sum(work[which] for which in kind) for kind in stages.rank_kinds))
    m = shape.microbatches / len(stages.placement.chains)
    return m * min(found) * straggler_factor(mesh.gpus, FITTED) * search.batch.global_batch_size / mesh.sequences


def floor(times: Times) -> Floats:
    """The work of the busiest rank: needs no message and no end of the step priced."""
    m = times.shape.microbatches / len(times.stages.placement.chains)
    work = [_sum(times, rank, Kind.F) + _sum(times, rank, Kind.B) for rank in times.stages.rank_kinds.values()]
    return m * reduce(np.maximum, work) * times.scale


def _sum(times: Times, rank: int, kind: Kind) -> Floats:
    return reduce(np.add, (times.op(number, kind) for number in times.stages.ranks[rank]))


def bound(times: Times, bare: bool = False) -> Floats:
    """The largest of the bounds; `bare`: as if messages and the end of the step took no time, so that no link has to be
    priced.
    """
    stages, placement, split = times.stages, times.stages.placement, times.split_backward
    m = times.shape.microbatches / len(placement.chains)
    gradient = Kind.I if split else Kind.B
    into, back = _chains(times, Kind.F, bare), _chains(times, gradient, bare)
    found: list[Floats] = []
    ends = {kind: _tail(times, rank, bare) for kind, rank in stages.rank_kinds.items()}
    tails = [ends[tuple(sorted(own))] for own in stages.ranks]
    for rank in range(placement.ranks):
        own = placement.stages_of(rank)
        arrival = reduce(np.minimum, (into[stage] for stage in own))
        forward, backward = _sum(times, rank, Kind.F), _sum(times, rank, Kind.B)
        found.append(arrival + m * (forward + backward) + tails[rank])
        returned = back[min(own)] if len(placement.chains) == 1 else None
        if returned is not None:
            worked = forward + (_sum(times, rank, Kind.I) if split else backward)
            found.append(arrival + m * worked + returned + _last(times, 0, split, bare))
    for chain in placement.chains:
        way = into[chain[-1]] + times.op(stages.of[chain[-1]], Kind.F) + times.op(stages.of[chain[-1]], gradient)
        found.append(way + back[chain[-1]] + _last(times, chain[0], split, bare))
    return reduce(np.maximum, found) * times.scale


def _chains(times: Times, kind: Kind, bare: bool) -> dict[int, Floats]:
    """For each stage, what lies before it in its chain: ops of one kind and the messages between them."""
    found: dict[int, Floats] = {}
    for chain in times.stages.placement.chains:
        total: Floats = np.zeros((1,) * len(times.grid.shape))
        for stage, before in zip(chain, (None, *chain), strict=False):
            if before is not None:
                total = total + times.op(times.stages.of[before], kind)
                if not bare:
                    total = total + (times.hop(before, stage) if kind is Kind.F else times.hop(stage, before))
            found[stage] = total
    return found


def _last(times: Times, stage: int, split: bool, bare: bool) -> Floats:
    """What follows the last gradient of the first stage: its W, and the end of the step."""
    tail = _tail(times, times.stages.placement.rank_of[stage], bare)
    return tail + times.op(times.stages.of[stage], Kind.W) if split else tail


def _tail(times: Times, rank: int, bare: bool) -> Floats:
    """What follows the last op of a rank: all its optimizer steps; the reduction and step of the stage it was of."""
    if bare:
        return np.zeros((1,) * len(times.grid.shape))
    own = Counter(times.stages.ranks[rank])
    steps: Floats = reduce(np.add, (count * times.step(which) for which, count in own.items()))
    last: Floats = reduce(np.minimum, (times.reduction(which) + times.step(which) for which in own))
    return np.maximum(steps, last)
