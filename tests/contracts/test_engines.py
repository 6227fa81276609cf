"""What holds for every schedule, however it is played: a new schedule gets these tests by existing.

The certificate: on each stream, every op starts exactly when the last of what it needs is there, and lasts as long as
its price. Only the longest path passes it.
"""

from itertools import pairwise

import pytest

from parsim.cost.unit import UnitCost
from parsim.errors import DeadlockError, ScheduleError
from parsim.plan import COMPUTE, Kind, Op, Plan, Slot, add_gradient_reduction, add_optimizer_step, add_p2p, needs
from parsim.schedules import build, get, names
from parsim.sim import (
    Noise,
    compile_plan,
    latest_first_starts,
    play,
    play_events,
    prices,
    recording,
    stack,
)
from parsim.sim.longest_path import play_levels, play_rows
from parsim.timeline import Timeline, timeline_document, timeline_from_document
from tests.sim.lower_bound import lower_bound

SIZES = [(1, 1), (1, 4), (2, 4), (3, 7), (4, 8), (4, 10), (6, 12), (8, 20)]


class UnevenCost(UnitCost):
    """Unit costs that differ by stage and direction, with a reduction and a step that take time."""

    def seconds(self, slot: Slot) -> float:
        stage, kind, _ = slot.first
        if kind in (Kind.REDUCE_GRAD, Kind.STEP):
            return 2.5 + stage % 3
        return super().seconds(slot) * (1 + 0.37 * (stage % 4))

    def hop_seconds(self, source: int, target: int) -> float:
        return 0.2 * (1 + source % 3) + (0.05 if target < source else 0.0)


def plans() -> list[object]:
    found = []
    for name in names():
        for pp, m in SIZES:
            for v in (1, 2, 3):
                if v in get(name).legal_stages:
                    try:
                        plan = build(name, pp, m, v)
                    except ScheduleError:
                        continue
                    found.append(pytest.param(plan, id=f"{name}-p{pp}-m{m}-v{v}"))
    return found


def certify(plan: Plan, timeline: Timeline, cost: UnevenCost) -> None:
    """Every span starts at the latest of its stream's end and its inputs, and lasts as priced."""
    spans = {span.op: span for span in timeline.spans}
    assert len(spans) == len(timeline.spans) == sum(1 for _ in plan.ops())
    ready = dict.fromkeys(spans, 0.0)
    for rank in range(timeline.ranks):
        for stream in ("compute", "collective"):
            moments = sorted({(span.start_s, span.end_s) for span in timeline.stream(rank, stream)})
            assert all(end <= start for (_, end), (start, _) in pairwise(moments))
            before = 0.0
            for slot in plan.orders[rank]:
                if (slot.first.kind is Kind.REDUCE_GRAD) == (stream == "collective"):
                    for op in slot.ops:
                        ready[op] = max(before, _inputs(plan, op, spans, cost))
                    start = max(ready[op] for op in slot.ops)
                    for op in slot.ops:
                        span = spans[op]
                        assert (span.rank, span.stream) == (rank, stream)
                        assert (span.start_s, span.end_s) == (start, start + cost.seconds(slot))
                        assert span.waiting_s == start - before
                        others = [str(other) for other in slot.ops if other != op]
                        assert dict(span.detail) == ({"pair": others[0]} if others else {})
                    before = spans[slot.first].end_s


def _inputs(plan: Plan, op: Op, spans: dict[Op, object], cost: UnevenCost) -> float:
    times = [0.0]
    for need in needs(op, plan.placement, spans, plan.microbatches_per_chain):
        end, rank_of = spans[need].end_s, plan.placement.rank_of
        travels = op.kind in COMPUTE and rank_of[need.stage] != rank_of[op.stage]
        times.append(end + cost.hop_seconds(need.stage, op.stage) if travels else end)
    return max(times)


@pytest.mark.parametrize("plan", plans())
def test_both_players_play_the_longest_path(plan: Plan) -> None:
    cost = UnevenCost({"F": (1.0,), "I": (1.1,), "W": (0.7,)})
    full = add_optimizer_step(add_gradient_reduction(plan))
    program = compile_plan(full)
    priced = prices(program, cost)
    events, by_row = play_events(program, priced), play_rows(program, priced)
    by_level = play_levels(program, stack([priced] * 3))
    for played in (events, by_row, by_level):
        assert (played.ends == events.ends[:, :1]).all()
        assert played.makespan >= lower_bound(program, priced)[0] * (1 - 1e-12)
    certify(full, recording(program, events), cost)

    spelled = compile_plan(add_p2p(full))
    assert spelled.slots == program.slots
    assert (play(spelled, prices(spelled, cost)).ends == events.ends).all()

    noise = Noise(0.05, {(1, 0): 1.3}, seed=7)
    assert not noise.silent
    table = noise.multipliers(program, 2)
    jittered = play_events(program, priced, table, 2).ends
    assert (jittered == play(program, priced, table, 2).ends).all()
    assert (jittered == play(program, priced, Noise(0.05, {(1, 0): 1.3}, seed=7).multipliers(program, 2), 2).ends).all()

    timeline = recording(program, by_level, lane=2, run={"a": 1}, evidence={"b": 2})
    assert timeline.spans == recording(program, events).spans
    assert timeline_from_document(timeline_document(timeline)) == timeline


@pytest.mark.parametrize("plan", plans())
def test_blocking_sends_are_never_faster_or_deadlock_by_name(plan: Plan) -> None:
    cost = UnevenCost({"F": (1.0,)})
    buffered = compile_plan(plan)
    fast = play(buffered, prices(buffered, cost))
    try:
        blocking = compile_plan(plan, "rendezvous")
    except DeadlockError:
        with pytest.raises(DeadlockError, match=rf"^{plan.name} deadlocks with rendezvous sends on ranks \d+, \d+.*$"):
            compile_plan(plan, "rendezvous")
        return
    slow = play(blocking, prices(blocking, cost))
    assert (slow.ends == play_events(blocking, prices(blocking, cost)).ends).all()
    assert slow.makespan >= fast.makespan
    transfers = [span for span in recording(blocking, slow).spans if span.stream == "p2p"]
    sends = [op for _, op in add_p2p(plan).ops() if op.kind in (Kind.SEND_F, Kind.SEND_B)]
    assert sorted(map(str, sends)) == sorted(str(span.op) for span in transfers)


@pytest.mark.parametrize("plan", plans())
def test_all_ranks_may_start_at_their_latest_and_no_later(plan: Plan) -> None:
    """First ops that wait for their latest start delay no rank's end; any one of them a little later does."""
    cost = UnevenCost({"F": (1.0,), "I": (1.1,), "W": (0.7,)})
    program = compile_plan(plan)
    priced = prices(program, cost)
    played = play(program, priced)
    latest = latest_first_starts(program, played)
    first = [rows[0] for _, stream, rows in program.lines if stream == 0]
    seconds = priced.durations[program.duration]
    assert len(first) == len(latest) == plan.placement.ranks

    def ends_if_released(releases: list[float]) -> list[float]:
        """A first op stretched until its release ends as one that starts then."""
        table = Noise().multipliers(program, 1)
        for row, release in sorted(zip(first, releases, strict=True)):
            start = play(program, priced, table).starts()[row]
            table[row - 1] += max(release - start, 0.0) / seconds[row - 1]
        return play(program, priced, table).ends[program.last, 0].tolist()

    on_time = played.ends[program.last, 0].tolist()
    assert ends_if_released(latest) == pytest.approx(on_time, rel=1e-9)
    for rank in range(len(first)):
        late = ends_if_released([start + 0.5 * (r == rank) for r, start in enumerate(latest)])
        assert max(a - b for a, b in zip(late, on_time, strict=True)) == pytest.approx(0.5)
