"""Edges of the patterns that schedules share, in closed form; numbers of micro-batches may be an array."""

from parsim.plan.edges import Counts, Edges, Microbatches

__all__ = ["all_forwards_first", "as_array", "by_rank", "steady_edges", "unknown_edges"]


def as_array(m: Microbatches) -> Counts:
    """One number of micro-batches is an array of one."""
    import numpy as np  # here and below: plans are made without it

    return np.atleast_1d(m)


def by_rank(pp: int) -> Counts:
    """The ranks as a column, for formulas over ranks and numbers of micro-batches."""
    import numpy as np

    return np.arange(pp)[:, None]


def steady_edges(
    pp: int,
    m: Microbatches,
    v: int,
    *,
    warm_up: Microbatches,
    lag: "Counts | None" = None,
    forward_first: bool = True,
    group: "Microbatches | None" = None,
) -> Edges:
    """Of the orders that `steady.steady` makes, stage s on rank s mod p, micro-batches in groups (one group if none is
    given) through the rank's stages and, backwards, through them in reverse. `warm_up[p, B]` and `lag[p, 1]` by rank.
    """
    import numpy as np

    microbatches = as_array(m)
    size = microbatches if group is None else np.broadcast_to(group, microbatches.shape)
    every = np.broadcast_to(microbatches, (pp * v, len(microbatches)))
    local = np.arange(v)[:, None, None]

    warm = np.broadcast_to(warm_up, (pp, len(microbatches)))
    first = np.minimum(warm + forward_first, microbatches * v)  # forwards before the first backward, by rank
    whole = first // (size * v)
    partial = np.minimum(size, microbatches - whole * size)
    before = whole * size + np.clip(first - whole * size * v - local * partial, 0, partial)

    waiting, backward = np.zeros_like(every), {"B": every}
    if lag is not None:
        last_group = microbatches - (microbatches - 1) // size * size
        late = np.minimum(lag + 1, microbatches * v)
        waiting = np.clip(late - local * last_group, 0, last_group).reshape(every.shape)
        backward = {"I": every, "W": every}
    return Edges(
        played={"F": every, **backward},
        first_forward=tuple(range(pp)),
        last_backward=tuple(range(pp)),
        waiting_least=waiting,
        waiting_most=waiting,
        first_backward=tuple(range((v - 1) * pp, v * pp)),
        before=before.reshape(every.shape),
    )


def unknown_edges(pp: int, m: Microbatches) -> Edges:
    """Of a plan of one stage a rank that splits backwards, whatever its order."""
    import numpy as np

    every = np.broadcast_to(as_array(m), (pp, np.size(m)))
    ranks = tuple(range(pp))
    return Edges({"F": every, "I": every, "W": every}, ranks, ranks, np.ones_like(every), every)


def all_forwards_first(pp: int, m: Microbatches, v: int) -> Edges:
    """Of orders in which every rank plays all its forwards before its first backward."""
    return steady_edges(pp, m, v, warm_up=m * v)
