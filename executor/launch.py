"""Launch: start the ranks of a job, watch them, and bring their results home; or end all of them at the first fault.

On one machine the parent spawns the ranks and supervises them. Under torchrun, which has started the ranks already,
each of them comes here by itself, plays its part, and watches its peers (`torchrun`).
"""

import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.util import get_temp_dir
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from executor.board import FIELDS, Row, row_of
from executor.errors import RunFailed
from executor.rank import Seat, serve, short
from executor.torchrun import is_torchrun, join
from executor.verdict import Limits, Seen, process_state, verdict
from parsim.errors import SpecError

__all__ = ["Target", "launch", "release"]

Target = Callable[[Any, Any], Any]
"""A function of a module: (rank's context, job) -> result, which travels as a pickle."""

_EXIT_CODE_WITHIN_S = 0.5
_ENDING = (signal.SIGINT, signal.SIGTERM)
_PRELOAD = ["executor.rank", "executor.play", "executor.layers", "executor.links"]
_LOOK_EVERY_S = 0.1
_ASLEEP_S = 2.0
"""Of no look at the ranks: the launcher was stopped (Ctrl-Z), most likely with them; no rank has hung for that."""


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
    limits = Limits(hang_after_s, setup_after_s=max(hang_after_s, Limits().setup_after_s))
    if is_torchrun():
        return join(target, job, ranks, device=device, limits=limits, labels=labels)
    with _listening() as (port, store), _ended_by_sigterm():
        ensemble = _Ensemble(ranks)
        try:
            ensemble.start(target, job, device, port)
            return ensemble.watch(labels, limits)
        finally:
            ensemble.end()
            del store


def release() -> None:
    """At the end of a program: end the process that ranks are forked from. By itself it would take a second to leave,
    and hold the program's output open for as long.
    """
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)  # type: ignore[attr-defined]
    if pid is not None:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(get_temp_dir(), ignore_errors=True)  # of its socket


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


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until a rank that is being started has its place in our books. A mask would not do: the
    store's thread would take the signal, and Python would raise here all the same.
    """
    heard: list[int] = []
    try:
        # What is ignored, as in the background of a script, is not heard here either.
        ours = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, lambda n, _: heard.append(n)) for number in ours}
    except ValueError:  # not the main thread: signals do not come here
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt


def _ensure_forkserver() -> None:
    """The process that ranks are forked from. Ctrl-C never reaches it, nor them: they inherit the mask. Otherwise it
    would show a call stack while it imports, and so would a rank before it comes to `serve`.
    """
    multiprocessing.set_forkserver_preload(_PRELOAD)
    resource_tracker.ensure_running()  # it unblocks the signal when it starts, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Ensemble:
    """The spawned ranks: their processes, their pipes, and the board they write on."""

    def __init__(self, ranks: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._board = self._context.RawArray("q", ranks * FIELDS)
        self._ranks = ranks
        self._processes: list[Any] = []
        self._pipes: list[connection.Connection] = []
        self._mail: dict[int, bytes] = {}
        self._postmen: list[threading.Thread] = []
        self._wake, self._woken = self._context.Pipe(duplex=False)
        self._results: dict[int, Any] = {}
        self._errors: dict[int, tuple[str, float]] = {}
        self._stopped: dict[int, float] = {}
        self._gone: dict[int, float] = {}
        self._refused: str | None = None
        self._awake_since = self._looked = time.monotonic()

    def start(self, target: Target, job: Any, device: str, port: int) -> None:
        """Spawn all ranks, and a thread for each that takes its mail: a rank may be stopped in the middle of a send."""
        payload = pickle.dumps((target, job))
        now = time.monotonic_ns()
        for rank in range(self._ranks):
            self._board[rank * FIELDS], self._board[rank * FIELDS + 2] = -1, now
        with _signals_held_back():
            _ensure_forkserver()
            for rank in range(self._ranks):
                ours, theirs = self._context.Pipe()
                seat = Seat(rank, self._ranks, device, port, get_temp_dir())
                arguments = (payload, seat, self._board, theirs)
                process = self._context.Process(target=serve, args=arguments, daemon=True)
                self._processes.append(process)
                self._pipes.append(ours)
                process.start()
                theirs.close()
                postman = threading.Thread(target=self._receive, args=(rank, ours), name=f"mail {rank}", daemon=True)
                self._postmen.append(postman)
                postman.start()

    def _receive(self, rank: int, pipe: connection.Connection) -> None:
        with suppress(EOFError, OSError):  # its process is gone: the verdict says so
            self._mail[rank] = pipe.recv_bytes()
            self._woken.send_bytes(b"!")

    def watch(self, labels: Sequence[Sequence[str]], limits: Limits) -> list[Any]:
        """Until all results are there; raises RunFailed as soon as there is a verdict."""
        ranks = range(self._ranks)
        while len(self._results) < self._ranks:
            alive = [process.sentinel for process in self._processes if process.exitcode is None]
            if self._wake in connection.wait([self._wake, *alive], _LOOK_EVERY_S):
                self._wake.recv_bytes()
            now = time.monotonic()
            if now - self._looked > _ASLEEP_S:
                self._awake_since = now
            self._looked = now
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
        mail = self._mail.pop(rank, None)
        if mail is None:
            return
        try:
            kind, *content = pickle.loads(mail)
        except Exception as error:
            raise RunFailed(rank, None, f"its result cannot be read: {short(error)}") from None
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
        row = row._replace(age_s=min(row.age_s, now - self._awake_since))
        code = process.exitcode
        life = process_state(process.pid)
        if life == "dead" and code is None and now - self._gone.setdefault(rank, now) < _EXIT_CODE_WITHIN_S:
            life = "alive"  # a zombie: the fork server is about to tell how it ended
        elif life != "dead" and code is not None:
            self._errors.setdefault(rank, ("the process that all ranks were forked from has been killed", now))
        if life == "stopped":
            self._stopped.setdefault(rank, now)
        else:
            self._stopped.pop(rank, None)
        text, since = self._errors.get(rank, (None, now))
        return Seen(
            row=row,
            life=life,
            stopped_s=now - self._stopped.get(rank, now),
            exit_code=code,
            error=text,
            error_age_s=now - since,
            is_done=rank in self._results,
        )

    def end(self) -> None:
        """Let ranks that are done go, kill the others, and wait until none is left."""
        is_over = len(self._results) == self._ranks
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            if process.pid is None:
                continue
            if is_over:
                with suppress(OSError):
                    pipe.send("end")
            else:
                process.kill()
        for process in self._processes:
            if process.pid is not None:
                process.join(5.0)
                if process.exitcode is None:
                    process.kill()
                    process.join()
                elif process_state(process.pid) != "dead":  # its fork server, which tells how ranks end, was killed
                    with suppress(OSError):
                        os.kill(process.pid, signal.SIGKILL)
                process.close()
        for postman in self._postmen:
            postman.join(1.0)
        for pipe in self._pipes:
            pipe.close()
        self._wake.close()
        self._woken.close()
