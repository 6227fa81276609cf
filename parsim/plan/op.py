"""Op: one note of the score, and Slot: the ops a rank plays together.

An op prints and parses as PyTorch writes it: `2F0` is the forward of stage 2 on micro-batch 0, `3REDUCE_GRAD`
the gradient reduction of stage 3. A slot of two ops that overlap prints as `(2F3;5B1)OVERLAP_F_B`.

The letters follow PyTorch: F forward, B full backward (I and W in one), I input gradient, W weight gradient.
The zero-bubble papers call I "B"; DeepSeek's "B" is the full backward.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from parsim.errors import ScheduleError

__all__ = ["BACKWARD", "COMPUTE", "Kind", "Op", "Slot", "is_op", "overlaps", "parse_op", "parse_slot"]


class Kind(StrEnum):
    """What an op does: compute (F B I W), messages between ranks, and passes over a stage's whole state."""

    F = "F"
    B = "B"
    I = "I"  # noqa: E741 (the field's letter)
    W = "W"
    SEND_F = "SEND_F"
    RECV_F = "RECV_F"
    SEND_B = "SEND_B"
    RECV_B = "RECV_B"
    UNSHARD = "UNSHARD"
    RESHARD = "RESHARD"
    REDUCE_GRAD = "REDUCE_GRAD"
    OFFLOAD = "OFFLOAD"
    RELOAD = "RELOAD"
    STEP = "STEP"

    __hash__ = str.__hash__  # an Enum's own is Python code, and ops are hashed for everything


COMPUTE = frozenset({Kind.F, Kind.B, Kind.I, Kind.W})
BACKWARD = frozenset({Kind.B, Kind.I, Kind.W})
_WITHOUT_MICROBATCH = frozenset({Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD, Kind.STEP})

_NUMBER = "(0|[1-9][0-9]{0,8})"
_OP = re.compile(f"{_NUMBER}({'|'.join(sorted(Kind, key=len, reverse=True))}){_NUMBER}?")
_PAIR = re.compile(r"\(([^;()]*);([^;()]*)\)OVERLAP_F_B")


class Op(NamedTuple):
    """One op: `stage` is global, `mb` the micro-batch of the stage's chain (None for whole-stage passes)."""

    stage: int
    kind: Kind
    mb: int | None = None

    def __str__(self) -> str:
        return f"{self.stage}{self.kind.value}{'' if self.mb is None else self.mb}"


class Slot(NamedTuple):
    """What a rank plays at once: one op, or a forward and a backward that overlap."""

    first: Op
    second: Op | None = None

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    def __str__(self) -> str:
        return str(self.first) if self.second is None else f"({self.first};{self.second})OVERLAP_F_B"


def is_op(op: Op) -> bool:
    """Whether `op` is one that prints and parses back: no negative number, a micro-batch where its kind has one."""
    if op.mb is None:
        return op.stage >= 0 and op.kind in _WITHOUT_MICROBATCH
    return op.stage >= 0 <= op.mb and op.kind not in _WITHOUT_MICROBATCH


def overlaps(first: Op, second: Op) -> bool:
    """Whether the two may share a slot: a forward and a backward, in this order."""
    return first.kind is Kind.F and second.kind in (Kind.B, Kind.I)


def parse_op(text: str) -> Op:
    """The op that prints as `text`; ScheduleError unless the whole text is one."""
    match = _OP.fullmatch(text)
    if match is None:
        raise ScheduleError(f"{text!r} is not an op: write STAGE KIND MICROBATCH as in 2F0, 1SEND_B3 or 4REDUCE_GRAD")
    stage, kind, mb = int(match[1]), Kind(match[2]), match[3]
    if (mb is None) != (kind in _WITHOUT_MICROBATCH):
        rule = "takes no micro-batch" if kind in _WITHOUT_MICROBATCH else "needs a micro-batch"
        raise ScheduleError(f"{text!r} is not an op: {kind} {rule}")
    return Op(stage, kind, None if mb is None else int(mb))


def parse_slot(text: str) -> Slot:
    """The slot that prints as `text`: an op, or `(F;B)OVERLAP_F_B` of a forward and a backward."""
    match = _PAIR.fullmatch(text)
    if match is None:
        return Slot(parse_op(text))
    first, second = parse_op(match[1]), parse_op(match[2])
    if not overlaps(first, second):
        raise ScheduleError(f"{text!r} is not a slot: only a forward and a backward overlap, in this order")
    return Slot(first, second)
