"""The parts of a validation, from recordings whose times are known: no processes, nothing measured."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from executor.clock import Alignment
from executor.emulation_times import seconds_table
from executor.job import Job, job_of
from executor.play import Played, RankRecord, StepRecord
from executor.record import RunRecord
from executor.run_command import run_of_plan
from executor.validate import emulated_part, per_op, predicted_timeline, real_part, structural_part
from executor.validate_command import compared_run, validate_command
from parsim.comparison import compare
from parsim.cost import Cost, parse_times
from parsim.errors import SpecError
from parsim.model.weights import parameters
from parsim.plan import Slot, parse_slot
from parsim.report.validation_table import print_validation
from parsim.schedules import build
from parsim.sim import compile_plan, play, prices, recording
from parsim.spec import load_run
from parsim.timeline import timeline_document

STRETCH = (1.0, 1.25, 1.0, 1.25, 1.0)  # of each recorded step: those that calibrate are slower


def job(schedule: str = "zb-h1", **options: Any) -> Job:
    plan = build(schedule, 4, 8)
    return job_of(run_of_plan(plan), plan, steps=len(STRETCH), warmup=0, **options)


def played_by(job: Job, cost: Cost, stretch: tuple[float, ...] = STRETCH, busy: float = 1.0) -> RunRecord:
    """What ranks would record whose ops take exactly what `cost` says, stretched in each step, and on no CPU else."""
    program = compile_plan(job.plan)
    spans = recording(program, play(program, prices(program, cost))).spans
    ranks = []
    for rank in range(job.plan.placement.ranks):
        steps = []
        for step, factor in enumerate(stretch):
            began = 100.0 * step
            rows = []
            for span in spans:
                if span.rank != rank or (span.op.mb is not None and "pair" in span.detail and span.op.kind != "F"):
                    continue
                slot = str(
                    span.op if "pair" not in span.detail else Slot(span.op, parse_slot(span.detail["pair"]).first)
                )
                start, end = began + factor * span.start_s, began + factor * span.end_s
                rows.append(Played(slot, start - factor * span.waiting_s, start, end, busy * (end - start)))
            last = max(span.end_s for span in spans)
            steps.append(StepRecord(began, began + factor * last, 0.0, tuple(rows)))
        ranks.append(RankRecord(rank, tuple(steps), Alignment(0.0, 0.0, 1.0, 0.0, 0.0)))
    return RunRecord(job, ranks)


COST = parse_times("F=0.5:0.25:0.75:0.5,I=0.5,W=0.25,FB=0.875,B=0.75")


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "interleaved", "zb-v", "dualpipe", "dualpipe-v"])
def test_replay_of_perfect_ranks_misses_nothing(schedule: str) -> None:
    flat = parse_times("F=0.5,I=0.5,W=0.25,FB=0.875")
    part = structural_part(played_by(job(schedule), flat), 0.0)
    assert part["ratio"] == pytest.approx(1.0, abs=1e-9)
    assert part["spread"] == pytest.approx(0.0, abs=1e-9)
    assert part["steps"] == len(STRETCH)
    assert part["is_prediction"] is False


def test_replay_shows_what_ops_do_not_explain() -> None:
    record = played_by(job(), COST)
    slow = [
        RankRecord(
            one.rank, tuple(s.__class__(s.began_s, s.ended_s + 2.0, 0.0, s.played) for s in one.steps), one.alignment
        )
        for one in record.ranks
    ]
    late = structural_part(RunRecord(record.job, slow), 0.0)
    assert late["ratio"] < 0.9


def test_real_steps_are_predicted_from_those_between() -> None:
    """Calibrating steps take 1.25 times as long, so that is what is predicted of the others."""
    prediction = real_part(played_by(job(), COST), 0.0)
    assert prediction.part["ratio"] == pytest.approx(1.25)
    assert prediction.part["lowest"] == pytest.approx(1.25)
    assert prediction.part["steps"] == 3
    assert prediction.part["cpu_share"] == pytest.approx(1.0)
    assert prediction.part["too_noisy"] is False
    rows = per_op(prediction)
    assert len(rows) == sum(1 for _ in prediction.played.program.plan.ops())
    assert all(row["ratio"] == pytest.approx(1.25) for row in rows if row["measured_s"])
    assert all(row["ratio"] is None for row in rows if not row["measured_s"])  # reductions take no time here
    assert rows[0]["op"] == "0F0"
    assert rows[0]["measured_s"] == pytest.approx(0.5)


def test_too_little_cpu_is_too_noisy() -> None:
    assert real_part(played_by(job(), COST, busy=0.95), 0.0).part["too_noisy"] is False
    part = real_part(played_by(job(), COST, busy=0.85), 0.0).part
    assert part["cpu_share"] == pytest.approx(0.85)
    assert part["too_noisy"] is True
    nobody_counts = real_part(played_by(job(), COST, busy=0.0), 0.0).part
    assert nobody_counts["cpu_share"] is None
    assert nobody_counts["too_noisy"] is False


def test_two_steps_cannot_calibrate_each_other() -> None:
    with pytest.raises(SpecError, match="steps 2: calibration between the steps needs at least 3"):
        real_part(played_by(job(), COST, stretch=(1.0, 1.0)), 0.0)


def test_an_advance_prediction_knows_only_the_table_and_the_hop() -> None:
    table = seconds_table("F=500ms,I=500ms,W=250ms")
    asked = job(times=table)
    hop = parse_times("F=0.5,I=0.5,W=0.25,P2P=0.125")
    prediction = emulated_part(played_by(asked, hop, stretch=(1.0, 1.0, 1.0)), 0.125)
    assert prediction.part["ratio"] == pytest.approx(1.0)
    assert prediction.part["hop_s"] == 0.125
    assert prediction.part["times"] == {"F": 0.5, "I": 0.5, "W": 0.25, "B": 0.75, "P2P": 0.0}
    assert prediction.part["is_prediction"] is True
    without = emulated_part(played_by(asked, hop, stretch=(1.0, 1.0, 1.0)), 0.0)
    assert without.part["ratio"] < 0.95
    with pytest.raises(SpecError, match="was not emulated"):
        emulated_part(played_by(job(), COST), 0.0)


def test_the_predicted_timeline_is_a_recording() -> None:
    prediction = real_part(played_by(job(), COST), 0.0)
    timeline = predicted_timeline(prediction, job(), "calibrated")
    assert timeline.makespan_s == pytest.approx(prediction.part["predicted_s"])
    compared = compare(timeline, prediction.measured[0])
    assert compared.differences == ()
    assert compared.total.a == pytest.approx(1.25 * compared.total.b)
    document = timeline_document(timeline)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_gradients_of_large_models_are_compared_on_a_small_one() -> None:
    tiny = load_run("tiny-local")
    assert compared_run(tiny) is tiny
    large = load_run("tiny-local", ("model=llama3-8b",))
    small = compared_run(large)
    assert small.model.layers == large.model.layers
    assert small.layout == large.layout
    assert small.microbatches == large.microbatches
    assert parameters(small.model) < 20_000_000
    assert small.model.name == "small llama3-8b"


def test_the_table_says_what_each_figure_is() -> None:
    prediction = real_part(played_by(job(), COST, busy=0.5), 0.0)
    document = {
        "plan": "zb-h1",
        "device": "cpu",
        "ranks": 4,
        "gradients": {"max_rel_diff": 1e-7, "worst": "head", "loss_diff": 0.0, "model": "tiny", "precision": "fp32"},
        "structural": structural_part(played_by(job(), COST), 0.0),
        "emulated": None,
        "real": prediction.part,
        "per_op": per_op(prediction),
        "memory": None,
        "skipped": {"emulated": "not asked for"},
    }
    out = io.StringIO()
    print_validation(document, Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    assert "structural replay 1.000 (1.000 to 1.000) measured op times played again: no advance prediction" in text
    assert "CPU share inside ops 50.0%: too noisy" in text
    assert "relative difference from a single process: worst tensor head" in text
    assert "emulated: skipped, not asked for" in text


def test_too_few_steps_are_refused_before_anything_starts(tmp_path: Path) -> None:
    options: dict[str, Any] = {"emulate": False, "times": None, "device": "cpu", "warmup": 0, "gradients": True}
    with pytest.raises(SpecError, match="at least 3"):
        validate_command("tiny-local", (), None, steps=2, hang_after_s=10.0, **options)
