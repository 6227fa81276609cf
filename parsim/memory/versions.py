"""Versions of weights: how many a rank holds when it updates while micro-batches are on their way.

A micro-batch's backward must use the weights that its forward used. So a stage keeps every version that a live
micro-batch has gone forward with, beside the newest: none more in schedules that flush before they update, p - s on
stage s of PipeDream (1806.03377), one more in PipeDream-2BW (2006.09503). The order of ops alone tells.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from parsim.plan.op import Kind, Slot

__all__ = ["Versions", "is_asynchronous"]


def is_asynchronous(order: Sequence[Slot]) -> bool:
    """Whether a rank updates with live micro-batches, or may: something is computed behind an optimizer step."""
    updated = False
    for slot in order:
        if slot.first.kind is Kind.STEP:
            updated = True
        elif updated and slot.first.kind in (Kind.F, Kind.B, Kind.I, Kind.W):
            return True
    return False


class Versions:
    """Counts, for each stage of a rank, the old versions that live micro-batches need, slot by slot."""

    def __init__(self, stages: Iterable[int]) -> None:
        self._newest = dict.fromkeys(stages, 0)
        self._used: dict[tuple[int, int | None], int] = {}
        self._needed: dict[int, Counter[int]] = {stage: Counter() for stage in self._newest}

    def begin(self, slot: Slot) -> None:
        """A forward takes the newest weights; an update makes newer ones beside those that are needed."""
        for op in slot.ops:
            if op.kind is Kind.STEP:
                self._newest[op.stage] += 1
            elif op.kind is Kind.F:
                self._used[op.stage, op.mb] = self._newest[op.stage]
                self._needed[op.stage][self._newest[op.stage]] += 1

    def end(self, slot: Slot) -> None:
        """Once the gradient of its inputs is there a micro-batch needs weights no more."""
        for op in slot.ops:
            if op.kind in (Kind.B, Kind.I):
                version = self._used.pop((op.stage, op.mb))
                self._needed[op.stage][version] -= 1
                if not self._needed[op.stage][version]:
                    del self._needed[op.stage][version]

    def old(self, stage: int) -> int:
        """Versions of a stage's weights beside its newest."""
        return sum(version != self._newest[stage] for version in self._needed[stage])
