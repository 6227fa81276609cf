"""Messages: activations and their gradients between stages, as the plan orders them.

Receives are posted ahead: at the latest where the plan says, at the earliest while the rank waits anyway. Sends never
block, and what is sent is held until the plan itself proves that it has arrived: a message has been received once one
comes back that its receiver sent after using it. Shape and type of every message are checked before the backend sees
it: gloo aborts the process, or accepts the wrong bytes, where they do not match.

Every pair of ranks has a channel for each direction. Messages of a channel are sent and received in the sender's order,
which is all that NCCL offers; with gloo they carry tags as well. With NCCL each channel is a process group of its own,
for what one stream has to wait for would hold up everything behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist

from executor.groups import Groups, lane_of
from parsim.errors import ScheduleError
from parsim.plan import Kind, Op, Plan

__all__ = ["Messages", "Routes", "Transport", "make_transport", "routes_of"]

_SENDS = (Kind.SEND_F, Kind.SEND_B)
_RECEIVES = (Kind.RECV_F, Kind.RECV_B)
_LEAST_AHEAD = 3
_AHEAD_BYTES = 16 * 2**20
"""As many receives as this holds are posted ahead, and never fewer than three."""


@dataclass(frozen=True)
class Routes:
    """The messages of one pipeline rank, derived from the plan alone.

    `peer` of each SEND or RECV, and its `number` in its channel; `receives` in the order in which they are posted, of
    which `due[slot]` must be posted before that slot; `arrived[recv]` the sends that must have arrived once `recv` has.
    """

    peer: Mapping[Op, int]
    number: Mapping[Op, int]
    receives: tuple[Op, ...]
    due: tuple[int, ...]
    arrived: Mapping[Op, tuple[Op, ...]]


def routes_of(plan: Plan, rank: int) -> Routes:
    """Routes of pipeline rank `rank` of a plan whose messages are spelled out."""
    placement, order = plan.placement, plan.orders[rank]
    place = {op: index for row in plan.orders for index, slot in enumerate(row) for op in slot.ops}
    peer = {op: placement.rank_of[_other(op, plan).stage] for slot in order for op in slot.ops if _is_message(op)}
    number: dict[Op, int] = {}
    sent: dict[int, int] = {}
    expected: dict[int, list[Op]] = {}  # by peer: my receives in the order it sends them
    for source in {*peer.values(), rank}:
        for op in (slot.first for slot in plan.orders[source] if slot.first.kind in _SENDS):
            receive = _other(op, plan)
            target = placement.rank_of[receive.stage]
            if source == rank:
                number[op] = sent[target] = sent.get(target, -1) + 1
            elif target == rank:
                number[receive] = len(expected.setdefault(source, []))
                expected[source].append(receive)
    receives, due = _posts(plan, rank, expected, number, peer)
    return Routes(peer, number, receives, due, _arrived(plan, rank, peer, place))


def _is_message(op: Op) -> bool:
    return op.kind in _SENDS or op.kind in _RECEIVES


def _other(op: Op, plan: Plan) -> Op:
    """The other end of a message."""
    forward = op.kind in (Kind.SEND_F, Kind.RECV_F)
    down = op.kind in (Kind.SEND_F, Kind.RECV_B)
    stage = (plan.placement.after if down else plan.placement.before)[op.stage]
    if stage is None:
        raise ScheduleError(f"{op} faces an end of the chain")
    kinds = (Kind.SEND_F, Kind.RECV_F) if forward else (Kind.SEND_B, Kind.RECV_B)
    return Op(stage, kinds[1] if op.kind is kinds[0] else kinds[0], op.mb)


def _posts(
    plan: Plan, rank: int, expected: Mapping[int, list[Op]], number: Mapping[Op, int], peer: Mapping[Op, int]
) -> tuple[tuple[Op, ...], tuple[int, ...]]:
    """The receives as they are posted: in the plan's order, each behind what its channel brings before it; and how many
    of them are due before each slot.
    """
    posted = dict.fromkeys(expected, 0)
    receives, due = list[Op](), list[int]()
    for slot in plan.orders[rank]:
        op = slot.first
        if op.kind in _RECEIVES:
            channel = expected[peer[op]]
            receives += channel[posted[peer[op]] : number[op] + 1]
            posted[peer[op]] = max(posted[peer[op]], number[op] + 1)
        due.append(len(receives))
    return tuple(receives), tuple(due)


def _arrived(plan: Plan, rank: int, peer: Mapping[Op, int], place: Mapping[Op, int]) -> dict[Op, tuple[Op, ...]]:
    """For each receive the sends known to have arrived by it: its sender had received them before it sent."""
    waiting: dict[int, list[tuple[int, Op]]] = {}  # by peer: (where the peer's order receives it, my send)
    for slot in plan.orders[rank]:
        for op in slot.ops:
            if op.kind in _SENDS:
                waiting.setdefault(peer[op], []).append((_used(plan, op, place), op))
    for sends in waiting.values():
        sends.sort()
    result: dict[Op, tuple[Op, ...]] = {}
    cursor = dict.fromkeys(waiting, 0)
    receives = [slot.first for slot in plan.orders[rank] if slot.first.kind in _RECEIVES]
    used_here = {op: _consumer_place(plan, op, place) for op in receives}
    for op in sorted(receives, key=used_here.__getitem__):
        source = peer[op]
        sent_at = place[_other(op, plan)]
        sends = waiting.get(source, [])
        found: list[Op] = []
        while cursor.get(source, 0) < len(sends) and sends[cursor[source]][0] < sent_at:
            found.append(sends[cursor[source]][1])
            cursor[source] += 1
        result[op] = tuple(found)
    return result


def _used(plan: Plan, send: Op, place: Mapping[Op, int]) -> int:
    """Where the receiver's order uses what `send` brings."""
    return _consumer_place(plan, _other(send, plan), place)


def _consumer_place(plan: Plan, receive: Op, place: Mapping[Op, int]) -> int:
    if receive.kind is Kind.RECV_F:
        return place[Op(receive.stage, Kind.F, receive.mb)]
    split = Op(receive.stage, Kind.I, receive.mb)
    return place[split] if split in place else place[Op(receive.stage, Kind.B, receive.mb)]


class Transport(Protocol):
    """How a tensor gets to a rank: messages of one channel stay in order."""

    def send(self, tensor: torch.Tensor, peer: int, number: int) -> dist.Work: ...

    def receive(self, tensor: torch.Tensor, peer: int, number: int) -> dist.Work: ...


class _Tagged:
    """gloo: one group for all channels, a tag for each message."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self._group = dist.distributed_c10d._get_default_group()
        self._ranks = ranks

    def send(self, tensor: torch.Tensor, peer: int, number: int) -> dist.Work:
        return self._group.send([tensor], self._ranks[peer], number)

    def receive(self, tensor: torch.Tensor, peer: int, number: int) -> dist.Work:
        return self._group.recv([tensor], self._ranks[peer], number)


class _Channels:
    """NCCL: a group of two for each direction between two ranks, so that no message waits for one of another."""

    def __init__(
        self, groups: Groups, ranks: Sequence[int], me: int, neighbours: Sequence[tuple[int, int]], backend: str
    ):
        self._out: dict[int, tuple[dist.ProcessGroup, int]] = {}
        self._in: dict[int, tuple[dist.ProcessGroup, int]] = {}
        for source, target in neighbours:
            if me not in (source, target):
                continue
            pair = sorted((ranks[source], ranks[target]))
            group = groups.make(f"from {source} to {target}", pair, backend)
            assert group is not None
            if source == me:
                self._out[target] = (group, pair.index(ranks[target]))
            else:
                self._in[source] = (group, pair.index(ranks[source]))

    def send(self, tensor: torch.Tensor, peer: int, number: int) -> dist.Work:
        group, index = self._out[peer]
        return group.send([tensor], index, 0)

    def receive(self, tensor: torch.Tensor, peer: int, number: int) -> dist.Work:
        group, index = self._in[peer]
        return group.recv([tensor], index, 0)


def make_transport(plan: Plan, groups: Groups, backend: str, channels: bool | None = None) -> Transport:
    """The transport of a backend. `channels` forces groups of two (NCCL's way) or tags (gloo's)."""
    ranks = lane_of(groups.mesh, groups.rank)
    if not (backend == "nccl" if channels is None else channels):
        return _Tagged(ranks)
    rank_of = plan.placement.rank_of
    pairs = {(rank_of[op.stage], rank_of[_other(op, plan).stage]) for _, op in plan.ops() if op.kind in _SENDS}
    return _Channels(groups, ranks, ranks.index(groups.rank), sorted(pairs), backend)


class Messages:
    """The messages of one rank while it plays: posted, taken, sent, held until they have arrived."""

    def __init__(
        self, routes: Routes, transport: Transport, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._routes, self._transport = routes, transport
        self._shape, self._dtype, self._device = torch.Size(shape), dtype, device
        self._ahead = max(_LEAST_AHEAD, _AHEAD_BYTES // max(self._shape.numel() * dtype.itemsize, 1))
        self._next = 0
        self._posted: dict[Op, tuple[dist.Work, torch.Tensor]] = {}
        self._sent: dict[Op, tuple[dist.Work, torch.Tensor]] = {}

    @property
    def held_bytes(self) -> int:
        """Bytes of receives that are posted and of sends not known to have arrived."""
        size = self._shape.numel() * self._dtype.itemsize
        return size * (len(self._posted) + len(self._sent))

    def post(self, due: int) -> None:
        """Get ready for the first `due` receives of the step."""
        while self._next < due:
            self._post_next()

    def _post_next(self) -> None:
        op = self._routes.receives[self._next]
        self._next += 1
        buffer = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        self._posted[op] = (self._transport.receive(buffer, self._routes.peer[op], self._routes.number[op]), buffer)

    def take(self, op: Op) -> torch.Tensor:
        """What a posted RECV brought, once it is there; sends that have thereby arrived are let go.

        Whoever waits has time: further receives are posted first.
        """
        while len(self._posted) < self._ahead and self._next < len(self._routes.receives):
            self._post_next()
        work, tensor = self._posted.pop(op)
        work.wait()
        for send in self._routes.arrived[op]:
            held = self._sent.pop(send, None)
            if held is not None:
                held[0].wait()
        return tensor

    def send(self, op: Op, tensor: torch.Tensor) -> None:
        """Send what a SEND carries; it must not be changed any more. ScheduleError if it is not what is expected."""
        if tensor.shape != self._shape or tensor.dtype is not self._dtype or not tensor.is_contiguous():
            layout = "" if tensor.is_contiguous() else ", not contiguous"
            raise ScheduleError(
                f"{op} would carry {tuple(tensor.shape)} of {tensor.dtype}{layout}; the plan's messages are "
                f"{tuple(self._shape)} of {self._dtype}"
            )
        self._sent[op] = (self._transport.send(tensor, self._routes.peer[op], self._routes.number[op]), tensor)

    def finish(self) -> None:
        """Wait until everything sent has arrived: the end of a step."""
        for work, _ in self._sent.values():
            work.wait()
        self._sent.clear()
        self._next = 0
