"""Hidden communication: what of it ran beside compute, by axis on every pipeline rank, in seconds at full speed.

    inside ops      collectives that ran while kernels did (tp, cp, ep, and gathers of cut parameters: dp)
    dp              of the gradient reduction what the backward of its own stage hides, and while it goes on whatever
                    else the rank computes; of the gather of updated parameters what the next forwards hide
    offload         copies to and from the host while the rank computes
    pp              messages that were under way while the rank that waits for them computed

What shows of the same stands in the waterfall: of messages it is part of the idle time, "pipeline". Where times were
measured nobody knows what ops hold inside; reductions and messages are still told.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from parsim.cost import StepCost
from parsim.explanation.waterfall import Segmented
from parsim.plan import COMPUTE, Plan, Slot, needs
from parsim.timeline import Span, Timeline

__all__ = ["hidden_of"]

_AXES = ("tp", "cp", "ep", "dp", "pp")


def hidden_of(plan: Plan, cost: StepCost, timeline: Timeline) -> tuple[Mapping[str, float], ...]:
    """Hidden seconds by axis of each pipeline rank in a recording."""
    compute, collective, copies = (timeline.by_rank(stream) for stream in ("compute", "collective", "copy"))
    ended, rank_of = {span.op: span.end_s for spans in compute for span in spans}, plan.placement.rank_of
    found, straggler = list[dict[str, float]](), cost.straggler
    for rank, order in enumerate(plan.orders):
        hidden = dict.fromkeys(_AXES, 0.0)
        for axis, seconds in _inside(order, cost):
            hidden[axis] = hidden.get(axis, 0.0) + seconds * straggler
        reductions = [(span.start_s, span.end_s) for span in collective[rank]]
        hidden["dp"] += _worked(compute[rank], reductions)
        messages = []
        for op in (op for slot in order for op in slot.ops if op.kind in COMPUTE):
            for source in needs(op, plan.placement, ended, plan.microbatches_per_chain):
                if rank_of[source.stage] != rank:
                    sent = ended[source]
                    messages.append((sent, sent + cost.hop_seconds(source.stage, op.stage) * straggler))
        hidden["pp"] += _worked(compute[rank], messages)
        if copies[rank]:
            moved = _worked(compute[rank], [(span.start_s, span.end_s) for span in copies[rank]])
            hidden["offload"] = hidden.get("offload", 0.0) + moved
        found.append(hidden)
    return tuple(found)


def _inside(order: Iterable[Slot], cost: StepCost) -> Iterator[tuple[str, float]]:
    if isinstance(cost, Segmented):
        for slot in order:
            yield from cost.hidden_seconds(slot).items()


def _worked(spans: Sequence[Span], intervals: Sequence[tuple[float, float]]) -> float:
    """Seconds that a compute stream works in intervals, summed over them; spans come by their start."""
    if not spans or not intervals:
        return 0.0
    ends = np.maximum.accumulate([span.end_s for span in spans])
    starts = np.array([span.start_s for span in spans])
    starts[1:] = np.maximum(starts[1:], ends[:-1])  # of a pair both are spans
    lasting = np.maximum(ends - starts, 0.0)
    worked = np.cumsum(lasting)
    edges = np.stack((ends - lasting, ends), axis=1).reshape(-1)
    until = np.interp(np.array(intervals), edges, np.stack((worked - lasting, worked), axis=1).reshape(-1))
    return float((until[:, 1] - until[:, 0]).sum())
