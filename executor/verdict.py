"""Verdict: which rank ends a run, and why, from what can be seen of all of them. One judge, whoever watches.

Under a supervising parent it is asked by the parent; under torchrun every rank asks it about its peers.
"""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from executor.board import Phase, Row
from executor.errors import RunFailed

__all__ = ["Limits", "Seen", "cause_of_exit", "is_secondary", "process_state", "verdict"]

Life = Literal["alive", "stopped", "dead"]

_SECONDARY = (
    "connection closed",
    "connection reset",
    "connection refused",
    "connection was likely closed",
    "broken pipe",
    "failed to recv",
    "application timeout",
    "socket timeout",
    "timed out",
    "eoferror",
    "remote process exited",
    "communicator was aborted",
)


class Limits(NamedTuple):
    """Seconds: of one op, of set-up, of a stopped process before it is called so, of an error that others may cause."""

    hang_after_s: float = 120.0
    setup_after_s: float = 120.0
    stopped_after_s: float = 1.0
    secondary_held_s: float = 0.5


class Seen(NamedTuple):
    """What is known of a rank: its row, its process and for how long it has been stopped, what it has reported."""

    row: Row
    life: Life = "alive"
    stopped_s: float = 0.0
    exit_code: int | None = None
    error: str | None = None
    error_age_s: float = 0.0
    """An error is the rank's own, or follows from what happened to another (`is_secondary`)."""
    is_done: bool = False


def is_secondary(error: str) -> bool:
    """Whether an error only says that a peer has gone."""
    text = error.lower()
    return any(sign in text for sign in _SECONDARY)


def verdict(seen: Sequence[Seen], labels: Sequence[Sequence[str]], limits: Limits) -> RunFailed | None:
    """The rank that ends the run, None while there is none.

    In this order: an error of a rank's own, a dead process, a stopped one, an op that has hung, ranks that wait for
    each other, and last an error that only a lost peer explains.
    """

    def failed(rank: int, cause: str) -> RunFailed:
        slot, phase, _ = seen[rank].row
        plays = phase in (Phase.COMPUTING, Phase.WAITING) and 0 <= slot < len(labels[rank])
        return RunFailed(rank, labels[rank][slot] if plays else None, cause)

    ranks = range(len(seen))
    for rank in ranks:
        error = seen[rank].error
        if error is not None and not is_secondary(error):
            return failed(rank, error)
    for rank in ranks:
        if seen[rank].life == "dead" and not seen[rank].is_done and seen[rank].error is None:
            return failed(rank, cause_of_exit(seen[rank].exit_code))
    for rank in ranks:
        if seen[rank].life == "stopped" and not seen[rank].is_done and seen[rank].stopped_s >= limits.stopped_after_s:
            return failed(rank, "stopped by a signal (SIGSTOP)")
    if (hung := _hung(seen, limits)) is not None:
        return failed(*hung)
    for rank in ranks:
        error = seen[rank].error
        if error is not None and seen[rank].error_age_s >= limits.secondary_held_s:
            return failed(rank, error)
    return None


def _hung(seen: Sequence[Seen], limits: Limits) -> tuple[int, str] | None:
    """A rank that computes for too long; if nobody computes, one that others wait for, or has waited longest."""
    left = [rank for rank, one in enumerate(seen) if not one.is_done and one.error is None]
    for rank in sorted(left, key=lambda rank: -seen[rank].row.age_s):
        row = seen[rank].row
        if row.phase is Phase.COMPUTING and row.age_s > limits.hang_after_s:
            return rank, f"still computing after {limits.hang_after_s:g} s"
        if row.phase is Phase.IDLE and row.slot < 0 and row.age_s > limits.setup_after_s:
            return rank, f"not ready after {limits.setup_after_s:g} s"
    longest = max(limits.hang_after_s, 0.0 if any(seen[rank].row.slot >= 0 for rank in left) else limits.setup_after_s)
    if left and all(seen[rank].row.age_s > longest for rank in left):
        waiting = [rank for rank in left if seen[rank].row.phase is Phase.WAITING]
        idle = [rank for rank in left if seen[rank].row.phase is Phase.IDLE]
        if waiting and len(idle) == 1:  # it is not in a step: the others wait for nobody else
            return idle[0], f"has not begun its step for {longest:g} s, and all others wait"
        oldest = max(waiting or left, key=lambda rank: seen[rank].row.age_s)
        return oldest, f"still waiting after {longest:g} s, and no rank computes"
    return None


def cause_of_exit(code: int | None) -> str:
    """An exit code in words; negative is a signal's number."""
    if code is None:
        return "its process is gone"
    if code >= 0:
        return f"its process exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def process_state(pid: int) -> Life:
    """Whether a process of this machine lives; where /proc does not tell, it does."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "dead" if Path("/proc/self/stat").exists() else "alive"
    except ProcessLookupError:
        return "dead"
    except OSError:
        return "alive"  # too many open files, say: nothing is known
    letter = stat.rpartition(")")[2].split()[0]
    return "stopped" if letter == "T" else "dead" if letter in "ZXx" else "alive"  # "t": a debugger looks at it
