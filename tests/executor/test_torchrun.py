"""Two nodes under torchrun: agents on this machine, where it lets us in process namespaces of their own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from executor.verdict import process_state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")

RUN = ["-m", "executor", "run", "tiny-local", "--no-memory", "--warmup", "0", "--steps", "2"]
DEADLINE_S = 90.0
_OWN_PIDS = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def namespace() -> list[str]:
    """What starts a command among processes that cannot see the others'; nothing where that is not allowed."""
    if shutil.which("unshare") is None:
        return []
    tried = subprocess.run([*_OWN_PIDS, "true"], capture_output=True, timeout=DEADLINE_S)
    return [] if tried.returncode else _OWN_PIDS


@contextmanager
def two_nodes(*arguments: str) -> Iterator[list["subprocess.Popen[str]"]]:
    """Two agents with two ranks each; whatever is left of them at the end is an error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    mark = uuid.uuid4().hex
    torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    torchrun += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two", "--local-addr", "127.0.0.1"]
    environment = {**os.environ, "PARSIM_MARK": mark, "OMP_NUM_THREADS": "1"}
    agents = []
    try:
        for apart in ([], namespace()):
            agents.append(
                subprocess.Popen(
                    [*apart, sys.executable, *torchrun, *RUN, *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        yield agents
        deadline = time.monotonic() + 5.0
        while marked(mark):
            assert time.monotonic() < deadline, f"left behind: {marked(mark)}"
            time.sleep(0.05)
    finally:
        for agent in agents:
            agent.kill()
            agent.communicate()
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environment and process_state(pid) != "dead":
            found.append(pid)
    return found


def test_two_nodes_play_and_one_rank_reports() -> None:
    with two_nodes() as agents:
        printed = [agent.communicate(timeout=DEADLINE_S) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], printed
    assert sum(output.count("step time") for output, _ in printed) == 1


def test_a_stopped_rank_ends_both_nodes_and_is_told_once() -> None:
    with two_nodes("--inject", "0:0F3:stop:1") as agents:
        printed = [agent.communicate(timeout=DEADLINE_S)[1] for agent in agents]
    said = [line for text in printed for line in text.splitlines() if line.startswith("error: ")]
    assert said == ["error: rank 0, playing 0F3: stopped by a signal (SIGSTOP)"]
    assert all(agent.returncode for agent in agents)
