"""Replay: a plan played with a duration for every single op, as a recording has them.

Costs go by kind and stage; here each micro-batch has its own time. What a recorded step took beyond a replay of its
ops is what the dependencies, the messages and the gaps between ops do not explain. It is no advance prediction.
"""

from collections.abc import Mapping

import numpy as np

from parsim.errors import ScheduleError
from parsim.plan.op import Kind, Op
from parsim.plan.plan import Plan
from parsim.sim.compiler import compile_plan
from parsim.sim.longest_path import play
from parsim.sim.played import Played
from parsim.sim.prices import Prices

__all__ = ["replay"]

_MAY_BE_MISSING = frozenset({Kind.REDUCE_GRAD, Kind.STEP})


def replay(plan: Plan, durations: Mapping[Op, float], hop_s: float = 0.0) -> Played:
    """Play `plan` with `durations[op]` seconds for each op, `hop_s` for each message between ranks.

    An overlapped pair takes its forward's entry. REDUCE_GRAD and STEP take no time unless they are given. Raises
    ScheduleError for a compute op without a time, or a time that is negative or not finite.
    """
    program = compile_plan(plan)
    seconds = [0.0 if slot.first.kind in _MAY_BE_MISSING else None for slot in program.slots]
    for row, slot in enumerate(program.slots):
        found = durations.get(slot.first, seconds[row])
        if found is None:
            raise ScheduleError(f"replay: {plan.name} plays {slot.first}, for which no time is given")
        if not 0 <= found < float("inf"):
            raise ScheduleError(f"replay: {slot.first} takes {found}: a time is finite and not negative")
        seconds[row] = found
    if not 0 <= hop_s < float("inf"):
        raise ScheduleError(f"replay: a hop takes {hop_s}: a time is finite and not negative")
    delays = np.full(len(program.delayed) + 1, hop_s)
    delays[-1] = 0.0
    each = np.array(seconds, float).reshape(-1, 1)
    # Every priced slot takes one second, stretched to each row's own time.
    return play(program, Prices(np.ones(len(program.priced)), delays), each)
