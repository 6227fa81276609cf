"""Row: one rank's order as it grows, phase by phase, for schedules that are written as counts of ops.

Each call plays the stage's next micro-batch; whether a backward is full or split, it is the same count. Weight
gradients of split backwards wait in one queue, first in, first out.
"""

from collections import deque

from parsim.plan import Kind, Op, Slot

__all__ = ["Row"]


class Row:
    """A growing order. Micro-batches beyond the last are counted but not played: phases stay as the paper has them."""

    def __init__(self, microbatches: int) -> None:
        self.slots: list[Slot] = []
        self._microbatches = microbatches
        self._forwards: dict[int, int] = {}
        self._backwards: dict[int, int] = {}
        self._weights: deque[Op] = deque()

    def forwards(self, stage: int) -> int:
        """How many forwards of `stage` have been played (or counted)."""
        return self._forwards.get(stage, 0)

    def forward(self, stage: int) -> None:
        self._play(self._next(self._forwards, stage, Kind.F))

    def backward(self, stage: int) -> None:
        """The next backward of `stage`, in full."""
        self._play(self._next(self._backwards, stage, Kind.B))

    def input_gradient(self, stage: int) -> None:
        """The next backward of `stage`, its weight gradient left waiting."""
        op = self._next(self._backwards, stage, Kind.I)
        self._play(op)
        if op is not None:
            self._weights.append(Op(stage, Kind.W, op.mb))

    def weight_gradient(self, stage: int | None = None) -> None:
        """The weight gradient that has waited longest (on `stage`, or on any); nothing if none waits."""
        op = next((op for op in self._weights if stage is None or op.stage == stage), None)
        if op is not None:
            self._weights.remove(op)
            self._play(op)

    def weights_waiting(self, stage: int) -> int:
        """How many weight gradients of `stage` wait."""
        return sum(op.stage == stage for op in self._weights)

    def overlap(self, forward_stage: int, backward_stage: int) -> None:
        """The next forward of one stage and the next full backward of another, together."""
        forward = self._next(self._forwards, forward_stage, Kind.F)
        backward = self._next(self._backwards, backward_stage, Kind.B)
        if forward is None:
            self._play(backward)
        else:
            self.slots.append(Slot(forward, backward))

    def _next(self, counts: dict[int, int], stage: int, kind: Kind) -> Op | None:
        mb = counts.get(stage, 0)
        counts[stage] = mb + 1
        return Op(stage, kind, mb) if mb < self._microbatches else None

    def _play(self, op: Op | None) -> None:
        if op is not None:
            self.slots.append(Slot(op))
