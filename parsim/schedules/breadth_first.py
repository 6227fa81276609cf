"""Breadth-first (looped BFS): every local stage plays all micro-batches before the next one begins.

Each stage's parameters are gathered and its gradients reduced once, at GPipe's memory.
"""

from parsim.plan import Kind, Orders, Slot, looped
from parsim.schedules.edges import all_forwards_first
from parsim.schedules.schedule import ANY, Schedule
from parsim.schedules.steady import stage_slots, steady

__all__ = ["SCHEDULE"]


def _order(pp: int, m: int, v: int, rank: int) -> tuple[Slot, ...]:
    """For each local stage all m forwards; then, local stages reversed, the backwards of m-1 down to 0."""
    stages = range(rank, pp * v, pp)
    forwards = [slot for stage in stages for slot in stage_slots(stage, Kind.F, range(m))]
    backwards = [slot for stage in stages[::-1] for slot in stage_slots(stage, Kind.B, range(m)[::-1])]
    return steady(forwards, backwards, warm_up=m * v)


def _orders(pp: int, m: int, v: int) -> Orders:
    return tuple(_order(pp, m, v, rank) for rank in range(pp))


SCHEDULE = Schedule(
    name="looped-bfs",
    paper="Breadth-First Pipeline Parallelism, arXiv:2211.05953",
    placement=looped,
    orders=_orders,
    peak_activations=lambda pp, m, v, rank: m * v,
    edges=all_forwards_first,
    legal_stages=ANY,
    default_stages=2,
)
