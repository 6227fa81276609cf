"""`validate` and `calibrate` on real processes: the report and the cost file are complete, and parsim reads them.

Nothing is asserted of times but that they are there: this machine may be busy.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from executor.commands import app
from parsim.cli import run as parsim
from parsim.cli import run_app
from parsim.comparison import compare
from parsim.timeline import timeline_from_document

DEADLINE_S = 150
SMALL = "model: {name: small, layers: 4, hidden: 32, heads: 2, ffn: 64, vocab: 64}"


def write_run(path: Path, layout: str) -> Path:
    path.write_text(
        f"name: small\n{SMALL}\ncluster: local-cpu\nlayout: {{{layout}, precision: fp32}}\n"
        "batch: {sequence_length: 16, global_batch_size: 8}\n"
    )
    return path


def executor(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "executor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.timeout(DEADLINE_S + 30)
def test_validate_reports_five_parts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.yaml", "mesh: {pp: 2, dp: 2}, schedule: zb-h1, zero: 1")
    report, predicted, measured = (tmp_path / f"{name}.json" for name in ("report", "predicted", "measured"))
    options = ("--steps", 3, "--warmup", 1, "--times", "F=4ms,I=4ms,W=4ms")
    files = ("--json", report, "--predicted", predicted, "--measured", measured)
    done = executor("validate", run, *options, *files)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for name in ("gradients", "structural replay", "emulated", "real", "memory"):
        assert name in done.stdout
    document = read(report)
    assert document["gradients"]["max_rel_diff"] <= 1e-5
    assert document["gradients"]["loss_diff"] <= 1e-5
    assert document["gradients"]["copies_diff"] == 0
    for part in ("structural", "emulated", "real"):
        assert 0 < document[part]["lowest"] <= document[part]["ratio"] + 1e-9 or part == "real"
        assert document[part]["spread"] >= 0
    assert document["emulated"]["hop_s"] > 0
    assert 0 < document["real"]["cpu_share"] < 1.2
    assert isinstance(document["real"]["too_noisy"], bool)
    assert {row["op"] for row in document["per_op"]} >= {"0F0", "1W3", "0REDUCE_GRAD", "1STEP"}
    memory = document["memory"]["per_rank"]
    assert [row["rank"] for row in memory] == [0, 1, 2, 3]
    for row in memory:
        assert row["ratio"] == pytest.approx(1, abs=0.1), row
        assert row["predicted_activation_bytes"] == pytest.approx(row["measured_activation_bytes"], rel=0.05), row
    compared = compare(*(timeline_from_document(read(path)) for path in (predicted, measured)))
    assert compared.differences == ()


@pytest.mark.timeout(DEADLINE_S + 30)
def test_emulate_alone_computes_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = executor(
        "validate", "tiny-local", "--emulate", "--times", "F=4ms,B=8ms", "--steps", 3, "--warmup", 0, "--json", report
    )
    assert done.returncode == 0, done.stderr
    document = read(report)
    assert document["real"] is None
    assert document["gradients"] is None
    assert document["emulated"]["predicted_s"] > (8 + 3) * 0.012
    assert document["emulated"]["predicted_s"] < (8 + 3) * 0.012 + 6 * 0.05  # hops, even on a busy machine


@pytest.mark.timeout(DEADLINE_S + 30)
def test_a_calibrated_machine_prices_other_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, cost = write_run(tmp_path / "run.yaml", "mesh: {pp: 2}, schedule: 1f1b"), tmp_path / "cost.json"
    done = executor("calibrate", run, "--steps", 2, "--warmup", 1, "--collectives", "--out", cost)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "message latency" in done.stdout
    document = read(cost)
    assert set(document["ops"]) == {"F", "I", "W", "B", "REDUCE_GRAD", "STEP"}
    assert all(None not in row for row in document["ops"].values())
    assert {row["kind"] for row in document["collectives"]} == {
        "all_reduce",
        "reduce_scatter",
        "all_gather",
        "all_to_all",
    }
    assert all(row["busbw_gbps"] > 0 for row in document["collectives"])
    for schedule in ("1f1b", "zb-h1", "gpipe"):
        arguments = ["simulate", str(run), "--cost", str(cost), "--set", f"layout.schedule={schedule}", "--json", "-"]
        assert parsim(arguments) == 0
        predicted = json.loads(capsys.readouterr().out)
        assert "cost.F" in predicted["evidence"]["calibrated"]
        backward = ["I", "W"] if schedule == "zb-h1" else ["B"]
        rows = [document["ops"][kind] for kind in ("F", *backward)]
        assert predicted["step_time_s"] > 8 * max(map(sum, zip(*rows, strict=True)))


def test_a_recording_is_a_cost_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, recorded = write_run(tmp_path / "run.yaml", "mesh: {pp: 2}, schedule: 1f1b"), tmp_path / "run.json"
    done = executor("run", run, "--steps", 1, "--warmup", 1, "--no-memory", "--out", recorded)
    assert done.returncode == 0, done.stderr
    assert parsim(["simulate", str(run), "--cost", str(recorded)]) == 0
    assert parsim(["simulate", str(run), "--cost", str(recorded), "--set", "batch.sequence_length=32"]) == 2
    assert "was measured with batch.sequence_length 16, the run has 32" in capsys.readouterr().err


def test_ugly_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.csv"
    plan.write_text("0F0,0B0\n")
    for arguments, message in (
        (("validate", "tiny-local", "--steps", 2), "--steps"),
        (("validate", "nothing.yaml"), "nothing.yaml"),
        (("validate", "tiny-local", "--json", tmp_path / "no" / "report.json"), "is not a directory"),
        (("validate", "tiny-local", "--set", "layout.mesh.tp=2"), "layout.mesh.tp 2"),
        (("validate", "tiny-local", "--plan", plan), "pipeline ranks"),
        (("calibrate", "tiny-local", "--out", tmp_path), "is a directory"),
    ):
        assert run_app(app, "executor", list(map(str, arguments))) == 2, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert len(error.splitlines()) == 1
