"""Row: one rank's order as it grows, phase by phase, for schedules that are written as counts of ops.

Each call plays the stage's next micro-batch; whether a backward is full or split, it is the same count. Weight
gradients of split backwards wait in one queue, first in, first out.
"""

from collections import Counter, deque

from parsim.plan import Kind, Op, Slot

__all__ = ["Row"]


class Row:
    """A growing order. Micro-batches beyond the last are counted but not played: phases stay as the paper has them."""

    def __init__(self, microbatches: int) -> None:
        self.slots: list[Slot] = []
        self._microbatches = microbatches
        self._forwards: Counter[int] = Counter()
        self._backwards: Counter[int] = Counter()
        self._weights: deque[Op] = deque()

    def forwards(self, stage: int) -> int:
        """How many forwards of `stage` have been played (or counted)."""
        return self._forwards[stage]

    def forward(self, stage: int) -> None:
        """The next forward of `stage`."""
        mb = self._forwards[stage]
        self._forwards[stage] = mb + 1
        if mb < self._microbatches:
            self.slots.append(Slot(Op(stage, Kind.F, mb)))

    def backward(self, stage: int) -> None:
        """The next backward of `stage`, in full."""
        mb = self._backwards[stage]
        self._backwards[stage] = mb + 1
        if mb < self._microbatches:
            self.slots.append(Slot(Op(stage, Kind.B, mb)))

    def input_gradient(self, stage: int) -> None:
        """The next backward of `stage`, its weight gradient left waiting."""
        mb = self._backwards[stage]
        self._backwards[stage] = mb + 1
        if mb < self._microbatches:
            self.slots.append(Slot(Op(stage, Kind.I, mb)))
            self._weights.append(Op(stage, Kind.W, mb))

    def weight_gradient(self, stage: int | None = None) -> None:
        """The weight gradient that has waited longest (on `stage`, or on any); nothing if none waits."""
        for op in self._weights:
            if stage is None or op.stage == stage:
                self._weights.remove(op)
                self.slots.append(Slot(op))
                return

    def weights_waiting(self, stage: int) -> int:
        """How many weight gradients of `stage` wait."""
        return sum(op.stage == stage for op in self._weights)

    def overlap(self, forward_stage: int, backward_stage: int) -> None:
        """The next forward of one stage and the next full backward of another, together. Both must be left."""
        forward, backward = self._forwards[forward_stage], self._backwards[backward_stage]
        self._forwards[forward_stage] = forward + 1
        self._backwards[backward_stage] = backward + 1
        self.slots.append(Slot(Op(forward_stage, Kind.F, forward), Op(backward_stage, Kind.B, backward)))
