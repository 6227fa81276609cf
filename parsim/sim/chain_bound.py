"""The chain bound: a time that no play of a schedule can beat, from its edges and the times of its stages.

The first op of a rank cannot start before the chain into it, one rank does one op at a time, and what comes after an op
in its chain is serial. So a step takes at least, on any rank,

    the chain into an op + the rank's work from there to a later op + the chain out of that one.

The ops are the rank's first one, its first backward and its last. A path of the plan bounds it too: a micro-batch
forward and back with every hop.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parsim.plan import Placement
from parsim.plan.edges import Edges

__all__ = ["StageTimes", "chain_bound"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StageTimes:
    """Seconds by stage and lane, `[S, B]`.

    `kinds` has F, B, I and W as the schedule plays them, and FB by the forward's stage where a forward overlaps with a
    backward of the rank's other stage. `forward_hop` is the delay to the next stage of the chain, `backward_hop` to the
    one before; 0 within a rank and where there is none.
    """

    kinds: Mapping[str, Floats]
    forward_hop: Floats
    backward_hop: Floats


def chain_bound(edges: Edges, placement: Placement, times: StageTimes, tails: Floats | float = 0.0) -> Floats:
    """The bound of each lane, `[B]`. `tails[B]` or `tails[ranks, B]` is what follows on a rank after its last op."""
    return _Chains(edges, placement, times, tails).bound()


class _Chains:
    """Chains into and out of the stages of each lane, `[S, B]`, and the work of ranks, `[ranks, B]`."""

    def __init__(self, edges: Edges, placement: Placement, times: StageTimes, tails: Floats | float) -> None:
        self._edges, self._placement, self._times = edges, placement, times
        self._rank_of = np.array(placement.rank_of)
        self._tails = np.broadcast_to(tails, (placement.ranks, times.kinds["F"].shape[1]))
        self._backward = times.kinds["I" if "I" in edges.played else "B"]
        # Where every backward is split, a W follows each I.
        self._weight = times.kinds["W"] if "B" not in edges.played else np.zeros((1, 1))

    def bound(self) -> Floats:
        edges, kinds = self._edges, self._times.kinds
        work = sum(self._by_rank(count * kinds[kind]) for kind, count in edges.played.items())
        first, last = list(edges.first_forward), list(edges.last_backward)
        into = self._into_forward()
        most, least = (
            self._by_rank(count * kinds.get("W", 0.0)) for count in (edges.waiting_most, edges.waiting_least)
        )
        out = self._out_of_backward(least)[last]
        paths = [into[first] + work + self._tails, into[first] + work - most + out]
        if edges.first_backward is not None and edges.before is not None:
            before = self._by_rank(edges.before * kinds["F"])
            all_first = "FB" not in edges.played and np.array_equal(edges.before, edges.played["F"])
            entry = self._into_backward(into, before, all_first)[list(edges.first_backward)]
            paths += [entry + work - before + self._tails, entry + work - before - most + out]
        bound: Floats = np.maximum(np.maximum.reduce(paths).max(axis=0), self._way_of_one())
        return bound

    def _by_rank(self, of_stages: npt.NDArray[np.floating]) -> Floats:
        """Sums over the stages of each rank."""
        order = np.argsort(self._rank_of, kind="stable")
        starts = np.searchsorted(self._rank_of[order], np.arange(self._placement.ranks))
        found: Floats = np.add.reduceat(of_stages[order], starts, axis=0)
        return found

    def _into_forward(self) -> Floats:
        """The earliest start of the F of a chain's first micro-batch on each stage."""
        into = np.empty_like(self._times.kinds["F"])
        for chain in map(list, self._placement.chains):
            steps = self._times.kinds["F"][chain] + self._times.forward_hop[chain]
            into[chain] = np.cumsum(steps, axis=0) - steps
        return into

    def _into_backward(self, into: Floats, before: Floats, all_first: bool) -> Floats:
        """The earliest start of the first backward of each stage: the forwards that the last stage's rank plays before
        its own, and with `all_first`, where every rank plays all its forwards first, those of the slowest; then the
        chain back.
        """
        found = np.empty_like(into)
        edges, forward = self._edges, self._times.kinds["F"]
        for chain in map(list, self._placement.chains):
            last, rank = chain[-1], self._rank_of[chain[-1]]
            start = np.maximum(into[last] + forward[last], into[edges.first_forward[rank]] + before[rank])
            if all_first:
                for rank, own in enumerate(map(max, map(self._placement.stages_of, range(self._placement.ranks)))):
                    onward = into[last] + forward[last] - into[own] - forward[own]
                    start = np.maximum(start, into[edges.first_forward[rank]] + before[rank] + onward)
            steps = (self._backward[chain] + self._times.backward_hop[chain])[::-1]
            found[chain] = (start + np.cumsum(steps, axis=0) - steps)[::-1]
        return found

    def _out_of_backward(self, waiting: Floats) -> Floats:
        """What follows the last backward of each stage: W that wait on its rank, or the chain on to its beginning."""
        here = np.broadcast_to(self._weight, self._backward.shape) + self._tails[self._rank_of]
        last = list(self._edges.last_backward)
        here[last] = waiting + self._tails
        out: Floats = np.empty_like(here)
        for chain in map(list, self._placement.chains):
            # out[i] = max(here[i], step[i] + out[i - 1]), the steps summed up from the chain's beginning
            steps = self._times.backward_hop[chain]
            steps[1:] += self._backward[chain[:-1]]
            steps[0] = 0.0
            way = np.cumsum(steps, axis=0)
            out[chain] = way + np.maximum.accumulate(here[chain] - way, axis=0)
        return out

    def _way_of_one(self) -> Floats:
        """A micro-batch forward and back, each op in the shortest form that it is played in."""
        kinds, chain_ways = self._times.kinds, []
        forward, backward = kinds["F"], self._backward
        if "B" in self._edges.played:
            backward = np.minimum(backward, kinds["B"])
        if "FB" in self._edges.played:
            partner = [next(t for t in self._placement.stages_of(r) if t != s) for s, r in enumerate(self._rank_of)]
            forward, backward = np.minimum(forward, kinds["FB"]), np.minimum(backward, kinds["FB"][partner])
        for chain in map(list, self._placement.chains):
            ops = (forward + backward)[chain].sum(axis=0)
            hops = (self._times.forward_hop + self._times.backward_hop)[chain].sum(axis=0)
            first = chain[0]
            weight = self._weight[first] if len(self._weight) > 1 else 0.0
            chain_ways.append(ops + hops + weight + self._tails[self._rank_of[first]])
        found: Floats = np.maximum.reduce(chain_ways)
        return found
