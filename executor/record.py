"""The recording of a run: what the ranks of one pipeline played in one step, on one clock, as a Timeline.

A compute span's `waiting_s` is the idle time just before it. `detail` splits that: `late_s` until the message it waited
for was sent, `moving_s` while its bytes were on their way. Only a message that somebody waited for has a span of its
own on the stream "p2p": of others nobody saw when they came.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from executor.job import Job
from executor.play import Played, RankRecord
from parsim.axes.mesh import Coordinates, rank_at
from parsim.plan import COMPUTE, Kind, Op, Plan, Slot, parse_slot
from parsim.timeline import MemorySample, Span, Timeline

__all__ = ["RunRecord", "step_times"]

_ON_COMPUTE = COMPUTE | {Kind.STEP}
_SENDS = (Kind.SEND_F, Kind.SEND_B)


class RunRecord:
    """All that a job's ranks recorded, read together: `step_s` of each recorded step, the timeline of any of them."""

    def __init__(self, job: Job, ranks: Sequence[RankRecord]) -> None:
        self.job, self.ranks = job, tuple(sorted(ranks, key=lambda record: record.rank))
        self.step_s = step_times(self.ranks)
        self.losses = tuple(
            sum(record.losses[step] for record in self.ranks) / (job.plan.microbatches * job.run.layout.mesh.dp)
            for step in range(len(self.ranks[0].losses))
        )

    @property
    def middle(self) -> int:
        """The recorded step whose time is the median (the lower of two)."""
        order = sorted(range(len(self.step_s)), key=self.step_s.__getitem__)
        return order[(len(order) - 1) // 2]

    def cpu_share(self, step: int) -> float | None:
        """CPU time of all compute ops over their duration; None where it is not measured (a GPU, a sleep)."""
        played = [one for record in self.ranks for one in record.steps[step].played if one.cpu_s]
        lasted = sum(one.ended_s - one.began_s for one in played)
        return sum(one.cpu_s for one in played) / lasted if lasted and self.job.times is None else None

    @property
    def clock_error_s(self) -> float:
        """By how much two ranks' clocks may differ after they have been aligned."""
        return max(record.alignment.error_s for record in self.ranks)

    def per_rank(self, step: int) -> list[dict[str, Any]]:
        """For each global rank of a step its busy and idle seconds, and the most bytes it held by category."""
        rows = []
        for record in self.ranks:
            played = record.steps[step].played
            busy = sum(p.ended_s - p.began_s for p in played if parse_slot(p.slot).first.kind in _ON_COMPUTE)
            peak = max((held.get("peak_allocated", sum(held.values())) for _, held in record.memory), default=None)
            rows.append(
                {
                    "rank": record.rank,
                    "busy_s": busy,
                    "idle_s": self.step_s[step] - busy,
                    "peak_memory_bytes": peak,
                }
            )
        return rows

    def timeline(self, step: int | None = None) -> Timeline:
        """The pipeline that ended last in a step, by default the one of median time."""
        step = self.middle if step is None else step
        mesh = self.job.run.layout.mesh
        lanes = [[rank_at(mesh, Coordinates(dp=dp, pp=pp)) for pp in range(mesh.pp)] for dp in range(mesh.dp)]
        lane = max(lanes, key=lambda ranks: max(_end(self.ranks[rank], step) for rank in ranks))
        records = [self.ranks[rank] for rank in lane]
        origin = min(record.alignment.to_rank_0(record.steps[step].began_s) for record in records)
        rows = [_aligned(record, step, origin) for record in records]
        spans = [span for rank, row in enumerate(rows) for span in _spans(rank, row, rows, self.job.plan)]
        spans.sort(key=lambda span: (span.rank, span.start_s, span.end_s))
        memory = [sample for rank, record in enumerate(records) for sample in _memory(rank, record.memory, rows[rank])]
        return Timeline(
            ranks=mesh.pp,
            spans=tuple(spans),
            memory=tuple(memory),
            source="run",
            run={**self.job.run.document(), **self._measured(step, lane)},
            evidence={"calibrated": ["spans"]},
        )

    def _measured(self, step: int, lane: Sequence[int]) -> dict[str, Any]:
        """What the recording says of itself, beside the run."""
        return {
            "measured": {
                "plan": self.job.plan.name,
                "device": self.job.device,
                "emulated": self.job.times is not None,
                "step": step,
                "step_times_s": list(self.step_s),
                "median_step_s": median(self.step_s),
                "losses": list(self.losses),
                "global_ranks": list(lane),
                "clock_error_s": self.clock_error_s,
                "cpu_share": self.cpu_share(step),
            }
        }


def step_times(ranks: Sequence[RankRecord]) -> tuple[float, ...]:
    """Seconds of each recorded step: from the first rank's start to the last one's end."""
    times = []
    for step in range(len(ranks[0].steps)):
        began = min(record.alignment.to_rank_0(record.steps[step].began_s) for record in ranks)
        times.append(max(_end(record, step) for record in ranks) - began)
    return tuple(times)


def _end(record: RankRecord, step: int) -> float:
    return record.alignment.to_rank_0(record.steps[step].ended_s)


def _aligned(record: RankRecord, step: int, origin: float) -> list[tuple[Slot, Played]]:
    """What a rank played, in seconds since the step began; nothing begins before that."""

    def at(t_s: float) -> float:
        return max(record.alignment.to_rank_0(t_s) - origin, 0.0)

    return [
        (parse_slot(one.slot), Played(one.slot, at(one.asked_s), at(one.began_s), at(one.ended_s), one.cpu_s))
        for one in record.steps[step].played
    ]


def _spans(
    rank: int, row: Sequence[tuple[Slot, Played]], rows: Sequence[Sequence[tuple[Slot, Played]]], plan: Plan
) -> Iterable[Span]:
    sent = {slot.first: played.began_s for other in rows for slot, played in other if slot.first.kind in _SENDS}
    idle_from = 0.0
    for slot, played in row:
        kind = slot.first.kind
        if kind in _SENDS:
            continue
        if kind is Kind.REDUCE_GRAD:
            yield Span(rank, "collective", slot.first, played.began_s, played.ended_s)
            continue
        waiting = max(played.began_s - idle_from, 0.0)
        idle_from = played.ended_s
        receives = [op for op in (_receive(op, plan, rank) for op in slot.ops) if op is not None]
        arrivals = [sent[send] for receive in receives if (send := _send_of(receive, plan)) in sent]
        detail: dict[str, Any] = {}
        if played.cpu_s and played.ended_s > played.began_s:
            detail["cpu_share"] = round(played.cpu_s / (played.ended_s - played.began_s), 4)
        if arrivals:
            late = min(max(max(arrivals) - played.asked_s, 0.0), played.began_s - played.asked_s)
            detail["late_s"] = late
            detail["moving_s"] = max(played.began_s - played.asked_s - late, 0.0)
        for op in slot.ops:
            others = {"pair": str(next(o for o in slot.ops if o is not op))} if slot.second is not None else {}
            yield Span(rank, "compute", op, played.began_s, played.ended_s, waiting, {**detail, **others})
        for receive in receives:
            departed = sent.get(_send_of(receive, plan))
            if departed is not None and departed > played.asked_s and played.began_s > departed:
                yield Span(rank, "p2p", receive, departed, played.began_s)


def _receive(op: Op, plan: Plan, rank: int) -> Op | None:
    """The RECV that brings an op its input, None if nothing is received."""
    placement = plan.placement
    if op.kind is Kind.F:
        source, kind = placement.before[op.stage], Kind.RECV_F
    elif op.kind in (Kind.B, Kind.I):
        source, kind = placement.after[op.stage], Kind.RECV_B
    else:
        return None
    return None if source is None or placement.rank_of[source] == rank else Op(op.stage, kind, op.mb)


def _send_of(receive: Op, plan: Plan) -> Op:
    down = receive.kind is Kind.RECV_F
    stage = (plan.placement.before if down else plan.placement.after)[receive.stage]
    assert stage is not None
    return Op(stage, Kind.SEND_F if down else Kind.SEND_B, receive.mb)


def _memory(
    rank: int, samples: Sequence[tuple[str, Mapping[str, float]]], row: Sequence[tuple[Slot, Played]]
) -> Iterable[MemorySample]:
    """The samples, at the moments when the recorded step had played the same slots."""
    ended = {played.slot: played.ended_s for _, played in row}
    for slot, held in samples:
        if slot in ended:
            yield MemorySample(rank, ended[slot], held)
