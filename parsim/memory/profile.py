"""Profile: in how many ways a schedule fills a rank, so that a peak is a product of two small matrices.

Each slot of a rank's order finds so many micro-batches live on each of its stages, whole (from F to B or I) or what is
kept for W, and then reaches as high as its own ops do. So what a slot needs is linear in its stages' numbers. Of all
slots few rows differ, and fewer are not below another one: a profile keeps those, as whole numbers, once for a
schedule's size. The peak of any run under it is then max(rows @ numbers): equal to the replay's, in microseconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from parsim.memory.replay import Holding
from parsim.memory.versions import Versions, is_asynchronous
from parsim.plan.op import COMPUTE, Kind, Op, Slot
from parsim.plan.plan import Plan

__all__ = ["NUMBERS", "RankProfile", "peak_bytes", "profiles_of"]

NUMBERS = ("saved", "kept", "F", "B", "I", "W", "first B", "first W", "gradients", "weights")
"""The numbers of a stage, in the order of StageActivations.numbers."""

_AT = {name: index for index, name in enumerate(NUMBERS)}
_WIDTH = len(NUMBERS)


@dataclass(frozen=True, eq=False)
class RankProfile:
    """Rows of one rank's slots by its stages (ascending): [rows, stages * numbers], of steps that find gradients made
    (`made`) and of those whose first backward makes them (`fresh`); `updates` are those of optimizer steps.
    """

    stages: tuple[int, ...]
    made: npt.NDArray[np.float64]
    fresh: npt.NDArray[np.float64]
    updates: npt.NDArray[np.float64]

    def peak_bytes(self, holding: Holding) -> float:
        """The most that the rank holds in any step: the replay's `peak_bytes`."""
        numbers = np.array([number for stage in self.stages for number in holding.stages[stage].numbers])
        rows = self.made if holding.gradients == "buffer" else self.fresh
        gradients = numbers[_AT["gradients"] :: _WIDTH].sum() if holding.gradients == "lazy" else 0.0
        passes = max(_highest(rows, numbers), _highest(self.made, numbers) + gradients if gradients else 0.0)
        held = sum(item.size for item in holding.items)
        return float(held + max(passes, _updating(self.updates, numbers, holding)))


def _highest(rows: npt.NDArray[np.float64], numbers: npt.NDArray[np.float64]) -> float:
    return float((rows @ numbers).max()) if len(rows) else 0.0


def _updating(rows: npt.NDArray[np.float64], numbers: npt.NDArray[np.float64], holding: Holding) -> float:
    """What an optimizer step needs, less what is not there while it runs."""
    return _highest(rows, numbers) + holding.update_bytes - holding.passes_bytes if len(rows) else 0.0


def profiles_of(plan: Plan) -> tuple[RankProfile, ...]:
    """The profile of each pipeline rank. Costs one pass over the plan: keep it for all runs that play it."""
    return tuple(_profile(plan.placement.stages_of(rank), order) for rank, order in enumerate(plan.orders))


def peak_bytes(profiles: Sequence[RankProfile], holdings: Sequence[Holding]) -> tuple[float, ...]:
    """The peak of each pipeline rank, allocated, whatever step it is reached in."""
    return tuple(profile.peak_bytes(holding) for profile, holding in zip(profiles, holdings, strict=True))


def _profile(stages: tuple[int, ...], order: Sequence[Slot]) -> RankProfile:
    column = {stage: index * _WIDTH for index, stage in enumerate(stages)}
    made = {row for row, updating in _rows(column, order, fresh=False) if not updating}
    found = list(_rows(column, order, fresh=True))
    width = _WIDTH * len(stages)
    return RankProfile(
        stages,
        _highest_rows(made, width),
        _highest_rows({row for row, updating in found if not updating}, width),
        _highest_rows({row for row, updating in found if updating}, width),
    )


def _rows(column: dict[int, int], order: Sequence[Slot], fresh: bool) -> Iterator[tuple[tuple[int, ...], bool]]:
    """A row for each slot that computes or updates, and whether it updates. `fresh`: gradients come into being in each
    step's first backward, and go with its optimizer step.
    """
    live = [0] * (_WIDTH * len(column))
    unmade = set(column) if fresh else set()
    versions = Versions(column) if is_asynchronous(order) else None
    for slot in order:
        is_update = slot.first.kind is Kind.STEP
        if not is_update and slot.first.kind not in COMPUTE:
            continue
        row, after = live.copy(), live.copy()
        if is_update and fresh and slot.first.stage not in unmade:
            unmade.add(slot.first.stage)
            after[column[slot.first.stage] + _AT["gradients"]] -= 1
        for op in slot.ops if not is_update else ():
            first = op.stage in unmade and op.kind in (Kind.B, Kind.W)
            _play(op, column[op.stage], first, row, after)
            unmade.discard(op.stage if first else -1)
        if versions is not None:
            versions.begin(slot)
            for stage, start in column.items():
                row[start + _AT["weights"]] = versions.old(stage)
            versions.end(slot)
        yield tuple(row), is_update
        live = after


def _play(op: Op, column: int, first: bool, row: list[int], after: list[int]) -> None:
    """Put an op on the row of its slot, and leave what stays."""
    saved, kept = column + _AT["saved"], column + _AT["kept"]
    row[column + _AT[f"first {op.kind}" if first else str(op.kind)]] += 1
    if op.kind is Kind.F:
        after[saved] += 1
    elif op.kind is Kind.W:
        row[kept] -= 1
        after[kept] -= 1
    else:
        row[saved] -= 1
        after[saved] -= 1
        after[kept] += op.kind is Kind.I
    after[column + _AT["gradients"]] += first


def _highest_rows(rows: set[tuple[int, ...]], width: int) -> npt.NDArray[np.float64]:
    """Those that no other row is at least as high as in every number: no number of a stage is negative."""
    kept: list[tuple[int, ...]] = []
    found = np.empty((0, width), dtype=np.int64)
    for row in sorted(rows, key=sum, reverse=True):
        if not len(found) or not (found >= row).all(axis=1).any():
            kept.append(row)
            found = np.array(kept, dtype=np.int64)
    return np.array(kept, dtype=np.float64).reshape(-1, width)
