"""GPipe: all forwards, then all backwards. Every micro-batch is in flight at once."""

from parsim.plan import Kind, Orders, straight
from parsim.schedules.edges import all_forwards_first
from parsim.schedules.schedule import Schedule
from parsim.schedules.steady import stage_slots, steady

__all__ = ["SCHEDULE"]


def _orders(pp: int, m: int, v: int) -> Orders:
    """Bubble (p-1)(F+B)."""
    return tuple(
        steady(stage_slots(rank, Kind.F, range(m)), stage_slots(rank, Kind.B, range(m)), warm_up=m)
        for rank in range(pp)
    )


SCHEDULE = Schedule(
    name="gpipe",
    paper="GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism, arXiv:1811.06965",
    placement=lambda pp, v: straight(pp),
    orders=_orders,
    peak_activations=lambda pp, m, v, rank: m,
    period=lambda pp, m, v: 1,
    edges=all_forwards_first,
)
