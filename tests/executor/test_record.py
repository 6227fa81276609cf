"""From what ranks noted to a timeline on one clock."""

import json

import pytest

from executor.clock import Alignment
from executor.job import job_of
from executor.play import Played, RankRecord, StepRecord
from executor.record import RunRecord
from executor.run_command import run_of_plan
from parsim.schedules import build
from parsim.timeline import timeline_document, timeline_from_document

PLAN = build("1f1b", 2, 1)
JOB = job_of(run_of_plan(PLAN), PLAN, steps=2, warmup=0)
SKEW_S = 100.0  # rank 1's clock shows this much more


def records(later: float = 0.0) -> list[RankRecord]:
    """F 1 s and B 2 s on each rank; a message takes 0.25 s; rank 1 asks for its input at once."""
    first = (
        Played("0F0", 0.0, 0.0, 1.0, 0.9),
        Played("0SEND_F0", 1.0, 1.0, 1.0, 0.0),
        Played("0B0", 1.0, 4.5, 6.5, 1.9),
        Played("0REDUCE_GRAD", 6.5, 6.5, 6.75, 0.0),
        Played("0STEP", 6.5, 6.75, 7.0, 0.2),
    )
    second = (
        Played("1F0", 0.0, 1.25, 2.25, 1.0),
        Played("1B0", 2.25, 2.25, 4.25, 2.0),
        Played("1SEND_B0", 4.25, 4.25, 4.25, 0.0),
        Played("1STEP", 4.25, 4.25, 4.5, 0.2),
    )

    def moved(row: tuple[Played, ...], by: float) -> tuple[Played, ...]:
        return tuple(Played(p.slot, p.asked_s + by, p.began_s + by, p.ended_s + by, p.cpu_s) for p in row)

    steps = []
    for rank, row, skew in ((0, first, 0.0), (1, second, SKEW_S)):
        played = [
            StepRecord(begin + skew, begin + skew + length, 3.0 if rank else None, moved(row, begin + skew))
            for begin, length in ((10.0, 7.0 if rank == 0 else 4.5), (30.0, (7.0 if rank == 0 else 4.5) + later))
        ]
        memory = (("0F0", {"activations": 5.0}),) if rank == 0 else (("1B0", {"activations": 7.0, "temporaries": 1.0}),)
        steps.append(
            RankRecord(
                rank, tuple(played), Alignment(0.0, skew, 60.0, skew, 1e-5), {}, (3.0 * rank, 2.0 * rank), memory
            )
        )
    return steps


def test_a_timeline_stands_on_one_clock() -> None:
    record = RunRecord(JOB, records())
    assert record.step_s == pytest.approx((7.0, 7.0))
    timeline = record.timeline()
    spans = {str(span.op): span for span in timeline.spans if span.stream == "compute"}
    assert (spans["0F0"].start_s, spans["0F0"].end_s) == pytest.approx((0.0, 1.0))
    assert (spans["1F0"].start_s, spans["1F0"].end_s) == pytest.approx((1.25, 2.25))
    assert timeline.makespan_s == pytest.approx(7.0)
    assert timeline.source == "run"


def test_waiting_is_told_apart_from_bytes_moving() -> None:
    spans = {(s.stream, str(s.op)): s for s in RunRecord(JOB, records()).timeline().spans}
    forward = spans["compute", "1F0"]
    assert forward.waiting_s == pytest.approx(1.25)
    assert forward.detail["late_s"] == pytest.approx(1.0)
    assert forward.detail["moving_s"] == pytest.approx(0.25)
    assert forward.detail["cpu_share"] == pytest.approx(1.0)
    message = spans["p2p", "1RECV_F0"]
    assert (message.start_s, message.end_s) == pytest.approx((1.0, 1.25))
    assert spans["compute", "1B0"].waiting_s == 0.0
    assert "moving_s" not in spans["compute", "1B0"].detail
    assert spans["collective", "0REDUCE_GRAD"].end_s == pytest.approx(6.75)
    assert spans["compute", "0STEP"].waiting_s == pytest.approx(0.25)


def test_the_middle_step_is_recorded_and_all_are_told() -> None:
    record = RunRecord(JOB, records(later=1.0))
    assert record.step_s == pytest.approx((7.0, 8.0))
    assert record.middle == 0
    assert record.losses == pytest.approx((3.0, 2.0))
    measured = record.timeline().run["measured"]
    assert measured["step_times_s"] == pytest.approx([7.0, 8.0])
    assert measured["clock_error_s"] == 1e-5
    assert record.cpu_share(0) == pytest.approx((0.9 + 1.9 + 0.2 + 1.0 + 2.0 + 0.2) / (1 + 2 + 0.25 + 1 + 2 + 0.25))


def test_clocks_that_drift_are_aligned_between_the_two_measurements() -> None:
    alignment = Alignment(100.0, 1.0, 200.0, 3.0, 0.0)
    assert alignment.to_rank_0(100.0) == 99.0
    assert alignment.to_rank_0(150.0) == 148.0
    assert alignment.to_rank_0(200.0) == 197.0


def test_the_json_is_the_simulators() -> None:
    timeline = RunRecord(JOB, records()).timeline()
    again = timeline_from_document(json.loads(json.dumps(timeline_document(timeline))))
    assert again == timeline
    assert {sample.rank: sample.t_s for sample in again.memory} == pytest.approx({0: 1.0, 1: 4.25})


def test_each_rank_says_how_busy_it_was() -> None:
    rows = RunRecord(JOB, records()).per_rank(0)
    assert [row["busy_s"] for row in rows] == pytest.approx([3.25, 3.25])
    assert [row["peak_memory_bytes"] for row in rows] == [5.0, 8.0]
