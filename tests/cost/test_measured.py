"""Measured costs: what a cost file or a recording says is what the simulator plays, and ugly files are refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from parsim.cli import run as parsim
from parsim.cost import MeasuredCost, cost_from_document
from parsim.cost.measured import durations_of, medians_of
from parsim.errors import LayoutError, ParsimError, ScheduleError, SpecError
from parsim.plan import Kind, Op, Plan, Slot
from parsim.run_plan import plan_of
from parsim.schedules import build
from parsim.simulation import simulate
from parsim.spec import Run, load_run
from parsim.timeline import Span, Timeline, timeline_document

FOUR = [0.25, 0.5, 1.0, 0.125]  # exact in binary
COST: dict[str, Any] = {
    "schema_version": "1.0",
    "kind": "cost",
    "evidence": "calibrated",
    "device": "cpu",
    "ops": {"F": FOUR, "I": FOUR, "W": [0.5] * 4, "REDUCE_GRAD": [0.0] * 4, "STEP": [0.0625] * 4},
    "p2p": {"latency_s": 0.25, "bytes_per_s": 1024.0, "message_bytes": 256},
}
OVERRIDES = ("layout.schedule=zb-h1",)


def tiny(*overrides: str) -> Run:
    return load_run("tiny-local", overrides)


def priced(document: object, run: Run) -> MeasuredCost:
    return cost_from_document(document, plan_of(run).placement, run)


def changed(**ops: Any) -> dict[str, Any]:
    document = copy.deepcopy(COST)
    document["ops"].update(ops)
    return document


def test_a_slot_takes_what_was_measured() -> None:
    cost = priced(COST, tiny(*OVERRIDES))
    assert cost.seconds(Slot(Op(2, Kind.F, 7))) == 1.0
    assert cost.seconds(Slot(Op(1, Kind.B, 0))) == 0.5 + 0.5  # I + W
    assert cost.seconds(Slot(Op(3, Kind.F, 1), Op(3, Kind.B, 0))) == 0.125 + 0.125 + 0.5
    assert cost.seconds(Slot(Op(0, Kind.STEP))) == 0.0625
    assert cost.seconds(Slot(Op(0, Kind.SEND_F, 1))) == 0
    assert cost.hop_seconds(0, 1) == 0.25 + 256 / 1024
    assert cost.exposed_seconds(Slot(Op(0, Kind.STEP))) == {"optimizer": 0.0625}
    assert priced(changed(B=[9.0] * 4, FB=[7.0] * 4), tiny()).seconds(Slot(Op(0, Kind.B, 0))) == 9.0
    assert priced(changed(FB=[7.0] * 4), tiny()).seconds(Slot(Op(0, Kind.F, 1), Op(0, Kind.B, 0))) == 7.0


def test_halves_are_never_made_from_a_full_backward() -> None:
    document = {**COST, "ops": {"F": FOUR, "B": FOUR}}
    assert simulate(tiny(), cost=priced(document, tiny())).step_time_s > 0
    run = tiny(*OVERRIDES)
    with pytest.raises(SpecError, match=r"I of stage 0 was not measured \(F, B was\); a full backward does not tell"):
        simulate(run, cost=priced(document, run))


def test_two_ranks_by_hand() -> None:
    """1f1b, p=2, m=2, F=1, B=2, hop 0.5: rank 1 has 1F0 1B0 1F1 1B1; its first op starts at 1.5."""
    run = tiny("layout.mesh.pp=2", "batch.global_batch_size=2")
    document = {**COST, "ops": {"F": [1.0, 1.0], "B": [2.0, 2.0], "STEP": [0.25, 0.25]}, "p2p": {"latency_s": 0.5}}
    result = simulate(run, cost=priced(document, run))
    # F0 at 1.5, B0 to 4.5, F1 to 5.5, B1 to 7.5, hop, B1 on rank 0 to 10, step
    assert result.step_time_s == 10.25
    assert result.exposed_s["optimizer"] == 0.25
    assert result.evidence["calibrated"] == ["cost.F", "cost.B", "cost.STEP", "cost.p2p"]
    assert "cost.REDUCE_GRAD" in result.evidence["assumed"]


def test_a_list_by_part_serves_every_stage_of_the_part() -> None:
    run = tiny("layout.schedule=dualpipe", "layout.mesh.pp=4", "batch.global_batch_size=8")
    cost = priced(COST, run)
    assert [cost.seconds(Slot(Op(stage, Kind.F, 0))) for stage in range(8)] == FOUR + FOUR


def spans_of(run: Run, scale: float = 1.0) -> tuple[Timeline, Plan]:
    result = simulate(run, cost=priced(COST, run))
    stretched = tuple(
        span._replace(start_s=span.start_s * scale, end_s=span.end_s * scale) for span in result.timeline.spans
    )
    return Timeline(result.timeline.ranks, stretched, source="run", run=run.document()), result.plan


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "dualpipe-v", "dualpipe"])
def test_a_recording_gives_back_the_costs_that_made_it(schedule: str) -> None:
    run = tiny(f"layout.schedule={schedule}", "layout.mesh.pp=4", "batch.global_batch_size=16", "model.layers=8")
    document = changed()
    if schedule == "dualpipe-v":
        document["ops"] = {name: [*row, *row] for name, row in COST["ops"].items()}
    expected = simulate(run, cost=priced(document, run))
    timeline = Timeline(4, expected.timeline.spans, source="run", run=run.document())
    again = json.loads(json.dumps(timeline_document(timeline)))
    cost = priced(again, run)
    assert cost.evidence["cost.F"] == "calibrated"
    assert cost.evidence["cost.p2p"] == "assumed"  # nobody saw a message
    free = {**document, "p2p": None}
    assert simulate(run, cost=cost).step_time_s == pytest.approx(
        simulate(run, cost=priced(free, run)).step_time_s, rel=1e-12
    )


def test_medians_and_messages_of_a_recording() -> None:
    spans = [Span(0, "compute", Op(0, Kind.F, mb), mb, mb + took) for mb, took in enumerate((0.5, 0.25, 0.875))]
    spans += [Span(0, "p2p", Op(0, Kind.RECV_B, 0), 0.0, 0.125)]
    timeline = Timeline(1, tuple(spans), source="run")
    assert medians_of([timeline], 1) == {"F": (0.5,)}
    assert cost_from_document(timeline_document(timeline), build("gpipe", 1, 3).placement).hop_s == 0.125
    emulated = Timeline(1, tuple(spans), source="run", run={"measured": {"emulated": True}})
    assert cost_from_document(timeline_document(emulated), build("gpipe", 1, 3).placement).evidence == {
        "cost.F": "assumed",
        "cost.p2p": "assumed",
        "cost.REDUCE_GRAD": "assumed",
        "cost.STEP": "assumed",
    }


def test_a_reduction_takes_what_the_backward_does_not_hide() -> None:
    backward, reduce = Op(0, Kind.B, 0), Op(0, Kind.REDUCE_GRAD)
    for start, end, expected in ((1.0, 5.0, 2.0), (4.0, 5.0, 1.0), (1.0, 2.0, 0.0)):
        spans = (Span(0, "compute", backward, 0.0, 3.0), Span(0, "collective", reduce, start, end))
        assert durations_of(Timeline(1, spans)) == {backward: 3.0, reduce: expected}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "must be an object"),
        ({}, '"kind" must be "cost"'),
        ({"kind": "cost"}, "schema_version 'None'"),
        ({**COST, "schema_version": "2.0"}, "this parsim reads 1.x"),
        ({**COST, "evidence": "guessed"}, "evidence 'guessed' is not one of"),
        ({**COST, "evidence": ["calibrated"]}, "is not one of"),
        ({**COST, "ops": {}}, '"ops" must be'),
        ({**COST, "ops": [1, 2]}, '"ops" must be'),
        (changed(X=FOUR), "ops.X is not one of F, I, W, B, FB, REDUCE_GRAD, STEP"),
        (changed(F=0.5), "ops.F must be a list"),
        (changed(F=[]), "ops.F must be a list"),
        (changed(F=FOUR[:3]), "F was measured on 3 stages, the plan has 4 stages"),
        (changed(F=[*FOUR[:3], -1.0]), r"ops.F\[3\] -1 is negative"),
        (changed(F=[*FOUR[:3], True]), "'True' is not a finite number"),
        (changed(F=[*FOUR[:3], "1"]), "is not a finite number"),
        (changed(F=[*FOUR[:3], 10**400]), "is not a finite number"),
        ({**COST, "p2p": 3}, "p2p must be an object"),
        ({**COST, "p2p": {}}, "p2p.latency_s 'None' is not"),
        ({**COST, "p2p": {**COST["p2p"], "bytes_per_s": 0}}, "must be more than 0"),
        ({**COST, "run": {"batch": {"sequence_length": 64}}}, "sequence_length 64, the run has 128; calibrate"),
        ({**COST, "run": {"layout": {"mesh": {"dp": 2}}}}, "layout.mesh.dp 2, the run has 1; calibrate"),
        ({"schema_version": "1.0", "source": "sim", "ranks": 1, "spans": []}, "is a prediction"),
        ({"schema_version": "1.0", "source": "run", "ranks": 1, "spans": []}, "no compute op"),
        ({"schema_version": "1.0", "source": "run", "ranks": 1, "spans": [3]}, "span 0: must be an object"),
    ],
)
def test_ugly_files_are_refused(document: object, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        priced(document, tiny())


def test_a_stage_that_was_not_measured_is_named() -> None:
    run = tiny()
    with pytest.raises(SpecError, match=r"F of stage 2 was not measured \(I, W"):
        simulate(run, cost=priced(changed(F=[1.0, 1.0, None, 1.0]), run))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(COST))
    assert parsim(["simulate", "tiny-local", "--cost", str(path), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["step_time_s"] == simulate(tiny(), cost=priced(COST, tiny())).step_time_s
    assert "cost.F" in document["evidence"]["calibrated"]
    path.write_text(json.dumps(COST)[:-20])
    assert parsim(["simulate", "tiny-local", "--cost", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "cost.json: not JSON" in error
    assert len(error.splitlines()) == 1
    assert parsim(["simulate", "tiny-local", "--cost", str(tmp_path / "none.json")]) == 2
    assert "no such cost file" in capsys.readouterr().err


def test_fp64_has_measured_costs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny("layout.precision=fp64")
    with pytest.raises(LayoutError, match=r"layout\.precision fp64: local-cpu multiplies fp32"):
        simulate(run)
    result = simulate(run, cost=priced(COST, run))
    assert result.mfu is None
    half = simulate(tiny(), cost=priced(COST, tiny()))
    for wide, narrow in zip(result.memory, half.memory, strict=True):
        for category in ("parameters", "gradients", "optimizer"):
            assert wide.at_peak()[category] == 2 * narrow.at_peak()[category]
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(COST))
    assert parsim(["simulate", "tiny-local", "--cost", str(path), "--set", "layout.precision=fp64"]) == 0
    assert "MFU" in capsys.readouterr().out
    with pytest.raises(ParsimError, match="weights of an fp64 run are fp64"):
        tiny("layout.precision=fp64", "software.params_dtype=fp32")


def test_measured_times_know_no_copies_to_the_host() -> None:
    run = tiny("layout.offload={activations: true}")
    with pytest.raises(ScheduleError, match=r"^0OFFLOAD: these costs know no copies .* would do$"):
        simulate(run, cost=priced(COST, run))
