"""Faults end the whole run: one short line that names rank, op and cause, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from executor.board import FIELDS, Phase, Row, State, row_of
from executor.errors import RunFailed
from executor.launch import launch
from executor.rank import short
from executor.verdict import Limits, Seen, cause_of_exit, is_secondary, process_state, verdict
from parsim.errors import ScheduleError, SpecError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")

LABELS = (("0F0", "0B0"), ("1F0", "1B0"))
LIMITS = Limits(hang_after_s=5.0, setup_after_s=20.0)
RUN = ["-m", "executor", "run", "tiny-local", "--no-memory", "--warmup", "0", "--steps", "2"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "4", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
DEADLINE_S = 90.0


def judged(*seen: Seen) -> str | None:
    fault = verdict(seen, LABELS, LIMITS)
    return None if fault is None else str(fault)


COMPUTING, WAITING = Row(0, Phase.COMPUTING, 1.0), Row(1, Phase.WAITING, 1.0)


def test_no_verdict_while_all_is_well() -> None:
    assert judged(Seen(COMPUTING), Seen(WAITING)) is None
    assert judged(Seen(Row(-1, Phase.IDLE, 9.0)), Seen(Row(-1, Phase.IDLE, 9.0))) is None
    assert judged(Seen(COMPUTING, is_done=True, life="dead"), Seen(WAITING)) is None


def test_a_ranks_own_error_comes_before_what_follows_from_it() -> None:
    lost = Seen(WAITING, error="RuntimeError: Connection closed by peer", error_age_s=9.0)
    own = Seen(COMPUTING, error="ValueError: too large")
    assert judged(own, lost) == "rank 0, playing 0F0: ValueError: too large"
    assert judged(Seen(COMPUTING, life="dead", exit_code=-9), lost) == "rank 0, playing 0F0: killed by SIGKILL"
    assert judged(Seen(COMPUTING), lost) == "rank 1, playing 1B0: RuntimeError: Connection closed by peer"
    held = lost._replace(error_age_s=0.1)
    assert judged(Seen(COMPUTING), held) is None


def test_a_stopped_rank_is_given_a_moment() -> None:
    assert judged(Seen(COMPUTING, life="stopped", stopped_s=0.5), Seen(WAITING)) is None
    assert judged(Seen(COMPUTING, life="stopped", stopped_s=1.5), Seen(WAITING)) == (
        "rank 0, playing 0F0: stopped by a signal (SIGSTOP)"
    )


def test_a_hang_names_the_rank_that_computes() -> None:
    waits = Seen(Row(1, Phase.WAITING, 99.0))
    assert judged(Seen(Row(0, Phase.COMPUTING, 6.0)), waits) == "rank 0, playing 0F0: still computing after 5 s"
    assert judged(Seen(Row(0, Phase.COMPUTING, 4.0)), waits) is None
    assert judged(waits, waits._replace(row=Row(0, Phase.WAITING, 7.0))) == (
        "rank 0, playing 0B0: still waiting after 5 s, and no rank computes"
    )
    late = Seen(Row(-1, Phase.IDLE, 21.0))
    assert judged(late, Seen(COMPUTING)) == "rank 0: not ready after 20 s"


def test_causes_in_words() -> None:
    assert cause_of_exit(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert cause_of_exit(3) == "its process exited with code 3"
    assert cause_of_exit(None) == "its process is gone"
    assert is_secondary("RuntimeError: [../gloo] Connection closed by peer [127.0.0.1]:4242")
    assert not is_secondary("ValueError: geoffrey")
    assert short(ValueError("one\ntwo\nException raised from here")) == "ValueError: one"
    assert short(ScheduleError("0F0 would carry too much")) == "0F0 would carry too much"
    assert short(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert process_state(os.getpid()) == "alive"
    assert process_state(2**22 + 1) == "dead"


def test_a_board_row_says_what_a_rank_does_and_for_how_long() -> None:
    board = [0] * (2 * FIELDS)
    state = State(board, FIELDS)
    assert row_of(board, FIELDS)[:2] == (-1, Phase.IDLE)
    state.enter(4)
    assert row_of(board, FIELDS)[:2] == (4, Phase.COMPUTING)
    state.wait(5)
    time.sleep(0.01)
    row = row_of(board, FIELDS)
    assert row[:2] == (5, Phase.WAITING)
    assert 0.005 < row.age_s < 5.0
    state.finish()
    assert row_of(board, FIELDS).phase is Phase.DONE
    assert board[:FIELDS] == [0] * FIELDS


@contextmanager
def marked() -> Iterator[dict[str, str]]:
    """An environment by which the processes of a run are known; none of them is left at the end."""
    mark = uuid.uuid4().hex
    yield {**os.environ, "PARSIM_MARK": mark, "OMP_NUM_THREADS": "1"}
    deadline = time.monotonic() + 5.0
    while left := processes(mark):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)


def processes(mark: str) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment:
            found.append(pid)
    return found


FAULTS = {
    "raise": "RuntimeError: injected at 2F3",
    "kill": "killed by SIGKILL",
    "stop": "stopped by a signal (SIGSTOP)",
    "loop": "still computing after 2 s",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_ends_the_run_with_one_line(kind: str, tmp_path: Path) -> None:
    kept = tmp_path / "measured.json"
    kept.write_text("{}")
    with marked() as environment:
        arguments = ["--hang-after", "2", "--inject", f"2:2F3:{kind}:1", "--out", str(kept)]
        done = subprocess.run(
            [sys.executable, *RUN, *arguments], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
        )
    assert done.stderr == f"error: rank 2, playing 2F3: {FAULTS[kind]}\n"
    assert done.stdout == ""
    assert done.returncode == 1
    assert kept.read_text() == "{}", "what was written before stays"


@pytest.mark.parametrize("kind", ["raise", "stop"])
def test_under_torchrun_ranks_watch_each_other(kind: str) -> None:
    with marked() as environment:
        arguments = ["--hang-after", "20", "--inject", f"2:2F3:{kind}:1"]
        done = subprocess.run(
            [sys.executable, *TORCHRUN, *RUN, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == [f"error: rank 2, playing 2F3: {FAULTS[kind]}"]
    assert done.returncode != 0


def test_under_torchrun_a_run_ends_well_and_prints_once(tmp_path: Path) -> None:
    with marked() as environment:
        done = subprocess.run(
            [sys.executable, *TORCHRUN, *RUN, "--json", str(tmp_path / "run.json")],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step time") == 1
    assert json.loads((tmp_path / "run.json").read_text())["ranks"] == 4


def test_under_torchrun_another_number_of_ranks_is_refused_once() -> None:
    with marked() as environment:
        done = subprocess.run(
            [sys.executable, *TORCHRUN, *RUN, "--set", "layout.mesh.pp=2"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == ["error: torchrun started 4 ranks, the run has 2; --nproc-per-node 2 would do"]
    assert done.returncode != 0


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Processes started in the background of a shell script ignore SIGINT, and so would those that we start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_the_end_of_the_launcher_is_the_end_of_its_ranks(number: signal.Signals, code: int) -> None:
    with marked() as environment:
        launcher = subprocess.Popen(
            [sys.executable, *RUN, "--inject", "1:1F0:loop:0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + DEADLINE_S
        while len(processes(environment["PARSIM_MARK"])) < 6:  # launcher, fork server, four ranks
            assert time.monotonic() < deadline
            assert launcher.poll() is None
            time.sleep(0.1)
        if number is signal.SIGINT:
            os.killpg(launcher.pid, number)  # as a terminal does
        else:
            launcher.send_signal(number)
        _, errors = launcher.communicate(timeout=DEADLINE_S)
    assert errors == ""
    assert launcher.returncode == code


def fails(context: object, job: str) -> None:
    rank = context.rank  # type: ignore[attr-defined]
    if rank == 1:
        if job == "exit":
            sys.exit(3)
        raise ValueError("first line\nsecond line")
    time.sleep(30)


@pytest.mark.parametrize(("job", "cause"), [("raise", "ValueError: first line"), ("exit", "SystemExit: 3")])
def test_the_library_raises_run_failed(job: str, cause: str) -> None:
    with pytest.raises(RunFailed, match=f"^rank 1: {cause}$") as failed:
        launch(fails, job, 2)
    assert (failed.value.rank, failed.value.op) == (1, None)


def large(context: object, job: int) -> bytes:
    return bytes([context.rank]) * job  # type: ignore[attr-defined]


def test_large_results_come_home_in_order() -> None:
    results = launch(large, 8 * 2**20, 3)
    assert results is not None
    assert [(result[0], len(result)) for result in results] == [(rank, 8 * 2**20) for rank in range(3)]


def test_a_device_that_is_not_there_is_refused() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SpecError, match="device cuda: torch finds no GPU on this machine; cpu would do"):
        launch(large, 1, 2, device="cuda")
    with pytest.raises(SpecError, match="device tpu: cpu or cuda"):
        launch(large, 1, 2, device="tpu")


def test_what_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "measured.json"
    done = subprocess.run(
        [sys.executable, *RUN, "--out", str(missing)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.stderr == f"error: {missing} cannot be written: {missing.parent} is not a directory\n"
    assert done.returncode == 2
