"""ZB-auto: the zero-bubble schedule for given times and a limit of activations, the best of eleven orders.

The authors' greedy rule in its eight variants, and 1F1B, ZB-H1 and ZB-H2 with their warm-ups cut to the limit: so it is
never slower than those of them that keep to the limit (1F1B's B taken as I + W). With a limit of p it is the paper's
ZB-1p, with 2p its ZB-2p. Without times it plans for F = I = W and messages that take none.
"""

import math
from collections.abc import Iterator

from parsim.plan import Kind, Orders, straight
from parsim.plan.edges import Edges, Microbatches
from parsim.schedules.edges import unknown_edges
from parsim.schedules.rehearsal import Rehearsal, stage_times
from parsim.schedules.schedule import Rule, Schedule, Timing
from parsim.schedules.steady import stage_slots, steady
from parsim.schedules.zero_bubble_greedy import Limit, greedy_variants

__all__ = ["SCHEDULE"]

_SAME = 1 + 1e-9  # times that differ by less differ by their rounding


def _orders(
    pp: int,
    m: int,
    v: int,
    timing: Timing | None = None,
    activation_limit_stages: float | None = None,
    weight_share: float = 1.0,
) -> Orders:
    """Of the orders that take no longer than the best of the three named ones, the one of the shortest span; of those
    with the same, the shortest in all.
    """
    limit = Limit(pp if activation_limit_stages is None else activation_limit_stages, weight_share)
    times = stage_times(pp, timing)
    whole = int(limit.activations) if limit.activations < m else 2 * pp  # m activations are all there are
    named = [Rehearsal(times, m).play(orders) for orders in _named(pp, m, whole)]
    bound = min(line.makespan for line in named) * _SAME
    best, least_span, least = named[0], math.inf, math.inf
    for line in (*named, *greedy_variants(times, m, limit)):
        if line.makespan <= bound:
            span, makespan = line.span(), line.makespan
            if span * _SAME < least_span or (span <= least_span * _SAME and makespan * _SAME < least):
                best, least_span, least = line, span, makespan
    return best.orders()


def _named(pp: int, m: int, limit: int) -> Iterator[Orders]:
    """1F1B, ZB-H1 and ZB-H2, every rank's warm-up and its waiting W cut to what the limit leaves."""
    slots = [[stage_slots(rank, kind, range(m)) for kind in (Kind.F, Kind.I, Kind.W)] for rank in range(pp)]
    short = [min(m, pp - 1 - rank, limit - 1) for rank in range(pp)]
    long = [min(m, 2 * (pp - 1 - rank) + 1, limit) for rank in range(pp)]
    no_lag, lag = [0] * pp, [min(rank, limit - 1 - short[rank]) for rank in range(pp)]
    long_lag = [min(2 * rank, limit - long[rank]) for rank in range(pp)]
    for warm_up, lags, forward_first in ((short, no_lag, True), (short, lag, True), (long, long_lag, False)):
        yield tuple(
            steady(*slots[rank], warm_up=warm_up[rank], lag=lags[rank], forward_first=forward_first)
            for rank in range(pp)
        )


def _edges(pp: int, m: Microbatches, v: int, **options: float) -> Edges:
    return unknown_edges(pp, m)


SCHEDULE = Schedule(
    name="zb-auto",
    paper="Zero Bubble Pipeline Parallelism (3.1, ZB-1p and ZB-2p), arXiv:2401.10241",
    placement=lambda pp, v: straight(pp),
    orders=_orders,
    edges=_edges,
    backward="split",
    rules=(
        Rule(
            "activation_limit_stages",
            lambda size: "at least 1 activation of a stage",
            most=lambda size: 10**308,  # any finite number
        ),
        Rule("weight_share", lambda size: "0 to 1", least=lambda size: 0, most=lambda size: 1),
    ),
    options=("activation_limit_stages", "weight_share"),
    fractional=("activation_limit_stages", "weight_share"),
    timed=True,
)
