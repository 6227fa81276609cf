"""Recordings: pairs, waiting, memory, lanes. That every span stands where it must: see tests/contracts."""

import pytest

from parsim.cost.unit import UnitCost
from parsim.metrics import bubble
from parsim.plan import Placement, Plan, parse_slot
from parsim.schedules import build
from parsim.sim import compile_plan, latest_first_starts, play, prices, recording, stack
from parsim.timeline import MemorySample


def test_every_part_of_the_recording() -> None:
    """DualPipe's pairs, a lane of its own, memory as given."""
    program = compile_plan(build("dualpipe", 4, 8))
    played = play(program, prices(program, UnitCost({"P2P": (0.5,)})))
    sample = MemorySample(0, 0.0, {"parameters": 8.0})
    timeline = recording(program, played, run={"model": "a"}, evidence={"cost": "assumed"}, memory=[sample])
    assert (timeline.ranks, timeline.source, timeline.memory) == (4, "sim", (sample,))
    assert (timeline.run, timeline.evidence) == ({"model": "a"}, {"cost": "assumed"})
    assert timeline.makespan_s == played.makespan
    keys = [(span.rank, span.start_s) for span in timeline.spans]
    assert keys == sorted(keys)
    pairs = {(str(span.op), span.detail["pair"]): span[3:6] for span in timeline.spans if span.detail}
    assert pairs
    assert all(pairs[b, a] == times for (a, b), times in pairs.items())


def test_waiting_is_the_idle_time_of_the_stream() -> None:
    program = compile_plan(build("zb-h1", 4, 8))
    played = play(program, prices(program, UnitCost({"P2P": (0.3,)})))
    timeline = recording(program, played)
    for rank, spans in enumerate(timeline.by_rank()):
        waiting = sum(span.waiting_s for span in spans)
        assert waiting == pytest.approx(spans[-1].end_s - played.busy()[rank])


def test_bubbles_of_the_played_schedule() -> None:
    """ZB-H2 has no bubble inside a rank's span, and p - 1 in the makespan (2401.10241)."""
    program = compile_plan(build("zb-h2", 4, 12))
    played = play(program, prices(program, UnitCost()))
    found = bubble(recording(program, played), latest_first_starts(program, played))
    assert found.of_span == 0
    assert found.makespan == 3 * 12 + 3


def test_messages_of_blocking_sends_are_on_the_p2p_stream() -> None:
    placement = Placement(((0, 1),), (0, 1), (0, 1))
    orders = tuple((tuple(map(parse_slot, row.split()))) for row in ("0F0 0B0", "1F0 1B0"))
    program = compile_plan(Plan("two", placement, 1, orders), "rendezvous")
    timeline = recording(program, play(program, prices(program, UnitCost({"P2P": (0.5,)}))))
    assert [(span.rank, str(span.op), span.start_s, span.end_s) for span in timeline.spans if span.stream == "p2p"] == [
        (0, "0SEND_F0", 1.0, 1.5),
        (1, "1SEND_B0", 4.5, 5.0),
    ]
    assert timeline.makespan_s == 7.0


def test_one_lane_of_many(make_cost: type) -> None:
    program = compile_plan(build("1f1b", 2, 3))
    lanes = [prices(program, make_cost(seed)) for seed in range(3)]
    batch = play(program, stack(lanes))
    assert batch.makespan == max(batch.makespans)
    for lane, alone in enumerate(lanes):
        assert recording(program, batch, lane).spans == recording(program, play(program, alone)).spans
        assert batch.busy(lane) == play(program, alone).busy()
