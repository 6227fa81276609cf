"""Warm-up, steady state, cool-down: the pattern that GPipe, 1F1B, interleaving and the zero-bubble family share.

A rank has its forwards, its backwards and, where backwards are split, its weight gradients, each in order. The
schedules differ in the orders, in how many forwards come first, and in how long a weight gradient is held back.
"""

from collections.abc import Iterable
from functools import partial
from itertools import repeat

from parsim.plan import Kind, Op, Slot

__all__ = ["stage_slots", "steady"]


# Large plans are almost all ops of this kind: filling the tuples directly halves the time of building one.
_op = partial(tuple.__new__, Op)
_slot = partial(tuple.__new__, Slot)


def stage_slots(stage: int, kind: Kind, microbatches: Iterable[int]) -> list[Slot]:
    """The ops of one kind on one stage, a slot each."""
    ops = map(_op, zip(repeat(stage), repeat(kind), microbatches))
    return list(map(_slot, zip(ops, repeat(None))))


def steady(
    forwards: list[Slot],
    backwards: list[Slot],
    weights: list[Slot] | None = None,
    *,
    warm_up: int,
    lag: int = 0,
    forward_first: bool = True,
) -> tuple[Slot, ...]:
    """One rank's order: `warm_up` forwards; then for each backward k the forward warm_up + k while there are any, the
    backward, and from k = `lag` on the weight gradient k - lag; then the weight gradients that are left. With
    `forward_first=False` the forward comes at the end of the turn.
    """
    row = forwards[:warm_up]
    for k, backward in enumerate(backwards):
        forward = forwards[warm_up + k : warm_up + k + 1]
        if forward_first:
            row += forward
        row.append(backward)
        if weights is not None and k >= lag:
            row.append(weights[k - lag])
        if not forward_first:
            row += forward
    if weights is not None:
        row += weights[max(0, len(backwards) - lag) :]
    return tuple(row)
