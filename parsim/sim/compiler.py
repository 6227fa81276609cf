"""The compiler: from a sound plan to a program. Dependencies are what `plan.deps.needs` says, and nothing else.

`needs` depends on the micro-batch only through which ops are present for it. So it is asked once for each stage,
kind and class of micro-batches that play the same ops, and the answer is spread over the class by table look-up.

An input that the order of the row's own stream implies is dropped; of several from one stream over one boundary the
latest is kept. So most rows have one input besides the row before them; overlapped pairs and joint reductions have
more.
"""

from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan.deps import check, needs
from parsim.plan.op import COMPUTE as COMPUTE_KINDS
from parsim.plan.op import Kind, Op, Slot
from parsim.plan.passes import compute_only
from parsim.plan.plan import Plan
from parsim.sim.copies import copy_inputs
from parsim.sim.program import (
    COLLECTIVE,
    COMPUTE,
    COPY_IN,
    COPY_OUT,
    SEND_BACKWARD,
    SEND_FORWARD,
    SENDS,
    STREAM_NAMES,
    Index,
    Lag,
    Program,
    Sends,
)

__all__ = ["compile_plan"]

_KINDS = tuple(Kind)
_CODE = {kind: code for code, kind in enumerate(_KINDS)}
_STREAM = {
    **dict.fromkeys(COMPUTE_KINDS, COMPUTE),
    Kind.STEP: COMPUTE,
    Kind.REDUCE_GRAD: COLLECTIVE,
    Kind.OFFLOAD: COPY_OUT,
    Kind.RELOAD: COPY_IN,
}
_STREAM_OF_CODE = np.array([_STREAM.get(kind, -1) for kind in _KINDS])


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows in plan order, rank after rank; row 0 is the origin. Arrays of rows have length n + 1.

    `place[stage * kinds + kind, mb]` is the row that plays an op, 0 if none does; ops without a micro-batch stand in
    the last column. Inputs are triples (row, the row it needs, number of a boundary or, behind these, of a lag, or -1).
    """

    plan: Plan
    slots: list[Slot]
    rank: Index
    stream: Index
    duration: Index
    priced: tuple[Slot, ...]
    place: Index
    prev: Index
    boundaries: tuple[tuple[int, int], ...] = ()
    lags: tuple[Lag, ...] = ()
    inputs: tuple[Index, Index, Index] = (np.empty(0, int),) * 3

    def __contains__(self, op: object) -> bool:
        """Whether the plan plays `op`, an Op or the tuple that equals it."""
        return isinstance(op, tuple) and self.row(Op(*op)) > 0

    def row(self, op: Op) -> int:
        """The row that plays `op`, 0 if none does."""
        return int(self.place[op.stage * len(_KINDS) + _CODE[op.kind], -1 if op.mb is None else op.mb])

    @property
    def line(self) -> Index:
        """A number for each stream of each rank."""
        return self.rank * len(STREAM_NAMES) + self.stream


def compile_plan(plan: Plan, sends: Sends = "buffered") -> Program:
    """Compile a sound plan (`plan.check`); spelled messages are dropped, for they follow from the dependencies.

    Raises ScheduleError for ops that the players do not know (UNSHARD, RESHARD) and for a plan that
    is not complete, DeadlockError for one whose ops wait for each other under the given kind of sends.
    """
    if sends not in SENDS:
        raise ScheduleError(f"sends {sends!r}: one of {', '.join(SENDS)}")
    rows = _with_inputs(_read(compute_only(plan)))
    if sends == "rendezvous":
        rows = _with_transfers(rows)
    dep, edge = _latest_inputs(rows)
    return _program(rows, sends, dep, edge, _levels(rows, dep, sends))


def _read(plan: Plan) -> _Rows:
    """The plan's slots as arrays."""
    slots = [slot for order in plan.orders for slot in order]
    firsts = [slot[0] for slot in slots]
    pairs = [row for row, slot in enumerate(slots, 1) if slot[1] is not None]
    seconds = [op for slot in slots if (op := slot[1]) is not None]
    ops = firsts + seconds
    row = np.concatenate((np.arange(1, len(slots) + 1), np.array(pairs, int)))
    stage = np.array([op[0] for op in ops])
    kind = np.array([_CODE[op[1]] for op in ops])
    mb = np.array([-1 if op[2] is None else op[2] for op in ops])
    if strangers := np.flatnonzero(_STREAM_OF_CODE[kind] < 0).tolist():
        op = ops[strangers[0]]
        known = ", ".join(k for k in _KINDS if k in _STREAM)
        raise ScheduleError(f"{plan.name}: {op} cannot be simulated yet; the players know {known}")
    if stage.max() >= plan.placement.stages or mb.max() >= plan.microbatches_per_chain or mb.min() < -1:
        _refuse(plan)
    code = stage * len(_KINDS) + kind
    place = np.zeros((plan.placement.stages * len(_KINDS), plan.microbatches_per_chain + 1), int)
    place[code, mb] = row
    if np.count_nonzero(place) != len(ops):
        _refuse(plan)

    rank = np.zeros(len(slots) + 1, int)
    rank[1:] = np.repeat(np.arange(len(plan.orders)), [len(order) for order in plan.orders])
    stream = np.zeros(len(slots) + 1, int)
    stream[1:] = _STREAM_OF_CODE[kind[: len(slots)]]
    key = np.zeros(len(slots), int)
    key[np.array(pairs, int) - 1] = (code[len(slots) :] + 1) * len(place)
    _, example, duration = np.unique(key + code[: len(slots)], return_index=True, return_inverse=True)
    rows = _Rows(
        plan=plan,
        slots=slots,
        rank=rank,
        stream=stream,
        duration=np.concatenate((np.zeros(1, int), duration)),
        priced=tuple(slots[index] for index in example),
        place=place,
        prev=np.zeros(len(slots) + 1, int),
    )
    by_line = np.argsort(rows.line[1:], kind="stable") + 1
    follows = rows.line[by_line[1:]] == rows.line[by_line[:-1]]
    rows.prev[by_line[1:][follows]] = by_line[:-1][follows]
    return rows


def _with_inputs(rows: _Rows) -> _Rows:
    """What each row needs, without what the order of its own stream implies; and the boundaries that are crossed."""
    placement, count = rows.plan.placement, rows.plan.microbatches_per_chain
    rank_of = placement.rank_of
    hops = [(a, b) for a, b in enumerate(placement.after) if b is not None and rank_of[a] != rank_of[b]]
    boundaries = {hop: number for number, hop in enumerate(sorted(hops + [(b, a) for a, b in hops]))}
    found: list[tuple[Index, Index, int]] = []
    classes: dict[bytes, list[int]] = {}
    for mb, column in enumerate((rows.place[:, :count] > 0).T):
        classes.setdefault(column.tobytes(), []).append(mb)
    for members in classes.values():
        for code in np.flatnonzero(rows.place[:, members[0]]).tolist():
            op = Op(code // len(_KINDS), _KINDS[code % len(_KINDS)], members[0])
            for need in needs(op, placement, rows, count):
                if op.kind is Kind.OFFLOAD or need.kind is Kind.RELOAD:
                    continue  # these two have a lag: see `copies`
                needed = rows.place[need.stage * len(_KINDS) + _CODE[need.kind]]
                edge = boundaries.get((need.stage, op.stage), -1)
                found.append((rows.place[code][members], needed[members], edge))
    for code in np.flatnonzero(rows.place[:, -1]).tolist():
        op = Op(code // len(_KINDS), _KINDS[code % len(_KINDS)])
        wanted = np.array([rows.row(need) for need in needs(op, placement, rows, count)])
        found.append((np.full(len(wanted), rows.row(op)), wanted, -1))
    lags = dict[Lag, int]()
    for copied, needed, lag in copy_inputs(rows.slots, rows.rank, rows.stream, rows.row):
        number = -1 if lag is None else lags.setdefault(lag, len(boundaries) + len(lags))
        found.append((np.array([copied]), np.array([needed]), number))
    row = np.concatenate([targets for targets, _, _ in found])
    source = np.concatenate([sources for _, sources, _ in found])
    boundary = np.repeat([edge for _, _, edge in found], [len(targets) for targets, _, _ in found])
    implied = rows.line[row] == rows.line[source]
    if not source.all() or (implied & (source >= row)).any():
        _refuse(rows.plan)
    return replace(
        rows,
        inputs=(row[~implied], source[~implied], boundary[~implied]),
        boundaries=tuple(boundaries),
        lags=tuple(lags),
    )


def _with_transfers(rows: _Rows) -> _Rows:
    """Messages become rows of their own: each waits for its producer and for the op before its consumer, and the
    next op of the producer's rank waits for it.
    """
    row, source, edge = rows.inputs
    is_message = (edge >= 0) & (edge < len(rows.boundaries))
    by_producer = np.argsort(source[is_message], kind="stable")
    consumer, producer, boundary = (array[is_message][by_producer] for array in (row, source, edge))
    transfer = len(rows.rank) + np.arange(len(producer))
    next_op = np.zeros(len(rows.rank), int)
    followers = np.flatnonzero((rows.stream == COMPUTE) & (rows.prev > 0))
    next_op[rows.prev[followers]] = followers

    slots, stream = [], []
    for index, (a, b) in zip(producer.tolist(), (rows.boundaries[i] for i in boundary.tolist()), strict=True):
        is_forward = rows.plan.placement.after[a] == b
        mb = next(op.mb for op in rows.slots[index - 1].ops if op.stage == a)
        slots.append(Slot(Op(a, Kind.SEND_F if is_forward else Kind.SEND_B, mb)))
        stream.append(SEND_FORWARD if is_forward else SEND_BACKWARD)
    without = np.full(len(producer), -1)
    inputs = (
        (row[~is_message], source[~is_message], edge[~is_message]),
        (consumer, transfer, without),
        (transfer, rows.prev[consumer], without),
        (next_op[producer], transfer, without),
    )
    row, source, edge = (np.concatenate(column) for column in zip(*inputs, strict=True))
    real = (row > 0) & (source > 0)  # a rank's first op has none before it, its last no next
    return replace(
        rows,
        slots=rows.slots + slots,
        rank=np.concatenate((rows.rank, rows.rank[producer])),
        stream=np.concatenate((rows.stream, np.array(stream, int))),
        duration=np.concatenate((rows.duration, len(rows.priced) + boundary)),
        prev=np.concatenate((rows.prev, producer)),
        inputs=(row[real], source[real], edge[real]),
    )


def _latest_inputs(rows: _Rows) -> tuple[Index, Index]:
    """`dep[nd, n + 1]` and `edge[nd, n + 1]`: of the inputs of a row from one stream over one boundary, the latest."""
    row, source, edge = rows.inputs
    line = rows.line[source]
    order = np.lexsort((source, edge, line, row))
    row, source, edge, line = row[order], source[order], edge[order], line[order]
    same_row = row[1:] == row[:-1]
    latest = np.append(~(same_row & (line[1:] == line[:-1]) & (edge[1:] == edge[:-1])), True)[: len(row)]
    row, source, edge = row[latest], source[latest], edge[latest]
    number = np.arange(len(row)) - np.searchsorted(row, row)
    zero = len(rows.boundaries) + len(rows.lags)
    shape = (int(number.max(initial=-1)) + 1, len(rows.rank))
    dep, edges = np.zeros(shape, int), np.full(shape, zero)
    dep[number, row] = source
    edges[number, row] = np.where(edge < 0, zero, edge)
    return dep, edges


def _levels(rows: _Rows, dep: Index, sends: Sends) -> Index:
    """Level of each row, from 1: the rows on the longest chain that leads to it; 0 for the origin."""
    total = len(rows.rank)
    sources = np.concatenate((rows.prev[1:], *dep[:, 1:]))
    targets = np.tile(np.arange(1, total), 1 + len(dep))
    order = np.argsort(sources, kind="stable")
    starts = np.searchsorted(sources[order], np.arange(total + 1)).tolist()
    consumers = targets[order].tolist()
    waiting = [1 + len(dep)] * total
    level = [0] * total
    reached, frontier = 0, [0]
    while frontier:
        following = []
        for source in frontier:
            level[source] = reached
            for target in consumers[starts[source] : starts[source + 1]]:
                waiting[target] -= 1
                if not waiting[target]:
                    following.append(target)
        reached, frontier = reached + 1, following
    if stuck := [row for row in range(1, total) if waiting[row]]:
        _refuse_circle(rows, dep, set(stuck), sends)
    return np.array(level)


def _program(rows: _Rows, sends: Sends, dep: Index, edge: Index, level: Index) -> Program:
    """The rows in level order, inside a level by rank."""
    order = np.lexsort((rows.rank, level))  # stable: two rows of a rank stay in plan order; the origin stays first
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    order = order[1:]
    line = rows.line[order]
    ends = np.unique(line[::-1], return_index=True)[1]
    return Program(
        plan=rows.plan,
        sends=sends,
        slots=tuple(map(rows.slots.__getitem__, (order - 1).tolist())),
        rank=rows.rank[order],
        stream=rows.stream[order],
        prev=place[rows.prev[order]],
        dep=np.ascontiguousarray(place[dep[:, order]]),
        edge=np.ascontiguousarray(edge[:, order]),
        duration=rows.duration[order],
        cuts=np.searchsorted(level[order], np.arange(1, int(level.max()) + 2)),
        last=np.sort(len(order) - ends),
        priced=rows.priced,
        boundaries=rows.boundaries,
        lags=rows.lags,
    )


def _refuse_circle(rows: _Rows, dep: Index, stuck: set[int], sends: Sends) -> NoReturn:
    """Say what is wrong with an unsound plan, or name a circle of rows that blocking sends alone close."""
    if sends == "buffered":
        _refuse(rows.plan)
    check(rows.plan)
    walk, row = dict[int, None](), min(stuck)
    while row not in walk:
        walk[row] = None
        row = next(source for source in (int(rows.prev[row]), *dep[:, row].tolist()) if source in stuck)
    circle = list(walk)[list(walk).index(row) :]
    steps = [f"{rows.slots[row - 1]} on rank {rows.rank[row]}" for row in circle]
    ranks = ", ".join(map(str, sorted({int(rows.rank[row]) for row in circle})))
    raise DeadlockError(
        f"{rows.plan.name} deadlocks with rendezvous sends on ranks {ranks}: {' waits for '.join([*steps, steps[0]])}; "
        "buffered sends would do"
    )


def _refuse(plan: Plan) -> NoReturn:
    """Say what is wrong with an unsound plan."""
    check(plan)
    raise AssertionError(f"{plan.name} is sound by plan.check and yet cannot be compiled")
