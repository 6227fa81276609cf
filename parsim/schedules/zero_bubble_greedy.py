"""The zero-bubble authors' greedy rule (arXiv:2401.10241, 3.1) in its eight variants, under a limit of activations.

One turn for each micro-batch: on every rank at most one F, then on every rank, last one first, one I. Before either, a
rank fills its waiting time with W, and makes room with W where it holds as much as it may. Warm-up: as many F as fit
before the first gradient can be there. The paper writes B for I.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from parsim.schedules.rehearsal import Rehearsal, StageTimes

__all__ = ["Limit", "Variant", "greedy", "greedy_variants"]

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Limit:
    """What a rank may hold, in activations of its stage: 1 from F to I, and `weight_share` of it on to the W."""

    activations: float
    weight_share: float = 1.0

    def lacks_room(self, forwards: int, gradients: int, weights: int) -> bool:
        """Whether one more F after these ops would hold too much."""
        held = forwards - gradients + (gradients - weights) * self.weight_share
        return held + 1 > self.activations + _ROUNDING


class Variant(NamedTuple):
    """The three decisions that the rule leaves open."""

    late: bool
    """A warm-up F that begins before the first gradient comes is played even if it ends after it."""
    gradients_first: bool
    """A rank that is two F ahead of its successor leaves one out where it would hold up the next gradient."""
    fill: bool
    """W also where the wait is shorter than it, and no longer than what the rank that waited most waited more."""


def greedy_variants(times: StageTimes, microbatches: int, limit: Limit) -> Iterator[Rehearsal]:
    """The rule in those of its variants that differ. No rank holds more than `limit`, of at least 1 activation."""
    asked_of: dict[Variant, set[str]] = {}
    for variant in map(Variant._make, product((True, False), repeat=3)):
        for decision in Variant._fields:
            other = variant._replace(**{decision: not getattr(variant, decision)})
            if decision not in asked_of.get(other, {decision}):
                asked_of[variant] = asked_of[other]  # the same, for this decision is all they differ in
                break
        else:
            line, asked_of[variant] = greedy(times, microbatches, limit, variant)
            yield line


def greedy(times: StageTimes, microbatches: int, limit: Limit, variant: Variant) -> tuple[Rehearsal, set[str]]:
    """The rule played to its end, and the names of the decisions that it came to."""
    line, asked = Rehearsal(times, microbatches), set[str]()
    last, down = times.stages - 1, range(times.stages)
    for stage in down:
        line.forward(stage)
    warm_up = _warm_up(line, limit, variant.late)
    if warm_up != _warm_up(line, limit, not variant.late):
        asked.add("late")
    for stage, count in enumerate(warm_up):
        for _ in range(count):
            line.forward(stage)
    for stage in down[::-1]:
        line.gradient(stage)
    for _ in range(1, microbatches):
        for stage in _forward_turn(line, limit, variant, asked):
            while limit.lacks_room(line.forwards[stage], line.gradients[stage], line.weights[stage]):
                line.weight(stage)
            if stage:
                _fill(line, stage, line.forward_arrival(stage), variant, asked)
            line.forward(stage)
        for stage in down[::-1]:
            if stage < last:
                _fill(line, stage, line.gradient_arrival(stage), variant, asked)
            if not stage and line.forwards[0] == microbatches:
                while line.weights[0] < line.gradients[0]:  # all that still needs rank 0 is its own end
                    line.weight(0)
            line.gradient(stage)
    for stage in down:
        while line.weights[stage] < microbatches:
            line.weight(stage)
    return line, asked


def _warm_up(line: Rehearsal, limit: Limit, late: bool) -> list[int]:
    """How many F each rank plays after its first one and before its first I."""
    times, tie = line.times, line.times.tie
    more, most = [0] * times.stages, int(min(limit.activations + _ROUNDING, line.microbatches)) - 1
    gradient = line.ends[-1] + times.input_gradient[-1]  # when the first I of the rank after this one ends
    for stage in range(times.stages - 2, -1, -1):
        end, arrival = line.ends[stage], gradient + times.backward_hop[stage]
        while more[stage] < most:
            one_more = end + times.forward[stage]
            if (end >= arrival - tie) if late else (one_more > arrival + tie):
                break
            more[stage] += 1
            end = one_more
        gradient = max(end, arrival) + times.input_gradient[stage]
    for stage in range(1, times.stages):
        # Fewer than the rank before, whose F they wait for; all only where that one plays all.
        if more[stage] < line.microbatches - 1 or more[stage - 1] < more[stage]:
            more[stage] = max(0, min(more[stage], more[stage - 1] - 1))
    return more


def _forward_turn(line: Rehearsal, limit: Limit, variant: Variant, asked: set[str]) -> list[int]:
    """The ranks that play an F in this turn: some first ones leave it out, lest they get further ahead."""
    last = line.times.stages - 1
    for stage in range(last, -1, -1):
        if line.forwards[stage] == line.microbatches:
            return list(range(stage + 1, last + 1))
        if stage < last and _holds_up(line, stage, limit):
            asked.add("gradients_first")
            if variant.gradients_first:
                return list(range(stage + 1, last + 1))
    return list(range(last + 1))


def _holds_up(line: Rehearsal, stage: int, limit: Limit) -> bool:
    """Whether an F now would delay the gradient that comes next, on a rank that can do without."""
    forwards, gradients, weights = line.forwards[stage], line.gradients[stage], line.weights[stage]
    after = stage + 1
    if forwards < line.forwards[after] + 2:
        return False
    times, now = line.times, line.ends[stage]
    gradient = line.ends[after] + times.forward[after] + times.input_gradient[after] + times.backward_hop[stage]
    if now >= gradient - times.tie:
        return True
    end = now + times.forward[stage]
    while weights < gradients and limit.lacks_room(forwards, gradients, weights):
        weights += 1
        end += times.weight_gradient[stage]
    return end > gradient + times.tie and gradient - now <= line.most_idle - line.idle[stage] + times.tie


def _fill(line: Rehearsal, stage: int, arrival: float, variant: Variant, asked: set[str]) -> None:
    """W in the time until `arrival`: those that fit, then perhaps one that does not."""
    waiting = line.gradients[stage] - line.weights[stage]
    wait = arrival - line.ends[stage]
    tie = line.times.tie
    if not waiting or wait <= tie:
        return
    weight = line.times.weight_gradient[stage]
    while waiting and weight <= wait + tie:
        line.weight(stage)
        waiting -= 1
        wait -= weight
    if waiting and wait > tie:
        if wait <= line.most_idle - line.idle[stage] + tie:
            asked.add("fill")
            if not variant.fill:
                return
        line.weight(stage)
