"""Filling: how full a schedule makes each kind of rank, as rows of whole numbers.

As `memory.profile`, for stages that are alike: what a slot needs is linear in the numbers of its stages (what a
micro-batch holds, how high its ops reach), so stages with the same numbers share their columns, and ranks that hold the
same stages their rows. Of all rows those stay that no other is at least as high as.

A schedule that repeats fills its ranks no higher after more micro-batches, or each time by as much (GPipe): rows of a
few sizes tell those of all. Three sizes a period apart must agree or grow evenly; else the plan itself is looked at.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from parsim.memory.profile import NUMBERS
from parsim.plan import Kind
from parsim.schedules import build, get

__all__ = ["Filling", "filling"]

Rows = npt.NDArray[np.int64]
_WIDTH = len(NUMBERS)
_AT = {name: index for index, name in enumerate(NUMBERS)}
_FEW_PER_RANK = 2  # micro-batches for each rank, from which on schedules are steady
_LOOKED_AT = 48  # rows that are tried as bounds of others: beyond it a row that could go stays, and does no harm


class Filling(NamedTuple):
    """Rows of one kind of rank, [rows, classes * numbers]: where gradients are there all the time (`made`), and where
    each stage's first weight gradient makes them (`fresh`)."""

    made: Rows
    fresh: Rows


def filling(
    schedule: str,
    pp: int,
    microbatches: int,
    stages_per_rank: int,
    classes: tuple[tuple[int, ...], ...],
    made_alone: bool = False,
) -> dict[tuple[int, ...], Filling]:
    """The filling of each kind of rank; `classes[rank]` are those of its stages, in ascending order of the stages.
    `made_alone` where nobody asks for the fresh rows.
    """
    asked = stages_per_rank, classes, made_alone
    period = get(schedule).period(pp, microbatches, stages_per_rank)
    if period is not None:
        least = max(_FEW_PER_RANK * pp + period, 3 * period, 8)
        small = least + (microbatches - least) % period
        sizes = [small, small + period, small + 2 * period]
        if sizes[-1] < microbatches and all(get(schedule).period(pp, m, stages_per_rank) == period for m in sizes):
            a, b = (_filled(schedule, pp, m, *asked) for m in sizes[:2])
            if all(np.array_equal(x, y) for kind in a for x, y in zip(a[kind], b[kind], strict=True)):
                return a
            c = _filled(schedule, pp, sizes[2], *asked)
            more = (microbatches - small) // period
            grown = {kind: [_even(*rows, more) for rows in zip(a[kind], b[kind], c[kind], strict=True)] for kind in a}
            known = {kind: Filling(*rows) for kind, both in grown.items() if len(rows := _all(both)) == len(both)}
            if len(known) == len(grown):
                return known
    return _filled(schedule, pp, microbatches, *asked)


def _all(rows: Sequence[Rows | None]) -> list[Rows]:
    return [one for one in rows if one is not None]


def _even(a: Rows, b: Rows, c: Rows, periods: int) -> Rows | None:
    if a.shape != b.shape or b.shape != c.shape or ((b - a) != (c - b)).any():
        return None
    return a + periods * (b - a)


@lru_cache(maxsize=8192)
def _filled(
    schedule: str,
    pp: int,
    microbatches: int,
    stages_per_rank: int,
    classes: tuple[tuple[int, ...], ...],
    made_alone: bool,
) -> dict[tuple[int, ...], Filling]:
    orders = _orders(schedule, pp, microbatches, stages_per_rank)
    found: dict[tuple[int, ...], list[tuple[Rows, Rows]]] = {}
    width = 1 + max(number for own in classes for number in own)
    for rank, own in enumerate(classes):
        rows = _rows(orders[rank], np.array(own), width, made_alone)
        found.setdefault(tuple(sorted(own)), []).append(rows)
    return {
        kind: Filling(
            _highest(np.concatenate([made for made, _ in rows])), _highest(np.concatenate([new for _, new in rows]))
        )
        for kind, rows in found.items()
    }


class _Order(NamedTuple):
    """A rank's order as arrays: of each op its slot, which of the rank's stages it is of, and its kind."""

    slots: int
    at: Rows
    stage: Rows
    kinds: Rows


@lru_cache(maxsize=16)
def _orders(schedule: str, pp: int, microbatches: int, stages_per_rank: int) -> tuple[_Order, ...]:
    """The orders of a plan, kept while splits of its layers are looked at."""
    plan = build(schedule, pp, microbatches, stages_per_rank)
    found = []
    for rank, order in enumerate(plan.orders):
        number = {stage: at for at, stage in enumerate(plan.placement.stages_of(rank))}
        ops = [
            (at, number[op.stage], _KINDS[op.kind]) for at, slot in enumerate(order) for op in slot if op is not None
        ]
        at, stage, kinds = np.array(ops).T
        found.append(_Order(len(order), at, stage, kinds))
    return tuple(found)


def _rows(order: _Order, own: Rows, classes: int, made_alone: bool) -> tuple[Rows, Rows]:
    """What each slot of a rank finds and needs, made and fresh; `own` are the classes of its stages."""
    slots, at, stage, kinds = order
    column = own[stage] * _WIDTH
    making = np.flatnonzero((kinds == _KINDS[Kind.B]) | (kinds == _KINDS[Kind.W]))
    first = np.zeros(len(at), bool)
    first[making[np.unique(stage[making], return_index=True)[1]]] = True

    def spread(entries: Sequence[tuple[npt.NDArray[np.bool_], str, int]]) -> Rows:
        table = np.zeros((slots, classes * _WIDTH), np.int64)
        for where, name, count in entries:
            np.add.at(table, (at[where], column[where] + _AT[name]), count)
        return table

    is_ = {kind: kinds == code for kind, code in _KINDS.items()}
    back = is_[Kind.B] | is_[Kind.I]
    changes = [(is_[Kind.F], "saved", 1), (back, "saved", -1), (is_[Kind.I], "kept", 1), (is_[Kind.W], "kept", -1)]
    needs = [(back, "saved", -1), (is_[Kind.W], "kept", -1), (is_[Kind.F], "F", 1), (is_[Kind.I], "I", 1)]
    plain = [(is_[Kind.B], "B", 1), (is_[Kind.W], "W", 1)]
    new = [(is_[kind] & first, f"first {kind}", 1) for kind in (Kind.B, Kind.W)]
    new += [(is_[kind] & ~first, str(kind), 1) for kind in (Kind.B, Kind.W)]
    made = _before(spread(changes)) + spread([*needs, *plain])
    if made_alone:
        return made, made[:0]
    fresh = _before(spread([*changes, (first, "gradients", 1)])) + spread([*needs, *new])
    return made, fresh


_KINDS = {Kind.F: 0, Kind.B: 1, Kind.I: 2, Kind.W: 3}


def _before(changes: Rows) -> Rows:
    """What is live before each slot."""
    live: Rows = np.cumsum(changes, axis=0) - changes
    return live


def _highest(rows: Rows) -> Rows:
    """The rows without those that one of the highest is at least as high as in every number, in a fixed order."""
    # Rows are told apart by a sum with odd weights: a collision would need counts beyond any plan's.
    weights = np.cumprod(np.full(rows.shape[1], 2_654_435_761, np.uint64) + np.arange(rows.shape[1], dtype=np.uint64))
    rows = rows[np.unique(rows.astype(np.uint64) @ weights, return_index=True)[1]]
    rows = rows[np.lexsort((*rows.T, rows.sum(axis=1)))[::-1]]
    kept = 0
    while kept < min(len(rows), _LOOKED_AT):
        below = (rows[kept + 1 :] <= rows[kept]).all(axis=1)
        rows = np.concatenate((rows[: kept + 1], rows[kept + 1 :][~below]))
        kept += 1
    return rows
