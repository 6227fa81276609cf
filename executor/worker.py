"""Worker: the interpreter of a plan on one rank. For each slot, for each op, the handler of its kind.

It knows no schedule by name: whatever `plan.check` proves sound, plays. A handler takes what its op needs (waiting for
messages if it must), computes, and keeps what others need. Slots of two ops take both inputs, then compute together
where the device can. What it plays is recorded as notes, marks in time of the device, and read after the step.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from executor.comms import Messages
from executor.device import Device
from executor.fault import Fault, strike
from executor.roles import Feed, Player, Position, Weights
from parsim.plan import BACKWARD, COMPUTE, Kind, Op, Plan, Slot

__all__ = ["HANDLERS", "Note", "Worker"]


class Note(NamedTuple):
    """A slot as it was played: marks of the device when it asked for its inputs, began and ended; CPU time in it."""

    slot: Slot
    asked: Any
    began: Any
    ended: Any
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Task:
    """An op with everything that the plan says about it, looked up once."""

    index: int
    op: Op
    player: Player
    receive: Op | None
    neighbour: Op | None
    """The op on the same rank that hands its result over, if no message does."""
    lane: int
    """Which of the rank's stages it is of."""
    is_first: bool
    is_end: bool
    """The last stage of its chain: a forward with a loss, a backward without a gradient to start from."""
    is_last: bool
    """Adds the last to its stage's gradients."""


Handler = Callable[["Worker", _Task], None]
_F, _B, _I, _W = Kind.F, Kind.B, Kind.I, Kind.W  # Python 3.11 runs code of its own for each `Kind.F`
_LOOKED_AT = COMPUTE | {Kind.STEP}


class Worker:
    """Plays the order of one pipeline rank, step after step."""

    def __init__(
        self,
        plan: Plan,
        rank: int,
        players: Mapping[int, Player],
        messages: Messages,
        due: Sequence[int],
        device: Device,
        *,
        weights: Weights | None = None,
        position: Position | None = None,
        pair: Callable[[tuple[int, int], Callable[[], Any], Callable[[], Any]], tuple[Any, Any]] | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._plan, self._rank, self._players = plan, rank, players
        self.messages, self.device, self.weights, self.position = messages, device, weights, position
        self.both = pair or device.both
        self.feed: Feed
        self.losses: list[torch.Tensor] = []
        self.notes: list[Note] = []
        self.after_slot: Callable[[str], None] | None = None
        self._held: dict[Op, torch.Tensor | None] = {}
        self._faults = tuple(faults)
        self._step = 0
        last = {
            op.stage: op
            for slot in plan.orders[rank]
            for op in slot.ops
            if op.kind in BACKWARD and op.kind is not Kind.I
        }
        present = {op for slot in plan.orders[rank] for op in slot.ops}
        self._slots = tuple(
            (index, due[index], slot, _handler(slot), tuple(self._task(index, op, present, last) for op in slot.ops))
            for index, slot in enumerate(plan.orders[rank])
        )

    def _task(self, index: int, op: Op, present: set[Op], last: Mapping[int, Op]) -> _Task:
        placement, (stage, kind, mb) = self._plan.placement, op
        receive: Op | None = None
        neighbour: Op | None = None
        before, after = placement.before[stage], placement.after[stage]
        source = before if kind is Kind.F else after if kind in BACKWARD else None
        if source is not None and kind is not Kind.W:
            if placement.rank_of[source] != self._rank:
                receive = Op(stage, Kind.RECV_F if kind is Kind.F else Kind.RECV_B, mb)
            elif kind is Kind.F:
                neighbour = Op(source, Kind.F, mb)
            else:
                split = Op(source, Kind.I, mb)
                neighbour = split if split in present else Op(source, Kind.B, mb)
        return _Task(
            index=index,
            op=op,
            player=self._players[stage],
            receive=receive,
            neighbour=neighbour,
            lane=placement.stages_of(self._rank).index(stage),
            is_first=before is None,
            is_end=after is None,
            is_last=last.get(stage) == op,
        )

    def play(self, feed: Feed) -> None:
        """One step. Losses and notes of it stand in `losses` and `notes` afterwards.

        Python's garbage collector rests meanwhile: it would stop ranks at moments of its own, and the others with them.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            self._play(feed)
        finally:
            if collects:
                gc.enable()

    def _play(self, feed: Feed) -> None:
        self.feed = feed
        self.losses.clear()
        self.notes = []
        messages, position = self.messages, self.position
        for index, due, slot, play, tasks in self._slots:
            if position is not None:
                position.enter(index)
            if self._faults:
                self._strike(slot)
            messages.post(due)
            play(self, *tasks)
            if self.after_slot is not None and slot.first.kind in _LOOKED_AT:
                self.after_slot(str(slot))
        if position is not None:
            position.wait(len(self._slots) - 1)
        messages.finish()
        self._step += 1
        if position is not None:
            position.leave()

    def _strike(self, slot: Slot) -> None:
        for fault in self._faults:
            if fault.step == self._step and fault.op in slot.ops:
                strike(fault)

    def take(self, task: _Task) -> torch.Tensor | None:
        """The input of a forward or the gradient of a backward; waits for its message if it comes from another rank."""
        if task.receive is not None:
            position = self.position
            if position is None:
                return self.messages.take(task.receive)
            position.wait(task.index)
            tensor = self.messages.take(task.receive)
            position.enter(task.index)
            return tensor
        if task.neighbour is not None:
            return self._held.pop(task.neighbour)
        return self.feed.tokens(task.op.stage, task.op.mb or 0) if task.op.kind is _F else None

    def keep(self, op: Op, tensor: torch.Tensor | None) -> None:
        """Keep the result of an op for its SEND, or for the next stage on this rank."""
        self._held[op] = tensor

    def given(self, op: Op) -> torch.Tensor:
        """What a SEND sends: the result of the op before it."""
        stage, kind, mb = op
        if kind is Kind.SEND_F:
            made = self._held.pop(Op(stage, Kind.F, mb))
        else:
            split = Op(stage, Kind.I, mb)
            made = self._held.pop(split if split in self._held else Op(stage, Kind.B, mb))
        if made is None:
            raise RuntimeError(f"{op}: the stage made no gradient to send")
        return made


def _play_compute(worker: Worker, task: _Task) -> None:
    device = worker.device
    mark = device.mark
    asked = mark()
    given = worker.take(task)
    began, busy = mark(), device.busy_s()
    made = device.run(task.lane, _compute, worker, task, given)
    worker.notes.append(Note(Slot(task.op), asked, began, mark(), device.busy_s() - busy))
    _put(worker, task, made)


def _handler(slot: Slot) -> Callable[..., None]:
    return HANDLERS[slot.first.kind] if slot.second is None else _play_pair


def _play_pair(worker: Worker, first: _Task, second: _Task) -> None:
    device = worker.device
    asked = device.mark()
    forward, backward = worker.take(first), worker.take(second)
    began, busy = device.mark(), device.busy_s()
    made = worker.both(
        (first.lane, second.lane),
        lambda: _compute(worker, first, forward),
        lambda: _compute(worker, second, backward),
    )
    worker.notes.append(Note(Slot(first.op, second.op), asked, began, device.mark(), device.busy_s() - busy))
    _put(worker, first, made[0])
    _put(worker, second, made[1])


def _compute(worker: Worker, task: _Task, given: torch.Tensor | None) -> torch.Tensor | None:
    """What F, B, I and W do; the last that adds to a stage's gradients says so before and after."""
    player, weights, (stage, kind, mb) = task.player, worker.weights, task.op
    assert mb is not None
    if kind is _F:
        assert given is not None
        return player.forward(mb, given, worker.feed.targets(stage, mb) if task.is_end else None)
    if kind is _I:
        return player.backward_input(mb, given)
    if weights is not None and task.is_last:
        weights.expect_last(stage)
    made = None
    if kind is _B:
        made = player.backward(mb, given)
    else:
        player.backward_weight(mb, weights.done if weights is not None else None)
    if weights is not None and task.is_last:
        weights.last_done(stage)
    return made


def _put(worker: Worker, task: _Task, made: torch.Tensor | None) -> None:
    kind = task.op.kind
    if kind is _F:
        if task.is_end:
            assert made is not None
            worker.losses.append(made)
        else:
            worker.keep(task.op, made)
    elif kind is not _W and not task.is_first:
        worker.keep(task.op, made)


def _send(worker: Worker, task: _Task) -> None:
    worker.messages.send(task.op, worker.given(task.op))
    mark = worker.device.mark()
    worker.notes.append(Note(Slot(task.op), mark, mark, mark))


def _receive(worker: Worker, task: _Task) -> None:
    """A RECV was posted ahead; its consumer takes it."""


def _reduce(worker: Worker, task: _Task) -> None:
    if worker.weights is not None:
        worker.weights.reduce(task.op.stage)


def _step(worker: Worker, task: _Task) -> None:
    weights, device = worker.weights, worker.device
    if weights is None:
        return
    mark = device.mark
    asked = mark()
    if worker.position is not None:
        worker.position.wait(task.index)
    weights.wait(task.op.stage)
    if worker.position is not None:
        worker.position.enter(task.index)
    began, busy = mark(), device.busy_s()
    weights.step(task.op.stage)
    worker.notes.append(Note(Slot(task.op), asked, began, mark(), device.busy_s() - busy))


HANDLERS: Mapping[Kind, Handler] = {
    **dict.fromkeys((Kind.F, Kind.B, Kind.I, Kind.W), _play_compute),
    **dict.fromkeys((Kind.SEND_F, Kind.SEND_B), _send),
    **dict.fromkeys((Kind.RECV_F, Kind.RECV_B), _receive),
    Kind.REDUCE_GRAD: _reduce,
    Kind.STEP: _step,
}
"""Kinds that are missing here are refused before a process starts (`job.PLAYED`)."""
