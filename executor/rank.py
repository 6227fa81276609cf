"""Rank: what happens in a process that plays one rank, before and after it plays."""

import ctypes
import os
import pickle
import re
import shutil
import signal
import sys
import threading
from collections.abc import MutableSequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch.distributed as dist

from executor.board import FIELDS, State
from parsim.errors import ParsimError

__all__ = ["RankContext", "Seat", "die_with_parent", "quiet", "serve", "short"]

_TIMEOUT = timedelta(days=1)
"""Of the backend: whoever watches the ranks ends a run much earlier, and can say why."""

_SOURCE = re.compile(r"^\[[^\]]*:\d+\]")
"""A backend's messages begin with a place in its source code."""


@dataclass
class RankContext:
    """What a target function gets: who it is, a store that all ranks share, and its row of the board."""

    rank: int
    ranks: int
    local_rank: int
    store: Any
    state: State


class Seat(NamedTuple):
    """A spawned rank's place: who it is, the port of the store, and the folder of the fork server's socket."""

    rank: int
    ranks: int
    device: str
    port: int
    folder: str


def serve(payload: bytes, seat: Seat, board: MutableSequence[int], pipe: Connection) -> None:
    """The life of a spawned rank: join, play, send the result, and stay until the parent says that all are done.

    `payload` is the pickle of target and job, read here so that one that cannot be read is reported as well.
    An error is sent and the process stays as well: its peers would otherwise see a lost connection first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends everything
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    quiet()
    _leave_with_launcher(seat.folder)
    state = State(board, seat.rank * FIELDS)
    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo") if sys.platform == "linux" else None
        rank, ranks = seat.rank, seat.ranks
        store = dist.TCPStore("127.0.0.1", seat.port, None, False, timeout=_TIMEOUT)
        backend = "nccl" if seat.device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=_TIMEOUT)
        target, job = pickle.loads(payload)
        context = RankContext(rank, ranks, rank, dist.PrefixStore("job", store), state)
        result = target(context, job)
        state.finish()
        pipe.send(("result", result))
    except BaseException as error:
        pipe.send(("error", short(error), isinstance(error, ParsimError)))
    with suppress(EOFError):
        pipe.recv()
    os._exit(0)


def short(error: BaseException) -> str:
    """An exception in one line, without what backends write into their messages for their authors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    text = _SOURCE.sub("", text.partition("Exception raised from")[0]).strip()
    name = type(error).__name__
    if isinstance(error, ParsimError):
        return text
    return f"{name}: {text[:400]}" if text else name


def _leave_with_launcher(folder: str) -> None:
    """Exit when the process that launched us has gone. Its fork server, our parent for the system, would live on: it
    stays for as long as any rank does, so that no signal of a parent's death ever comes. Its socket goes, too.
    """
    launcher = parent_process()
    assert launcher is not None

    def watch() -> None:
        wait([launcher.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies."""
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(parent_death_signal, signal.SIGKILL, 0, 0, 0)


def quiet() -> None:
    """Nothing that a backend writes while its peers die reaches the user; errors go through the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
