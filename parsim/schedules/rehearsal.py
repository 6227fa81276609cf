"""Rehearsal: a straight pipeline of F, I and W, played op by op while its order is still being written.

Every op starts as early as its inputs and its rank allow, so the times are those of the longest path through what has
been written so far. A stage plays its micro-batches in their order, kind by kind: an op is a stage and a kind.
"""

from dataclasses import dataclass
from functools import cached_property

from parsim.plan import Kind, Op, Orders, Slot
from parsim.schedules.schedule import Timing
from parsim.schedules.steady import stage_slots

__all__ = ["Rehearsal", "StageTimes", "stage_times"]


_F, _I, _W = Kind.F, Kind.I, Kind.W  # Python 3.11 runs code of its own for each `Kind.F`


@dataclass(frozen=True)
class StageTimes:
    """Times of each stage of a straight pipeline, all in one unit.

    `forward_hop[s]` is the way of an activation from stage s-1 to s, `backward_hop[s]` of a gradient from s+1 to s;
    zero where there is no such neighbour.
    """

    forward: tuple[float, ...]
    input_gradient: tuple[float, ...]
    weight_gradient: tuple[float, ...]
    forward_hop: tuple[float, ...]
    backward_hop: tuple[float, ...]

    @property
    def stages(self) -> int:
        """How many stages, and ranks."""
        return len(self.forward)

    @cached_property
    def tie(self) -> float:
        """What is too short to tell two times apart: sums of the same numbers differ by their rounding."""
        return 1e-9 * max(self.forward + self.input_gradient + self.weight_gradient)


def stage_times(stages: int, timing: Timing | None) -> StageTimes:
    """The times of `stages` stages; F = I = W = 1 and no delays where there is no timing."""
    if timing is None:
        ones, zeros = (1.0,) * stages, (0.0,) * stages
        return StageTimes(ones, ones, ones, zeros, zeros)

    def of(kind: Kind) -> tuple[float, ...]:
        return tuple(timing.seconds(Slot(Op(stage, kind, 0))) for stage in range(stages))

    down = (0.0, *(timing.hop_seconds(stage - 1, stage) for stage in range(1, stages)))
    up = (*(timing.hop_seconds(stage + 1, stage) for stage in range(stages - 1)), 0.0)
    return StageTimes(of(Kind.F), of(Kind.I), of(Kind.W), down, up)


class Rehearsal:
    """What has been played: of each rank the end of its last op, its counts of ops and its order (`words`).

    `idle[s]` is the waiting of a rank since its first F, `most_idle` the largest of them. Before an F or an I is
    played, the neighbour must have played its own.
    """

    def __init__(self, times: StageTimes, microbatches: int) -> None:
        stages = times.stages
        self.times = times
        self.microbatches = microbatches
        self.ends = [0.0] * stages
        self.forwards = [0] * stages
        self.gradients = [0] * stages
        self.weights = [0] * stages
        self.idle = [0.0] * stages
        self.most_idle = 0.0
        self.words: list[list[Kind]] = [[] for _ in range(stages)]
        self._forward_ends: list[list[float]] = [[] for _ in range(stages)]
        self._gradient_ends: list[list[float]] = [[] for _ in range(stages)]
        self._stages: list[int] = []  # of every op, in the order of writing

    @property
    def makespan(self) -> float:
        """The end of the last op."""
        return max(self.ends)

    def forward_arrival(self, stage: int) -> float:
        """When the input of the stage's next F is there."""
        if not stage:
            return 0.0
        return self._forward_ends[stage - 1][self.forwards[stage]] + self.times.forward_hop[stage]

    def gradient_arrival(self, stage: int) -> float:
        """When the input of the stage's next I is there; the last stage has its own F."""
        if stage == self.times.stages - 1:
            return 0.0
        return self._gradient_ends[stage + 1][self.gradients[stage]] + self.times.backward_hop[stage]

    def forward(self, stage: int) -> None:
        """Play the stage's next F."""
        end = self._start(stage, self.forward_arrival(stage)) + self.times.forward[stage]
        self.ends[stage] = end
        self._forward_ends[stage].append(end)
        self.forwards[stage] += 1
        self.words[stage].append(_F)
        self._stages.append(stage)

    def gradient(self, stage: int) -> None:
        """Play the stage's next I."""
        end = self._start(stage, self.gradient_arrival(stage)) + self.times.input_gradient[stage]
        self.ends[stage] = end
        self._gradient_ends[stage].append(end)
        self.gradients[stage] += 1
        self.words[stage].append(_I)
        self._stages.append(stage)

    def weight(self, stage: int) -> None:
        """Play the stage's next W."""
        self.ends[stage] += self.times.weight_gradient[stage]
        self.weights[stage] += 1
        self.words[stage].append(_W)
        self._stages.append(stage)

    def play(self, orders: Orders) -> "Rehearsal":
        """Play given orders of F, I and W to their ends; they must not wait for each other in a circle."""
        left = [iter(order) for order in orders]
        waiting = [next(order, None) for order in left]
        while any(waiting):
            for stage, order in enumerate(left):
                while (slot := waiting[stage]) is not None and self._ready(stage, kind := slot[0][1]):
                    _PLAY[kind](self, stage)
                    waiting[stage] = next(order, None)
        return self

    def span(self) -> float:
        """The longest that a rank takes from its first op, started as late as no rank's end allows it, to its end."""
        times, last = self.times, self.times.stages - 1
        latest = list(self.ends)  # start of the op before which the pass stands, rank by rank
        left = [list(word) for word in self.words]
        forwards: list[list[float]] = [[] for _ in latest]  # latest starts, last micro-batch first
        gradients: list[list[float]] = [[] for _ in latest]
        for stage in reversed(self._stages):
            kind, end = left[stage].pop(), latest[stage]
            if kind is _F:
                if stage < last:
                    end = min(end, forwards[stage + 1][len(forwards[stage])] - times.forward_hop[stage + 1])
                latest[stage] = end - times.forward[stage]
                forwards[stage].append(latest[stage])
            elif kind is _I:
                if stage:
                    end = min(end, gradients[stage - 1][len(gradients[stage])] - times.backward_hop[stage - 1])
                latest[stage] = end - times.input_gradient[stage]
                gradients[stage].append(latest[stage])
            else:
                latest[stage] = end - times.weight_gradient[stage]
        return max(end - start for end, start in zip(self.ends, latest, strict=True))

    def orders(self) -> Orders:
        """What was played, as a plan's orders."""
        microbatches = range(self.microbatches)
        orders = []
        for stage, word in enumerate(self.words):
            slots = {kind: iter(stage_slots(stage, kind, microbatches)) for kind in (Kind.F, Kind.I, Kind.W)}
            orders.append(tuple(next(slots[kind]) for kind in word))
        return tuple(orders)

    def _ready(self, stage: int, kind: Kind) -> bool:
        if kind is _F:
            return not stage or self.forwards[stage - 1] > self.forwards[stage]
        if kind is _I and stage < self.times.stages - 1:
            return self.gradients[stage + 1] > self.gradients[stage]
        return True

    def _start(self, stage: int, arrival: float) -> float:
        start = self.ends[stage]
        if arrival <= start:
            return start
        if self.words[stage]:
            self.idle[stage] += arrival - start
            self.most_idle = max(self.most_idle, self.idle[stage])
        return arrival


_PLAY = {_F: Rehearsal.forward, _I: Rehearsal.gradient, _W: Rehearsal.weight}
