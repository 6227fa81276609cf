"""1F1B (PipeDream-Flush): as early a backward as can be. GPipe's makespan, at most p - r micro-batches in flight."""

from parsim.plan import Kind, Orders, Slot, straight
from parsim.plan.edges import Edges, Microbatches
from parsim.schedules.edges import by_rank, steady_edges
from parsim.schedules.schedule import Schedule
from parsim.schedules.steady import stage_slots, steady

__all__ = ["SCHEDULE"]


def _order(pp: int, m: int, rank: int) -> tuple[Slot, ...]:
    """Warm-up w = min(m, p-1-r) forwards; then one forward, one backward; then the last w backwards."""
    forwards, backwards = stage_slots(rank, Kind.F, range(m)), stage_slots(rank, Kind.B, range(m))
    return steady(forwards, backwards, warm_up=min(m, pp - 1 - rank))


def _orders(pp: int, m: int, v: int) -> Orders:
    return tuple(_order(pp, m, rank) for rank in range(pp))


def _edges(pp: int, m: Microbatches, v: int) -> Edges:
    return steady_edges(pp, m, v, warm_up=pp - 1 - by_rank(pp))


SCHEDULE = Schedule(
    name="1f1b",
    paper="Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM (2.2.1), arXiv:2104.04473",
    placement=lambda pp, v: straight(pp),
    orders=_orders,
    peak_activations=lambda pp, m, v, rank: min(m, pp - rank),
    period=lambda pp, m, v: 1,
    edges=_edges,
)
