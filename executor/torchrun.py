"""Torchrun: a rank that torchrun's agent has started, and that watches its peers itself.

Every rank writes what it does, who and where it is, to torchrun's store, twice a second or more, and reads the others'
rows. Peers of the same host are looked at through the system as well: there a killed or stopped one shows at once. The
first rank with a verdict says so in the store, prints one short line, and all of them exit; torchrun's agent, which
prints what it likes, finds no rank left to wait for.
"""

import atexit
import json
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as dist

from executor.board import Phase, Row, State, host_name, row_of, row_of_process, shared_row
from executor.rank import RankContext, die_with_parent, short
from executor.verdict import Limits, Seen, is_secondary, process_state, verdict
from parsim.errors import ParsimError, SpecError

__all__ = ["is_torchrun", "join"]

_TIMEOUT = timedelta(days=1)
_STORE_TIMEOUT = timedelta(seconds=10)
_EVERY_S = 0.25
_SILENT_AFTER_S = 3.0
"""A peer on another host that has not written for so long is stopped, or cut off."""

_FIRST_RANK_SPEAKS_S = 10.0
"""Until then the first rank has said what is wrong with the input, and torchrun's SIGTERM has ended the others."""

_LOST_LOOKS = 4
"""So many looks in a row find no store before it is called gone."""

_LINGER_S = 0.6
"""With several hosts, ranks stay so long once a fault is known: the store may leave with the first host's agent, and
the others must have read it by then."""

_LEAVE = 0  # no signal has this number

_joined: "_Membership | None" = None


def is_torchrun() -> bool:
    """Whether torchrun has started this process as a rank."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def join(
    target: Callable[[RankContext, Any], Any],
    job: Any,
    ranks: int,
    *,
    device: str,
    limits: Limits,
    labels: Sequence[Sequence[str]],
) -> list[Any] | None:
    """Play this process's rank of a job; the results of all on rank 0, None on the others. Never returns from a fault.

    SpecError where torchrun has started another number of ranks than the job has.
    """
    global _joined
    world = int(os.environ["WORLD_SIZE"])
    if world != ranks:
        nodes = max(world // int(os.environ.get("LOCAL_WORLD_SIZE", world)), 1)
        way_out = f"--nproc-per-node {ranks // nodes} would do" if ranks % nodes == 0 else f"{ranks} ranks would do"
        message = f"torchrun started {world} ranks, the run has {ranks}; {way_out}"
        if int(os.environ["RANK"]) == 0:
            raise SpecError(message)
        time.sleep(_FIRST_RANK_SPEAKS_S)  # an exit here would have the agent end the first rank before it speaks
        _exit(2)
    if _joined is None:
        _joined = _Membership(device)
    return _joined.play(target, job, limits, labels)


class _Membership:
    """This process as a rank: its process group, its row, and the thread that watches the peers."""

    def __init__(self, device: str) -> None:
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        die_with_parent()
        self._memory, self._board = shared_row()
        self._state = State(self._board)
        self._local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._played = 0
        self._limits = Limits()
        self._labels: Sequence[Sequence[str]] = ((),) * self.ranks
        self._lock = threading.RLock()
        self._alarm, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        backend = "nccl" if device == "cuda" else "gloo"
        self._heard: dict[int, tuple[int, float]] = {}
        self._stopped: dict[int, float] = {}
        self._near: dict[int, MutableSequence[int]] = {}
        self._joined: set[int] = set()
        self._beats = 0
        self._came = time.monotonic()
        self._host, self._spread = host_name(), False
        try:  # the peers are watched before anything is waited for: one may never come
            self._store = dist.PrefixStore("parsim", dist.TCPStore(host, port, None, False, timeout=_STORE_TIMEOUT))
            self._publish()
            self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
            self._watcher.start()
            # torchrun ends ranks with SIGTERM; one that waits inside a backend hears of it through this pipe alone.
            signal.signal(signal.SIGTERM, lambda number, frame: None)
            signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
            dist.init_process_group(backend, init_method="env://", timeout=_TIMEOUT)
            self._gathering = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        except (dist.DistError, RuntimeError, OSError) as error:
            raise SpecError(f"rank {self.rank} cannot join at {host}:{port}: {short(error)}") from None
        atexit.register(self._leave)

    def play(
        self,
        target: Callable[[RankContext, Any], Any],
        job: Any,
        limits: Limits,
        labels: Sequence[Sequence[str]],
    ) -> list[Any] | None:
        self._limits, self._labels = limits, labels
        self._played += 1
        self._state = State(self._board)  # nothing played yet
        store = dist.PrefixStore(f"job{self._played}", dist.distributed_c10d._get_default_store())
        context = RankContext(self.rank, self.ranks, self._local_rank, store, self._state)
        try:
            result = target(context, job)
            self._state.leave()
            gathered: list[Any] | None = [None] * self.ranks if self.rank == 0 else None
            dist.gather_object(pickle.dumps(result), gathered, dst=0, group=self._gathering)
            dist.barrier(self._gathering)
            self._state.finish()  # the first rank may take its time with the results
        except ParsimError as error:
            self._fail(str(error), is_users=True)
        except BaseException as error:
            self._fail(short(error))
        if gathered is None:
            return None
        return [pickle.loads(one) for one in gathered]

    def _leave(self) -> None:
        """The end of the program: all ranks leave together, so that none looks like a lost one."""
        with suppress(dist.DistError, RuntimeError):
            dist.barrier(self._gathering)
        os.write(self._wake, bytes([_LEAVE]))
        self._watcher.join(5.0)
        dist.destroy_process_group()

    def _fail(self, error: str, is_users: bool = False) -> NoReturn:
        """This rank's own error: its peers' faults are looked for first if it may come from one of them."""
        if is_secondary(error):
            deadline = time.monotonic() + self._limits.secondary_held_s
            while time.monotonic() < deadline:
                with suppress(dist.DistError, RuntimeError):
                    self._judge()
                time.sleep(0.05)
        if is_users:
            self._accuse(error, 2)
        slot, phase, _ = row_of(self._board)
        plays = phase is not Phase.IDLE and 0 <= slot < len(self._labels[self.rank])
        place = f", playing {self._labels[self.rank][slot]}" if plays else ""
        self._accuse(f"rank {self.rank}{place}: {error}", 1)

    def _accuse(self, message: str, code: int) -> NoReturn:
        """The first to say so prints; all exit."""
        with self._lock:
            mine = f"{self.rank}"
            try:
                first = self._store.compare_set("fault", "", mine).decode() == mine
            except (dist.DistError, RuntimeError):
                if is_secondary(message):
                    self._abandon()
                first = True  # nobody else may be left to say it
            if first:
                sys.stdout.flush()
                # In one piece: torchrun starts Python unbuffered, and its own lines would get in between.
                os.write(2, f"error: {' '.join(message.split())}\n".encode(errors="backslashreplace"))
            self._follow(code)

    def _follow(self, code: int) -> NoReturn:
        """Leave after an accusation."""
        self._kill_local()
        if self._spread:
            time.sleep(_LINGER_S)
        _exit(code)

    def _kill_local(self) -> None:
        """A stopped peer does not hear torchrun's SIGTERM."""
        for rank, row in self._rows().items():
            if rank != self.rank and row["host"] == self._host and process_state(row["pid"]) == "stopped":
                with suppress(OSError):
                    os.kill(row["pid"], signal.SIGKILL)

    def _publish(self) -> None:
        self._beats += 1
        slot, phase, age_s = row_of(self._board)
        row = {
            "beat": self._beats,
            "slot": slot,
            "phase": int(phase),
            "age_s": age_s,
            "host": self._host,
            "pid": os.getpid(),
            "memory": self._memory,
        }
        self._store.set(f"row/{self.rank}", json.dumps(row))

    def _rows(self) -> dict[int, dict[str, Any]]:
        """What the ranks that have come say of themselves."""
        try:
            for rank in set(range(self.ranks)) - self._joined:
                if self._store.check([f"row/{rank}"]):
                    self._joined.add(rank)
            known = sorted(self._joined)
            found = self._store.multi_get([f"row/{rank}" for rank in known])
        except (dist.DistError, RuntimeError):
            return {}
        rows = {rank: json.loads(text) for rank, text in zip(known, found, strict=True)}
        for rank in rows.keys() - self._near.keys():
            self._map(rank, rows[rank])
        self._spread = any(row["host"] != self._host for row in rows.values())
        return rows

    def _map(self, rank: int, row: dict[str, Any]) -> None:
        """The row of a rank of this host as it writes it: what it was playing stands there when it has been killed."""
        if row["host"] == self._host and row["memory"] is not None:
            with suppress(OSError):
                self._near[rank] = row_of_process(row["pid"], row["memory"])

    def _watch(self) -> None:
        """Publish, look, judge; SIGTERM from the agent is a reason to look once more before leaving."""
        lost = 0
        while True:
            readable, _, _ = select.select([self._alarm], [], [], _EVERY_S)
            heard = os.read(self._alarm, 64) if readable else b""
            if _LEAVE in heard:
                return
            try:
                self._publish()
                self._judge()
                lost = 0
            except (dist.DistError, RuntimeError):
                lost += 1  # the store has gone, and torchrun with it
            if lost == _LOST_LOOKS or (lost and signal.SIGTERM in heard):
                self._abandon()
            if signal.SIGTERM in heard:
                _exit(1)

    def _abandon(self) -> NoReturn:
        """The store is gone, and the agent that had it. Of each host one rank says so; its own agent ends the rest."""
        if self._local_rank == 0:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            os.write(2, f"error: rank {self.rank}: torchrun's store at {where} is gone\n".encode())
            _exit(1)
        time.sleep(_LINGER_S)
        _exit(1)

    def _judge(self) -> None:
        """Leave if somebody has accused, or accuse."""
        if self._store.check(["fault"]):
            self._follow(1)
        fault = verdict(self._seen(), self._labels, self._limits)
        if fault is not None:
            self._accuse(str(fault), 1)

    def _seen(self) -> list[Seen]:
        now = time.monotonic()
        found, rows = [], self._rows()
        if not rows:
            return []
        for rank in range(self.ranks):
            row = rows.get(rank)
            if row is None:
                found.append(Seen(Row(-1, Phase.IDLE, now - self._came)))
                continue
            beat, since = self._heard.get(rank, (0, now))
            if beat != row["beat"]:
                since = now
                self._heard[rank] = (row["beat"], now)
            written = Row(row["slot"], Phase(row["phase"]), row["age_s"] + now - since)
            place = row_of(self._near[rank]) if rank in self._near else written
            one = Seen(place, is_done=place.phase is Phase.DONE)
            if rank != self.rank and row["host"] == self._host:
                one = one._replace(life=process_state(row["pid"]))
            elif rank != self.rank and now - since > _SILENT_AFTER_S:
                one = one._replace(life="stopped", stopped_s=self._limits.stopped_after_s)
            if one.life == "stopped":
                stopped = self._stopped.setdefault(rank, now)
                one = one._replace(stopped_s=max(now - stopped, one.stopped_s))
            else:
                self._stopped.pop(rank, None)
            found.append(one)
        if any(one.is_done for one in found):  # it has another job to end first; who is ready for the next waits for it
            found = [one._replace(row=one.row._replace(age_s=0.0)) if one.row.slot < 0 else one for one in found]
        return found


def _exit(code: int) -> NoReturn:
    """Leave at once, whatever other threads do."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
