"""ZB-V: zero bubble on a V of stages. Rank r holds a = stage r and b = stage 2p-1-r; the turn at rank p-1 is local.

No bubble inside a rank's own span when F = I = W, at 2p stage-activations: the memory of 1F1B's p full ones.
"""

from parsim.plan import Orders, Slot, vee
from parsim.plan.edges import Counts, Edges, Microbatches
from parsim.schedules.edges import as_array, by_rank
from parsim.schedules.row import Row
from parsim.schedules.schedule import Schedule, exactly

__all__ = ["SCHEDULE"]


def _order(pp: int, m: int, rank: int) -> tuple[Slot, ...]:
    """Section 6. The phases are those of n = max(2p-1, m) micro-batches; what lies beyond m is left out."""
    a, b = rank, 2 * pp - 1 - rank
    n = max(2 * pp - 1, m)
    row = Row(m)
    # Warm-up: 2(p-r)-1 × Fa, r × (Fb, Fa), (p-r) × (Fb, Ib, Wb)
    for _ in range(2 * (pp - rank) - 1):
        row.forward(a)
    for _ in range(rank):
        row.forward(b)
        row.forward(a)
    for _ in range(pp - rank):
        row.forward(b)
        _both_gradients(row, b)
    # Steady: (Fa, Ia, Wa, Fb, Ib, Wb)
    while row.forwards(b) < row.forwards(a) or row.forwards(a) < n:
        if row.forwards(a) < n:
            row.forward(a)
        _both_gradients(row, a)
        row.forward(b)
        _both_gradients(row, b)
    # Cool-down: r × (Ia, Ib), (p-r) × (Ia, Wa), the waiting Wb, the waiting Wa
    for _ in range(rank):
        row.input_gradient(a)
        row.input_gradient(b)
    for _ in range(pp - rank):
        _both_gradients(row, a)
    for stage in (b, a):
        for _ in range(row.weights_waiting(stage)):
            row.weight_gradient(stage)
    return tuple(row.slots)


def _both_gradients(row: Row, stage: int) -> None:
    row.input_gradient(stage)
    row.weight_gradient(stage)


def _orders(pp: int, m: int, v: int) -> Orders:
    return tuple(_order(pp, m, rank) for rank in range(pp))


def _edges(pp: int, m: Microbatches, v: int) -> Edges:
    """Before the first Ib 2p-1 Fa less r, and r+1 Fb; after the last Ia r+1 Wa and r Wb. With fewer than 2p-1
    micro-batches phases are cut short: then at least the last Wa waits.
    """
    import numpy as np

    microbatches, rank = as_array(m), by_rank(pp)
    every = np.broadcast_to(microbatches, (2 * pp, len(microbatches)))
    cut = microbatches < 2 * pp - 1

    def of_stages(of_a: Counts, of_b: Counts) -> Counts:
        """Stages 0 to p-1 are the ranks' a, stages p to 2p-1 their b from the last rank to the first."""
        shape = (pp, len(microbatches))
        return np.concatenate((np.broadcast_to(of_a, shape), np.broadcast_to(of_b, shape)[::-1]))

    return Edges(
        played={"F": every, "I": every, "W": every},
        first_forward=tuple(range(pp)),
        last_backward=tuple(range(pp)),
        waiting_least=of_stages(np.where(cut, 1, rank + 1), np.where(cut, 0, rank)),
        waiting_most=of_stages(np.where(cut, microbatches, rank + 1), np.where(cut, microbatches, rank)),
        first_backward=tuple(2 * pp - 1 - r for r in range(pp)),
        before=of_stages(np.minimum(microbatches, 2 * pp - 1 - rank), np.minimum(microbatches, rank + 1)),
    )


SCHEDULE = Schedule(
    name="zb-v",
    paper="Zero Bubble Pipeline Parallelism (6), arXiv:2401.10241",
    placement=lambda pp, v: vee(pp),
    orders=_orders,
    peak_activations=lambda pp, m, v, rank: min(m, 2 * pp - 1 - rank) + min(m, rank + 1),  # Fa and Fb before Ib
    period=lambda pp, m, v: 1,
    edges=_edges,
    backward="split",
    legal_stages=exactly(2),
    default_stages=2,
)
