"""What a job refuses before any process starts, and how faults are spelled."""

from pathlib import Path

import pytest

from executor.emulation_times import check_table, roofline_times, seconds_table
from executor.fault import parse_fault
from executor.job import Job, job_of, labels_of
from executor.run_command import load_job, run_of_plan
from parsim.errors import DeadlockError, LayoutError, ParsimError, ScheduleError, SpecError
from parsim.memory import weight_share
from parsim.plan import Kind, Op, parse_csv, plan_document
from parsim.schedules import build
from parsim.spec import load_run

TINY = load_run("tiny-local")


def test_a_job_has_its_messages_reductions_and_steps_spelled_out() -> None:
    job = job_of(TINY)
    kinds = {op.kind for _, op in job.plan.ops()}
    assert {Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B, Kind.REDUCE_GRAD, Kind.STEP} <= kinds
    assert job.ranks == 4
    assert job.message_shape == (1, 128, 256)
    assert labels_of(job)[0][0] == "0F0"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layout.mesh.tp=2", r"layout\.mesh\.tp 2: the executor cannot play this yet; 1 would do"),
        ("layout.mesh.cp=2", r"layout\.mesh\.cp 2: .*1 would do"),
        ("layout.zero=3", r"layout\.zero 3: .*0 or 1 would do"),
        ("layout.fsdp=true", r"layout\.fsdp true: .*false with zero: 1 would do"),
        ("software.hidden_dropout=0.1", r"software\.hidden_dropout 0\.1: .*0 would do"),
        ("software.optimizer=sgd", r"optimizer"),
    ],
)
def test_what_ranks_cannot_play_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ParsimError, match=message) as error:
        job_of(load_run("tiny-local", [override]))
    assert "\n" not in str(error.value)


def test_experts_are_refused() -> None:
    experts = '{"experts":4,"topk":2,"expert_ffn":64}'
    moe = f'{{"name":"m","layers":4,"hidden":64,"heads":4,"ffn":128,"vocab":64,"moe":{experts}}}'
    with pytest.raises(LayoutError, match=r"model\.moe: the executor cannot play this yet; a dense model would do"):
        job_of(load_run("tiny-local", [f"model={moe}"]))


def test_a_deadlock_is_refused_before_any_process_starts() -> None:
    with pytest.raises(DeadlockError, match="plan deadlocks"):
        parse_csv("0B0,0F0\n1F0,1B0\n")
    with pytest.raises(DeadlockError, match="rank 0 waits at 0I0"):
        parse_csv("0F0,0I0,0F1,0B1,0W0\n1F1,1B1,1F0,1B0\n")


def test_a_mismatched_message_is_refused_before_any_process_starts() -> None:
    with pytest.raises(ScheduleError, match="0SEND_F0, but rank 1 never plays 1RECV_F0"):
        parse_csv("0F0,0SEND_F0,0B0\n1F0,1B0\n")


def test_a_plan_for_another_size_is_refused() -> None:
    with pytest.raises(ScheduleError, match="2 pipeline ranks, the run has pp 4"):
        job_of(TINY, build("1f1b", 2, 8))
    with pytest.raises(ScheduleError, match="plays 4 micro-batches, the run has 8"):
        job_of(TINY, build("1f1b", 4, 4))
    with pytest.raises(LayoutError, match="16"):
        job_of(TINY, build("interleaved", 4, 8, 4))


def test_ops_that_cannot_be_played_are_refused() -> None:
    plan = parse_csv("0UNSHARD,0F0,0B0\n")
    with pytest.raises(ScheduleError, match="0UNSHARD: the executor cannot play UNSHARD yet; it knows F, B, I, W"):
        job_of(run_of_plan(plan), plan)


@pytest.mark.parametrize(("option", "value"), [("steps", 0), ("warmup", -1)])
def test_impossible_options_are_refused(option: str, value: int) -> None:
    with pytest.raises(SpecError, match=f"{option} {value}: at least"):
        job_of(TINY, **{option: value})


def test_the_digest_names_what_ranks_must_agree_on() -> None:
    job = job_of(TINY)
    assert job.digest() == job_of(TINY).digest()
    others = [job_of(load_run("tiny-local", ["seed=1"])), job_of(TINY, steps=9), job_of(TINY, build("gpipe", 4, 8))]
    assert len({other.digest() for other in [job, *others]}) == 4


def test_faults_are_spelled_and_checked() -> None:
    fault = parse_fault("2:2F3:raise:1")
    assert (fault.rank, fault.op, fault.kind, fault.step) == (2, Op(2, Kind.F, 3), "raise", 1)
    for text in ("", "2", "2:2F3", "2:2F3:explode", "x:2F3:kill", "2:2F3:kill:x"):
        with pytest.raises(SpecError, match="RANK:OP:KIND"):
            parse_fault(text)
    with pytest.raises(ScheduleError, match=r"rank 0 \(pipeline rank 0\) never plays 2F3"):
        job_of(TINY, faults=(parse_fault("0:2F3:raise"),))
    with pytest.raises(LayoutError, match="rank 9: the mesh has ranks 0 to 3"):
        job_of(TINY, faults=(parse_fault("9:2F3:raise"),))
    with pytest.raises(SpecError, match="step 7: the job plays steps 0 to 6"):
        job_of(TINY, faults=(parse_fault("2:2F3:raise:7"),))


def test_times_have_units_and_cover_the_plan() -> None:
    table = seconds_table("F=40ms, I=0.5 s,W=40 us:1ms")
    assert table.times == {"F": (0.04,), "I": (0.5,), "W": (4e-5, 1e-3)}
    with pytest.raises(ScheduleError, match="NAME=TIME"):
        seconds_table("40ms")
    with pytest.raises(SpecError, match="'40 parsec'"):
        seconds_table("F=40 parsec")
    with pytest.raises(SpecError, match="plays I, W; give each its time, as in I=40ms"):
        check_table(seconds_table("F=1ms,B=2ms"), build("zb-h1", 2, 4))
    with pytest.raises(SpecError, match="plays B; give"):
        check_table(seconds_table("F=1ms,W=2ms"), build("1f1b", 2, 4))
    check_table(seconds_table("F=1ms,I=1ms,W=1ms"), build("1f1b", 2, 4))
    with pytest.raises(ScheduleError, match="lists 3 stages, the plan has 4"):
        job_of(TINY, times=seconds_table("F=1ms:1ms:1ms,I=1ms,W=1ms"))


def test_times_of_the_cost_model_cover_every_stage() -> None:
    table = roofline_times(load_run("tiny-local", ["layout.schedule=zb-h1"]))
    assert set(table.times) == {"F", "I", "W"}
    assert all(len(row) == 4 and min(row) > 0 for row in table.times.values())
    assert "FB" in roofline_times(load_run("tiny-local", ["layout.schedule=dualpipe"])).times


def test_a_plan_file_brings_a_small_model(tmp_path: Path) -> None:
    import json

    path = tmp_path / "mine.json"
    path.write_text(json.dumps(plan_document(build("dualpipe", 4, 8))))
    job = load_job(str(path), ("model.hidden=64",), None, emulate=False, times=None)
    assert job.run.model.layers == 8
    assert job.run.model.hidden == 64
    assert job.plan.placement.chains == ((0, 1, 2, 3), (4, 5, 6, 7))
    with pytest.raises(ScheduleError, match="is a plan already"):
        load_job(str(path), (), path, emulate=False, times=None)
    with pytest.raises(SpecError, match="--times are for --emulate"):
        load_job("tiny-local", (), None, emulate=False, times="F=1ms")


@pytest.mark.parametrize("command", ["run tiny-local", "validate tiny-local", "calibrate"])
def test_without_torch_there_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from executor import commands
    from parsim.cli import run_app

    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert run_app(commands.app, "executor", command.split()) == 2
    assert capsys.readouterr().err == (
        "error: the executor needs PyTorch, which is not installed; pip install 'parsim-train[run]' would do\n"
    )


def test_an_automatic_schedule_is_made_for_the_times_that_are_emulated() -> None:
    """Ops that sleep for given times are ordered for these, as `parsim schedule` would order them."""
    sets = ("layout.schedule=zb-auto", "layout.activation_limit_stages=6", "batch.global_batch_size=12")
    times = "F=4ms,I=5ms,W=1ms"

    def computing(job: Job) -> list[list[str]]:
        return [[op for op in row if op[1] in "FIW"] for row in labels_of(job)]

    emulated = load_job("tiny-local", sets, None, emulate=True, times=times)
    other = load_job("tiny-local", sets, None, emulate=True, times="F=1ms:1ms:1ms:4ms,I=1ms:1ms:1ms:4ms,W=3ms")
    share = weight_share(load_run("tiny-local", list(sets)))
    table = seconds_table(times)
    expected = build("zb-auto", 4, 12, timing=lambda placement: table, activation_limit_stages=6.0, weight_share=share)
    assert computing(emulated) == [[str(slot) for slot in order] for order in expected.orders]
    assert computing(other) != computing(emulated)
    with pytest.raises(ScheduleError, match="times: F lists 2 stages, the plan has 4"):
        load_job("tiny-local", sets, None, emulate=True, times="F=1ms:2ms,I=1ms,W=1ms")
