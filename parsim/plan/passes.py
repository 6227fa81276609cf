"""Small pure passes over a plan: messages, gradient reduction, optimizer step. Their order is the only coupling:
offload before reduce, reduce before step, p2p last, so that it sees every compute op.
"""

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import replace

from parsim.plan.deps import levels
from parsim.plan.op import BACKWARD, COMPUTE, Kind, Op, Slot
from parsim.plan.placement import Placement
from parsim.plan.plan import Orders, Plan

__all__ = ["add_gradient_reduction", "add_offload", "add_optimizer_step", "add_p2p", "compute_only"]

_MESSAGES = frozenset({Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B})


def compute_only(plan: Plan) -> Plan:
    """The plan without its SEND and RECV ops: what they order follows from the dependency rule."""
    return replace(
        plan,
        orders=tuple(tuple(slot for slot in order if slot.first.kind not in _MESSAGES) for order in plan.orders),
    )


def add_p2p(plan: Plan) -> Plan:
    """Spell out the messages: a SEND right after its producer, and at that moment a RECV on the consumer's rank.

    All rows are cut from one total order in which each SEND stands beside its RECV, so no order of matching,
    not even a send that blocks until it is received, can deadlock. Raises DeadlockError if the plan does.
    """
    plan = compute_only(plan)
    orders: list[list[Slot]] = [[] for _ in plan.orders]
    for level in levels(plan):
        for rank, index in level:
            slot = plan.orders[rank][index]
            orders[rank].append(slot)
            for op in slot.ops:
                message = _message(op, plan.placement)
                if message is not None:
                    send, receive = message
                    orders[rank].append(Slot(send))
                    orders[plan.placement.rank_of[receive.stage]].append(Slot(receive))
    return replace(plan, orders=_frozen(orders))


def _message(op: Op, placement: Placement) -> tuple[Op, Op] | None:
    """The SEND and RECV that carry the result of `op` to another rank; None if it stays, or has no consumer."""
    if op.kind is Kind.F:
        target, send, receive = placement.after[op.stage], Kind.SEND_F, Kind.RECV_F
    elif op.kind in (Kind.B, Kind.I):
        target, send, receive = placement.before[op.stage], Kind.SEND_B, Kind.RECV_B
    else:
        return None
    if target is None or placement.rank_of[target] == placement.rank_of[op.stage]:
        return None
    return Op(op.stage, send, op.mb), Op(target, receive, op.mb)


def add_offload(plan: Plan, stages: Container[int]) -> Plan:
    """What each of `stages` saves leaves for the host and comes back: an OFFLOAD right after each forward, and a RELOAD
    before the slot that precedes its backward in the rank's order, so that the copy has that slot to hide beside; where
    that slot is the micro-batch's own forward, after it.
    """
    return replace(plan, orders=tuple(_with_copies(order, stages) for order in plan.orders))


def _with_copies(order: tuple[Slot, ...], stages: Container[int]) -> tuple[Slot, ...]:
    before: dict[int, list[Slot]] = {}
    after: dict[int, list[Slot]] = {}
    made: dict[tuple[int, int | None], int] = {}  # where the forward of a stage and micro-batch stands
    preceding = -1
    for index, slot in enumerate(order):
        if slot.first.kind not in COMPUTE:
            continue
        for stage, kind, mb in slot.ops:
            if stage not in stages:
                continue
            if kind is Kind.F:
                made[stage, mb] = index
                after.setdefault(index, []).append(Slot(Op(stage, Kind.OFFLOAD, mb)))
            elif kind in (Kind.B, Kind.I):
                at = index if made[stage, mb] == preceding else preceding
                before.setdefault(at, []).append(Slot(Op(stage, Kind.RELOAD, mb)))
        preceding = index
    slots: list[Slot] = []
    for index, slot in enumerate(order):
        slots += (*before.get(index, ()), slot, *after.get(index, ()))
    return tuple(slots)


def add_gradient_reduction(plan: Plan) -> Plan:
    """A REDUCE_GRAD for each stage, right after the last backward of the stage in its rank's order.

    Where several stages hold one part (DualPipe), each reduces once the last of them is done. All ranks take the
    parts in the order of one play of the plan, so no two of them can wait for each other's reduction.
    """
    part_of = plan.placement.part_of
    left = Counter(part_of[op.stage] for _, op in plan.ops() if op.kind in BACKWARD)
    orders: list[list[Slot]] = [[] for _ in plan.orders]
    for rank, slot in _play_order(plan):
        orders[rank].append(slot)
        for op in slot.ops:
            if op.kind in BACKWARD:
                left[part_of[op.stage]] -= 1
                if not left[part_of[op.stage]]:
                    for stage in plan.placement.twins(op.stage):
                        orders[plan.placement.rank_of[stage]].append(Slot(Op(stage, Kind.REDUCE_GRAD)))
    return replace(plan, orders=_frozen(orders))


def _play_order(plan: Plan) -> Iterator[tuple[int, Slot]]:
    """Every slot with its rank: as played where ranks share a part, rank by rank where none waits for another."""
    if plan.placement.parts == plan.placement.stages:
        yield from ((rank, slot) for rank, order in enumerate(plan.orders) for slot in order)
    else:
        yield from ((rank, plan.orders[rank][index]) for level in levels(plan) for rank, index in level)


def add_optimizer_step(plan: Plan) -> Plan:
    """A STEP for each stage at the end of its rank's order."""
    return replace(
        plan,
        orders=tuple(
            (*order, *(Slot(Op(stage, Kind.STEP)) for stage in plan.placement.stages_of(rank)))
            for rank, order in enumerate(plan.orders)
        ),
    )


def _frozen(orders: list[list[Slot]]) -> Orders:
    return tuple(map(tuple, orders))
