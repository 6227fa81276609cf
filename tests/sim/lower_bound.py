"""The lower bound of the tests: a time that no player can beat, from a program and its prices without playing it."""

import numpy as np

from parsim.plan import Kind, Op
from parsim.sim.prices import Floats, Prices, duration_table
from parsim.sim.program import COMPUTE, Program

__all__ = ["lower_bound"]


def lower_bound(program: Program, prices: Prices) -> Floats:
    """The larger of two, for each lane [B]: the work of the busiest rank, for a rank plays one slot at a time; and the
    way of the first micro-batch of a chain forward and back with every hop, for it is a path of the plan.
    """
    table = duration_table(program, prices)
    table = table.reshape(len(table), -1)
    computes = program.stream == COMPUTE
    key = program.rank[computes] * len(table) + program.duration[computes]
    ranks = program.plan.placement.ranks
    uses = np.bincount(key, minlength=ranks * len(table)).reshape(ranks, len(table))
    work = (uses @ table).max(axis=0)
    ways = [_way(program, prices, table, chain) for chain in program.plan.placement.chains]
    bound: Floats = np.maximum.reduce([work, *ways])
    return bound


def _way(program: Program, prices: Prices, table: Floats, chain: tuple[int, ...]) -> Floats:
    """Durations and hops of micro-batch 0 through a chain and back, [B]."""
    row_of = {op: row for row, slot in enumerate(program.slots) for op in slot.ops if op.mb == 0}
    back = [Op(stage, kind, 0) for stage in chain for kind in (Kind.I, Kind.B) if Op(stage, kind, 0) in row_of]
    rows = [row_of[op] for op in (*(Op(stage, Kind.F, 0) for stage in chain), *back)]
    delays = prices.delays.reshape(len(prices.delays), -1)
    stages = set(chain)
    hops = [number for number, (a, b) in enumerate(program.boundaries) if a in stages and b in stages]
    way: Floats = table[program.duration[rows]].sum(axis=0) + delays[hops].sum(axis=0)
    return way
