"""PyTorch's schedule CSV (torch.distributed.pipelining), both ways, read strictly.

One row per rank, no header. A cell is empty (idle), an op (`2F0`), or a pair (`(2F3;5B1)OVERLAP_F_B`). PyTorch's
own parser is not anchored and reads `0F3x` as 0F3; this one names the row and the cell instead.

A CSV does not say where the chains run. Stages stand where their row says; they form one chain, unless that
deadlocks while the mirrored placement of DualPipe (same rows, two chains) plays to its end.
"""

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan.deps import check
from parsim.plan.op import Kind, Slot, parse_slot
from parsim.plan.placement import Placement, mirrored
from parsim.plan.plan import Orders, Plan

__all__ = ["infer_plan", "parse_csv", "read_orders", "write_csv"]

_NOT_IN_TORCH = frozenset({Kind.OFFLOAD, Kind.RELOAD, Kind.STEP})


def write_csv(plan: Plan) -> str:
    """The plan as CSV. Raises ScheduleError for ops that PyTorch's grammar lacks (OFFLOAD, RELOAD, STEP)."""
    for rank, op in plan.ops():
        if op.kind in _NOT_IN_TORCH:
            raise ScheduleError(f"rank {rank} plays {op}: PyTorch's CSV has no {op.kind}")
    return "".join(",".join(map(str, order)) + "\n" for order in plan.orders)


def parse_csv(text: str, name: str = "custom") -> Plan:
    """The sound plan that `text` spells. Raises ScheduleError (row, cell, rule) or DeadlockError."""
    # Not splitlines: it would also end a row at characters that no CSV means by it.
    return infer_plan(read_orders([line.split(",") for line in text.replace("\r\n", "\n").split("\n")]), name)


def read_orders(rows: list[list[str]]) -> Orders:
    """Orders from rows of cells; blank cells are idle time and vanish. ScheduleError names row and cell."""
    filled = [rank for rank, row in enumerate(rows) if any(cell.strip() for cell in row)]
    orders = []
    for rank, row in enumerate(rows[: max(filled, default=-1) + 1]):
        slots: list[Slot] = []
        for column, cell in enumerate(row):
            if not cell.strip():
                continue
            try:
                slots.append(parse_slot(cell.strip()))
            except ScheduleError as error:
                raise ScheduleError(f"row {rank + 1}, cell {column + 1}: {error}") from None
        if not slots:
            raise ScheduleError(f"row {rank + 1} is empty: every rank plays at least one op")
        orders.append(tuple(slots))
    if not orders:
        raise ScheduleError("the plan is empty: write one row of ops for each pipeline rank")
    return tuple(orders)


def infer_plan(orders: Orders, name: str) -> Plan:
    """The sound plan with these orders: stages where their rows are, one chain or DualPipe's two."""
    rank_of: dict[int, int] = {}
    microbatches = 0
    for rank, order in enumerate(orders):
        for op in (op for slot in order for op in slot.ops):
            if rank_of.setdefault(op.stage, rank) != rank:
                raise ScheduleError(f"{op} is on rank {rank}, but stage {op.stage} stands on rank {rank_of[op.stage]}")
            microbatches = max(microbatches, 1 if op.mb is None else op.mb + 1)
    stages = tuple(range(len(rank_of)))
    if gaps := [stage for stage in stages if stage not in rank_of]:
        raise ScheduleError(f"stages go up to {max(rank_of)}, but no rank plays stage {gaps[0]}")
    ranks = tuple(rank_of[stage] for stage in stages)
    plan = Plan(name, Placement((stages,), ranks, stages), microbatches, orders)
    try:
        check(plan)
    except DeadlockError:
        pp = len(orders)
        if pp == 1 or ranks != mirrored(pp).rank_of:
            raise
        both_ways = Plan(name, mirrored(pp), 2 * microbatches, orders)
        try:
            check(both_ways)
        except ScheduleError:
            pass
        else:
            return both_ways
        raise
    return plan
