"""Ranks that are launched: what their targets do to them, and that nothing of them stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from executor import launch as launch_module
from executor.board import Phase, State, host_name, row_of, row_of_process, shared_row
from executor.errors import RunFailed
from executor.launch import launch
from executor.rank import short
from executor.verdict import Limits, Seen, process_state, verdict
from parsim.errors import SpecError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")

LABELS = (("0F0", "0B0"),) * 2
DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """After every test: no thread, no open file, no listening socket more than before."""
    launch(nothing, None, 1)  # the fork server and its pipes stay for the next launch
    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
    yield
    deadline = time.monotonic() + 5.0
    while (now := (threading.active_count(), len(os.listdir("/proc/self/fd")))) != before:
        assert time.monotonic() < deadline, f"threads and files: {before} before, {now} now"
        time.sleep(0.05)


def nothing(context: Any, job: object) -> int:
    return os.getpid()


def ended(target: Any, job: object = None, ranks: int = 2, hang_after_s: float = 20.0) -> str:
    """How a launch that must fail says so; its ranks are gone by then."""
    with pytest.raises(RunFailed) as failed:
        launch(target, job, ranks, hang_after_s=hang_after_s, labels=LABELS[:1] * ranks)
    return str(failed.value)


def own_errors(context: Any, job: object) -> None:
    context.state.enter(context.rank)
    dist.barrier()
    raise ValueError(f"of rank {context.rank}")


def killed_among_peers(context: Any, job: object) -> None:
    context.state.enter(0)
    dist.barrier()
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    context.state.wait(1)
    dist.barrier()


def killed_after_peers_are_done(context: Any, job: object) -> bytes:
    dist.barrier()
    if context.rank == 1:
        time.sleep(0.3)
        context.state.enter(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes(2**20)


def stopped_in_a_large_result(context: Any, job: object) -> "Slow | int":
    context.state.enter(0)
    return Slow() if context.rank == 1 else 0


class Slow:
    """Its pickle is larger than a pipe, and the process stops while it is on its way."""

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGSTOP)).start()
        return bytes, (bytes(400 * 2**20),)


class Unreadable:
    """`home` cannot read its pickle."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return refuse, (self.home,)


def refuse(home: int) -> None:
    if (os.getpid() == home) == (home > 0):
        raise ValueError("this cannot be read")


def unreadable_result(context: Any, job: int) -> "Unreadable | None":
    return Unreadable(job) if context.rank == 1 else None


def unpicklable_result(context: Any, job: object) -> Any:
    return threading.Lock() if context.rank == 1 else None


def wrong_input(context: Any, job: object) -> None:
    if context.rank == 0:
        dist.barrier()  # the others see a lost connection, if anything
    raise SpecError("steps 0: at least 1")


def waits_for_a_lost_peer(context: Any, job: object) -> None:
    context.state.wait(1)
    if context.rank == 0:
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4242")
    time.sleep(0.2)
    context.state.enter(0)
    raise ValueError("the root of it")


def hangs_in_a_feed(context: Any, job: object) -> None:
    context.state.enter(0)
    context.state.leave()
    if context.rank == 0:
        time.sleep(DEADLINE_S)
    context.state.wait(1)
    dist.barrier()


def sleeps(context: Any, job: object) -> None:
    context.state.enter(0)
    dist.barrier()
    time.sleep(DEADLINE_S)


def test_every_rank_failing_is_one_fault() -> None:
    assert ended(own_errors, ranks=3) in {
        f"rank {rank}{place}: ValueError: of rank {rank}"
        for rank, place in ((0, ", playing 0F0"), (1, ", playing 0B0"), (2, ""))
    }


def test_the_killed_rank_is_named_not_those_that_lose_it() -> None:
    for _ in range(5):
        assert ended(killed_among_peers, ranks=3) == "rank 1, playing 0F0: killed by SIGKILL"


def test_a_rank_killed_when_its_peers_are_done() -> None:
    assert ended(killed_after_peers_are_done) == "rank 1, playing 0B0: killed by SIGKILL"


def test_a_rank_stopped_in_the_middle_of_its_result() -> None:
    assert ended(stopped_in_a_large_result) == "rank 1: stopped by a signal (SIGSTOP)"


def test_results_and_jobs_that_cannot_travel() -> None:
    assert ended(unreadable_result, os.getpid()) == "rank 1: its result cannot be read: ValueError: this cannot be read"
    assert ended(unpicklable_result).startswith("rank 1: TypeError: cannot pickle")
    assert ended(nothing, Unreadable(0)) in {f"rank {rank}: ValueError: this cannot be read" for rank in range(2)}


def test_an_error_in_the_input_is_no_fault() -> None:
    with pytest.raises(SpecError, match=r"^steps 0: at least 1$"):
        launch(wrong_input, None, 2)


def test_an_error_that_another_explains_is_held() -> None:
    assert ended(waits_for_a_lost_peer) == "rank 1, playing 0F0: ValueError: the root of it"


def test_a_rank_that_does_not_begin_its_step_is_named() -> None:
    assert ended(hangs_in_a_feed, hang_after_s=1.0) == "rank 0: has not begun its step for 1 s, and all others wait"


def test_launches_in_threads_do_not_meet() -> None:
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        results[number] = launch(nothing, None, 2) if number else ended(killed_among_peers)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert results.pop(0) == "rank 1, playing 0F0: killed by SIGKILL"
    pids = [pid for found in results.values() for pid in found]
    assert len(set(pids)) == 4
    assert {process_state(pid) for pid in pids} == {"dead"}


def test_without_the_fork_server_ranks_end_as_well() -> None:
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    threading.Timer(1.0, os.kill, (server, signal.SIGKILL)).start()
    assert ended(sleeps).endswith(", playing 0F0: the process that all ranks were forked from has been killed")
    found = launch(nothing, None, 2)
    assert found is not None
    assert len(found) == 2


SCRIPT = """
import os, signal, sys, time
from executor.launch import launch, release

def target(context, job):
    context.state.enter(0)
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    if job == "end":
        return context.rank
    time.sleep(60)

if __name__ == "__main__":
    try:
        launch(target, sys.argv[1], 2)
    finally:
        release()
"""


@pytest.mark.parametrize("how", ["end", "SIGKILL", "SIGHUP"])
def test_no_file_and_no_process_stays(how: str, tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "temporary"
    script.write_text(SCRIPT)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, str(script), how], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        if how != "end":
            process.send_signal(signal.Signals[how])
        process.wait(DEADLINE_S)
        deadline = time.monotonic() + 5.0
        while list(folder.iterdir()) or {process_state(pid) for pid in pids} != {"dead"}:
            assert time.monotonic() < deadline, f"left: {list(folder.iterdir())}, {[*map(process_state, pids)]}"
            time.sleep(0.05)
    assert process.returncode == {"end": 0, "SIGKILL": -9, "SIGHUP": -1}[how]


def test_a_row_in_shared_memory_is_read_by_others() -> None:
    memory, row = shared_row()
    assert memory is not None
    state = State(row)
    state.enter(7)
    seen = row_of_process(os.getpid(), memory)
    assert row_of(seen)[:2] == (7, Phase.COMPUTING)
    state.wait(8)
    assert row_of(seen)[:2] == (8, Phase.WAITING)
    with pytest.raises(TypeError):
        seen[0] = 1
    with pytest.raises(OSError, match="No such file"):
        row_of_process(2**22 + 1, memory)
    os.close(memory)
    assert host_name() == host_name() != ""


def test_whoever_reads_between_two_writes_never_sees_an_op_too_old() -> None:
    seen: list[tuple[int, int]] = []

    class Row(list[int]):
        def __setitem__(self, at: Any, value: Any) -> None:
            super().__setitem__(at, value)
            if seen is not None:
                seen.append((self[1], self[2]))

    row = Row([0, 0, 0])
    state = State(row)
    state.wait(3)
    row[2], before = 1, time.monotonic_ns()  # it has waited for ages
    seen.clear()
    state.enter(3)
    assert all(since >= before for phase, since in seen if phase == Phase.COMPUTING)


def test_an_error_is_told_in_one_line() -> None:
    gloo = "[/src/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4242"
    assert short(RuntimeError(gloo)) == "RuntimeError: Connection closed by peer [127.0.0.1]:4242"
    assert short(ValueError("[1, 2] is no shape\nframe #0")) == "ValueError: [1, 2] is no shape"
    assert short(ValueError()) == "ValueError"
    assert len(short(ValueError("x" * 10_000))) < 500


def test_the_judge_is_patient_with_what_is_normal() -> None:
    limits = Limits(hang_after_s=2.0, setup_after_s=20.0)
    idle = Seen(row_of([-1, 0, time.monotonic_ns() - int(3e9)]))
    assert verdict([idle, idle], LABELS, limits) is None, "set-up may take longer than an op"
    assert verdict([Seen(idle.row, life="dead", exit_code=0)], LABELS, limits) is not None


@pytest.mark.parametrize("is_ignored", [True, False])
def test_an_ignored_ctrl_c_stays_ignored_while_ranks_start(is_ignored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's background processes ignore Ctrl-C by inheritance; the others hear it once the ranks are booked."""
    ready = launch_module._ensure_forkserver

    def interrupted() -> None:
        ready()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(launch_module, "_ensure_forkserver", interrupted)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if is_ignored else signal.default_int_handler)
    try:
        if is_ignored:
            assert len(launch(nothing, None, 1) or []) == 1
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        else:
            with pytest.raises(KeyboardInterrupt):
                launch(nothing, None, 1)
    finally:
        signal.signal(signal.SIGINT, before)
