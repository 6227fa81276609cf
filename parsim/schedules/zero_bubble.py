"""ZB-H1 and ZB-H2: the backward is split, and weight gradients fill what would be idle time.

H1 keeps 1F1B's peak on rank 0 (p micro-batches, on every rank); H2 spends 2p-1 and has no bubble inside a rank's
own span when F = I = W. The paper writes B for I.
"""

from parsim.plan import Kind, Orders, Slot, straight
from parsim.plan.edges import Edges, Microbatches
from parsim.schedules.edges import by_rank, steady_edges
from parsim.schedules.schedule import Schedule
from parsim.schedules.steady import stage_slots, steady

__all__ = ["SCHEDULES"]


def _three(rank: int, m: int) -> tuple[list[Slot], list[Slot], list[Slot]]:
    microbatches = range(m)
    return (
        stage_slots(rank, Kind.F, microbatches),
        stage_slots(rank, Kind.I, microbatches),
        stage_slots(rank, Kind.W, microbatches),
    )


def _h1(pp: int, m: int, v: int) -> Orders:
    """2.1: warm-up min(m, p-1-r), W from turn r on. Bubble (p-1)(F+I-W)."""
    return tuple(steady(*_three(rank, m), warm_up=min(m, pp - 1 - rank), lag=rank) for rank in range(pp))


def _h2(pp: int, m: int, v: int) -> Orders:
    """2.2: warm-up min(m, 2(p-1-r)+1), W from turn 2r on, the turn's forward last."""
    return tuple(
        steady(*_three(rank, m), warm_up=min(m, 2 * (pp - 1 - rank) + 1), lag=2 * rank, forward_first=False)
        for rank in range(pp)
    )


def _h1_edges(pp: int, m: Microbatches, v: int) -> Edges:
    rank = by_rank(pp)
    return steady_edges(pp, m, v, warm_up=pp - 1 - rank, lag=rank)


def _h2_edges(pp: int, m: Microbatches, v: int) -> Edges:
    rank = by_rank(pp)
    return steady_edges(pp, m, v, warm_up=2 * (pp - 1 - rank) + 1, lag=2 * rank, forward_first=False)


SCHEDULES = (
    Schedule(
        name="zb-h1",
        paper="Zero Bubble Pipeline Parallelism (2.1), arXiv:2401.10241",
        placement=lambda pp, v: straight(pp),
        orders=_h1,
        peak_activations=lambda pp, m, v, rank: min(m, pp),
        period=lambda pp, m, v: 1,
        edges=_h1_edges,
        backward="split",
    ),
    Schedule(
        name="zb-h2",
        paper="Zero Bubble Pipeline Parallelism (2.2), arXiv:2401.10241",
        placement=lambda pp, v: straight(pp),
        orders=_h2,
        peak_activations=lambda pp, m, v, rank: min(m, 2 * pp - 1),
        period=lambda pp, m, v: 1,
        edges=_h2_edges,
        backward="split",
    ),
)
