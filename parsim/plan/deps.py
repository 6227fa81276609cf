"""The one dependency rule, and the proof that a plan is sound.

- F(s,k) needs F(s-1,k); I(s,k) or B(s,k) needs F(s,k) and {I or B}(s+1,k); W(s,k) needs I(s,k).
- REDUCE_GRAD(s) needs every {B, W} of every stage that holds the part of s; STEP(s) needs REDUCE_GRAD(s).
- OFFLOAD(s,k) needs F(s,k), RELOAD(s,k) needs OFFLOAD(s,k), and I(s,k) or B(s,k) then needs RELOAD(s,k).
- Where a plan spells its messages, RECV needs the SEND, the SEND its producer, and the consumer the RECV.

"s-1" and "s+1" are the neighbours in the stage's chain. Everything else that orders ops is a rank's own order.
"""

from collections.abc import Container, Iterable, Iterator

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan.op import BACKWARD, Kind, Op, is_op, overlaps
from parsim.plan.placement import Placement
from parsim.plan.plan import Plan

__all__ = ["check", "last_backward", "levels", "needs"]

# These are asked for every op of large plans, and Python 3.11 runs code of its own for each `Kind.F`.
_F, _B, _I, _W = Kind.F, Kind.B, Kind.I, Kind.W
_SEND_F, _RECV_F, _SEND_B, _RECV_B = Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B
_UNSHARD, _RESHARD, _REDUCE_GRAD = Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE_GRAD
_OFFLOAD, _RELOAD, _STEP = Kind.OFFLOAD, Kind.RELOAD, Kind.STEP
_BACKWARD = tuple(kind for kind in Kind if kind in BACKWARD)

_NOBODY_PLAYS = "{op} on rank {rank} needs {need}, which no rank plays"


def needs(op: Op, placement: Placement, present: Container[Op], microbatches_per_chain: int) -> tuple[Op, ...]:
    """The ops that must have ended before `op` may start, by the rule above.

    `present` are the ops of the plan: it tells whether backwards are split and whether messages are spelled out.
    """
    stage, kind, mb = op
    # To ask for an op by a plain tuple is to ask for the Op: it hashes and compares alike, and is made much faster.
    if kind is _F:
        source = placement.before[stage]
        if source is None:
            return ()
        is_received = (stage, _RECV_F, mb) in present
        return (Op(stage, _RECV_F, mb) if is_received else Op(source, _F, mb),)
    if kind is _B or kind is _I:
        own: tuple[Op, ...] = (Op(stage, _F, mb),)
        if (stage, _RELOAD, mb) in present:
            own = (*own, Op(stage, _RELOAD, mb))
        source = placement.after[stage]
        if source is None:
            return own
        is_received = (stage, _RECV_B, mb) in present
        return (*own, Op(stage, _RECV_B, mb) if is_received else _input_gradient(source, mb, present))
    if kind is _W:
        return (Op(stage, _I, mb),)
    if kind is _SEND_F or kind is _OFFLOAD:
        return (Op(stage, _F, mb),)
    if kind is _SEND_B:
        return (_input_gradient(stage, mb, present),)
    if kind is _RECV_F:
        source = placement.before[stage]
        return () if source is None else (Op(source, _SEND_F, mb),)
    if kind is _RECV_B:
        source = placement.after[stage]
        return () if source is None else (Op(source, _SEND_B, mb),)
    if kind is _RELOAD:
        return (Op(stage, _OFFLOAD, mb),)
    if kind is _STEP and (reduced := Op(stage, _REDUCE_GRAD)) in present:
        return (reduced,)
    if kind is _STEP or kind is _REDUCE_GRAD:
        twins = placement.twins(stage)
        return tuple(last_backward(s, k, present) for s in twins for k in range(microbatches_per_chain))
    return ()  # UNSHARD and RESHARD: the rank's order alone


def _input_gradient(stage: int, mb: int | None, present: Container[Op]) -> Op:
    return Op(stage, _I if (stage, _I, mb) in present else _B, mb)


def last_backward(stage: int, mb: int, present: Container[Op]) -> Op:
    """The op after which micro-batch `mb` has left its gradient in the weights of `stage`: its W, else its B."""
    return Op(stage, _W if (stage, _W, mb) in present else _B, mb)


def check(plan: Plan) -> None:
    """Prove that `plan` plays every op of its placement exactly once, where it belongs, and ends.

    Raises ScheduleError that names the first missing, repeated or misplaced op, or DeadlockError that spells the
    shortest circle of ranks waiting for each other.
    """
    present = _positions(plan)
    _check_pairs(plan)
    _check_complete(plan, present)
    _check_messages(plan, present)
    levels(plan, present)


def _positions(plan: Plan) -> dict[Op, int]:
    """Rank of each op; refuses strangers and repetitions. A stage may be gathered and freed again and again."""
    placement, found = plan.placement, dict[Op, int]()
    for rank, op in plan.ops():
        if not is_op(op):
            raise ScheduleError(f"rank {rank} plays {op}, which is no op: see parse_op")
        if op.stage >= placement.stages:
            raise ScheduleError(f"rank {rank} plays {op}, but the plan has stages 0 to {placement.stages - 1}")
        if placement.rank_of[op.stage] != rank:
            raise ScheduleError(
                f"rank {rank} plays {op}, but stage {op.stage} is on rank {placement.rank_of[op.stage]}"
            )
        if op.mb is not None and op.mb >= plan.microbatches_per_chain:
            raise ScheduleError(
                f"rank {rank} plays {op}, but micro-batches go from 0 to {plan.microbatches_per_chain - 1}"
            )
        if op in found and op.kind not in (_UNSHARD, _RESHARD):
            raise ScheduleError(f"rank {rank} plays {op} twice")
        found[op] = rank
    return found


def _check_pairs(plan: Plan) -> None:
    for rank, order in enumerate(plan.orders):
        for slot in order:
            if slot.second is not None and not overlaps(slot.first, slot.second):
                raise ScheduleError(f"rank {rank} plays {slot}: only a forward and a backward overlap, in this order")


def _check_complete(plan: Plan, present: dict[Op, int]) -> None:
    microbatches = plan.microbatches_per_chain
    for stage, rank in enumerate(plan.placement.rank_of):
        for mb in range(microbatches):
            if (stage, _F, mb) not in present:
                raise ScheduleError(f"rank {rank} never plays {Op(stage, _F, mb)}")
            backward = [kind for kind in _BACKWARD if (stage, kind, mb) in present]
            if backward in ([_B], [_I, _W]):
                continue
            if _B in backward:
                raise ScheduleError(
                    f"rank {rank} plays {Op(stage, _B, mb)} and also {Op(stage, backward[-1], mb)}: B is I and W in one"
                )
            missing = _I if backward == [_W] else _W if backward == [_I] else _B
            alternative = " (nor its I and W)" if missing is _B else ""
            raise ScheduleError(f"rank {rank} never plays {Op(stage, missing, mb)}{alternative}")


def _check_messages(plan: Plan, present: dict[Op, int]) -> None:
    """Where messages are spelled out, each goes between two ranks and both of its ends are there; what is offloaded
    comes back.
    """
    placement = plan.placement
    for op, rank in present.items():
        if op.kind in (_SEND_F, _RECV_B):
            peer, match = placement.after[op.stage], _RECV_F if op.kind is _SEND_F else _SEND_B
        elif op.kind in (_SEND_B, _RECV_F):
            peer, match = placement.before[op.stage], _RECV_B if op.kind is _SEND_B else _SEND_F
        elif op.kind is _OFFLOAD and Op(op.stage, _RELOAD, op.mb) not in present:
            raise ScheduleError(f"rank {rank} plays {op}, but never {Op(op.stage, _RELOAD, op.mb)}")
        else:
            continue
        if peer is None or placement.rank_of[peer] == rank:
            where = "an end of the chain" if peer is None else f"stage {peer} on the same rank"
            raise ScheduleError(f"rank {rank} plays {op}, but it faces {where}: nothing is sent there")
        if Op(peer, match, op.mb) not in present:
            other = Op(peer, match, op.mb)
            raise ScheduleError(f"rank {rank} plays {op}, but rank {placement.rank_of[peer]} never plays {other}")


def levels(plan: Plan, present: dict[Op, int] | None = None) -> list[list[tuple[int, int]]]:
    """The plan in play order: level l holds the slots, as (rank, index in its order), whose longest chain of
    predecessors has l slots. Slots of one level do not depend on each other; inside a level, by rank.

    Raises DeadlockError when some slots can never start, ScheduleError when one needs an op nobody plays.
    """
    present = _positions(plan) if present is None else present
    ranks = range(plan.placement.ranks)
    level_of: dict[Op, int] = {}
    result: list[list[tuple[int, int]]] = []
    cursors = [0] * len(ranks)
    waiting: dict[Op, list[int]] = {}  # ranks by the op that they wait for
    ready = list(ranks)

    def play(rank: int) -> Iterator[Op]:
        """Play on as far as possible; yields the op that is missing."""
        placement, microbatches, level = plan.placement, plan.microbatches_per_chain, 0
        for index, slot in enumerate(plan.orders[rank]):
            cursors[rank] = index
            ops = slot.ops
            for op in ops:
                for need in needs(op, placement, present, microbatches):
                    if need not in level_of:
                        if need not in present:
                            raise ScheduleError(_NOBODY_PLAYS.format(op=op, rank=rank, need=need))
                        yield need
                    level = max(level, level_of[need] + 1)
            if level == len(result):
                result.append([])
            result[level].append((rank, index))
            for op in ops:
                level_of[op] = level
                if op in waiting:
                    ready.extend(waiting.pop(op))
            level += 1

    players = [play(rank) for rank in ranks]
    while ready:
        rank = ready.pop()
        if (missing := next(players[rank], None)) is not None:
            waiting.setdefault(missing, []).append(rank)
    if waiting:
        stuck = {rank for kept in waiting.values() for rank in kept}
        waiting_for = [
            _missing(plan, rank, cursors[rank], present, level_of) if rank in stuck else [] for rank in ranks
        ]
        raise DeadlockError(_shortest_circle(plan, cursors, waiting_for, present))
    for level in result:
        level.sort()
    return result


def _missing(plan: Plan, rank: int, index: int, present: dict[Op, int], played: Container[Op]) -> list[Op]:
    """What the slot needs and nobody has played; ScheduleError if nobody ever would."""
    wanted: list[Op] = []
    for op in plan.orders[rank][index].ops:
        for need in needs(op, plan.placement, present, plan.microbatches_per_chain):
            if need not in present:
                raise ScheduleError(_NOBODY_PLAYS.format(op=op, rank=rank, need=need))
            if need not in played:
                wanted.append(need)
    return wanted


def _shortest_circle(plan: Plan, cursors: list[int], waiting_for: list[list[Op]], present: dict[Op, int]) -> str:
    """The shortest circle among the ranks' first unplayed slots, in words."""
    waits: dict[int, dict[int, Op]] = {}  # rank -> rank it waits for -> the op it waits for
    for rank, wanted in enumerate(waiting_for):
        if wanted:
            waits[rank] = {present[need]: need for need in wanted}
    circles = [circle for start in waits if (circle := _circle_from(start, waits))]
    circle = min(circles, key=len)
    steps = []
    for rank, target in zip(circle, [*circle[1:], circle[0]], strict=True):
        here, there = plan.orders[rank][cursors[rank]], plan.orders[target][cursors[target]]
        need = waits[rank][target]
        place = "in the same slot" if need in here.ops else f"at or behind {there}"
        steps.append(f"rank {rank} waits at {here} for {need}, which stands {place} on rank {target}")
    return "plan deadlocks: " + "; ".join(steps)


def _circle_from(start: int, waits: dict[int, dict[int, Op]]) -> list[int] | None:
    """The shortest way from `start` along waits back to `start`, breadth first."""
    paths: Iterable[list[int]] = [[start]]
    seen: set[int] = set()
    while paths:
        longer = []
        for path in paths:
            for target in waits.get(path[-1], {}):
                if target == start:
                    return path
                if target not in seen:
                    seen.add(target)
                    longer.append([*path, target])
        paths = longer
    return None
