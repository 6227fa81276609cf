"""Launch: start the ranks of a job, watch them, and bring their results home; or end all of them at the first fault.

On one machine the parent spawns the ranks and supervises them. Under torchrun, which has started the ranks already,
each of them comes here by itself, plays its part, and watches its peers (`torchrun`).
"""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from executor.board import FIELDS, Row, row_of
from executor.rank import serve
from executor.torchrun import is_torchrun, join
from executor.verdict import Limits, Seen, process_state, verdict
from parsim.errors import SpecError

__all__ = ["Target", "launch"]

Target = Callable[[Any, Any], Any]
"""A function of a module: (rank's context, job) -> result, which travels as a pickle."""

_PRELOAD = ["executor.rank", "executor.play", "executor.layers", "executor.links"]
_LOOK_EVERY_S = 0.1


def launch(
    target: Target,
    job: Any,
    ranks: int,
    *,
    device: str = "cpu",
    hang_after_s: float = 120.0,
    labels: Sequence[Sequence[str]] = (),
) -> list[Any] | None:
    """Play `target(context, job)` on every rank; their results by rank. Under torchrun None on all ranks but the first.

    `labels[rank][slot]` is how the slot prints. An op that takes longer than `hang_after_s` has hung. Raises RunFailed
    with the rank, its op and the cause, SpecError for a device that is not there. Nothing of the ranks stays behind.
    """
    _check_device(device, ranks)
    labels = labels or ((),) * ranks
    limits = Limits(hang_after_s)
    if is_torchrun():
        return join(target, job, ranks, device=device, limits=limits, labels=labels)
    with _listening() as (port, store), _ended_by_sigterm():
        ensemble = _Ensemble(target, job, ranks, device, port)
        try:
            return ensemble.watch(labels, limits)
        finally:
            ensemble.end()
            del store


def _check_device(device: str, ranks: int) -> None:
    if device not in ("cpu", "cuda"):
        raise SpecError(f"device {device}: cpu or cuda")
    if device == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
        if count == 0:
            raise SpecError("device cuda: torch finds no GPU on this machine; cpu would do")
        if here > count:
            raise SpecError(f"device cuda: {here} ranks, {count} GPUs on this machine; a mesh of {count} would do")


@contextmanager
def _listening() -> Iterator[tuple[int, dist.TCPStore]]:
    """A store that all ranks share, on a free port of the loopback interface."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = listener.getsockname()[1]
    store = dist.TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
    yield port, store


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM to the parent ends the ranks as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns the signals ends us
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Ensemble:
    """The spawned ranks: their processes, their pipes, and the board they write on."""

    def __init__(self, target: Target, job: Any, ranks: int, device: str, port: int) -> None:
        context = multiprocessing.get_context("forkserver")
        multiprocessing.set_forkserver_preload(_PRELOAD)
        self._board = context.RawArray("q", ranks * FIELDS)
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection] = []
        self._results: dict[int, Any] = {}
        self._errors: dict[int, tuple[str, float]] = {}
        self._stopped: dict[int, float] = {}
        self._refused: str | None = None
        now = time.monotonic_ns()
        for rank in range(ranks):
            self._board[rank * FIELDS], self._board[rank * FIELDS + 2] = -1, now
        try:
            for rank in range(ranks):
                ours, theirs = context.Pipe()
                arguments = (target, job, rank, ranks, device, self._board, rank * FIELDS, theirs, port)
                process = context.Process(target=serve, args=arguments, daemon=True)
                self._processes.append(process)
                self._pipes.append(ours)
                process.start()
                theirs.close()
        except BaseException:
            self.end()
            raise

    def watch(self, labels: Sequence[Sequence[str]], limits: Limits) -> list[Any]:
        """Until all results are there; raises RunFailed as soon as there is a verdict."""
        ranks = range(len(self._processes))
        while len(self._results) < len(ranks):
            listened = [self._pipes[rank] for rank in ranks if rank not in self._results and rank not in self._errors]
            sentinels = [self._processes[rank].sentinel for rank in ranks if rank not in self._results]
            connection.wait([*listened, *sentinels], _LOOK_EVERY_S)
            for rank in ranks:
                self._hear(rank)
            if self._refused is not None:
                raise SpecError(self._refused)
            fault = verdict([self._seen(rank) for rank in ranks], labels, limits)
            if fault is not None:
                raise fault
        return [self._results[rank] for rank in ranks]

    def _hear(self, rank: int) -> None:
        """Take what a rank has sent."""
        if rank in self._results or rank in self._errors:
            return
        try:
            if not self._pipes[rank].poll():
                return
            kind, *content = self._pipes[rank].recv()
        except (EOFError, OSError):
            return  # its process is gone: the verdict says so
        if kind == "result":
            self._results[rank] = content[0]
            return
        text, is_users = content
        if is_users:
            self._refused = self._refused or text
        self._errors[rank] = (text, time.monotonic())

    def _seen(self, rank: int) -> Seen:
        process, now = self._processes[rank], time.monotonic()
        row: Row = row_of(self._board, rank * FIELDS)
        life = "dead" if process.exitcode is not None else process_state(process.pid)
        if life == "stopped":
            self._stopped.setdefault(rank, now)
        else:
            self._stopped.pop(rank, None)
        text, since = self._errors.get(rank, (None, now))
        return Seen(
            row=row,
            life=life,
            stopped_s=now - self._stopped.get(rank, now),
            exit_code=process.exitcode,
            error=text,
            error_age_s=now - since,
            is_done=rank in self._results,
        )

    def end(self) -> None:
        """Let ranks that are done go, kill the others, and wait until none is left."""
        is_over = len(self._results) == len(self._processes)
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            if process.pid is None:
                continue
            if is_over:
                with suppress(OSError):
                    pipe.send("end")
            else:
                process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            if process.pid is not None:
                process.join(5.0)
                if process.exitcode is None:
                    process.kill()
                    process.join()
                process.close()
            pipe.close()
