"""Fault: a mishap that is asked for, to see that the run ends as it should: `2:1F3:raise` on rank 2 at its op 1F3."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from parsim.axes.mesh import coordinates
from parsim.errors import ScheduleError, SpecError
from parsim.plan import Op, Plan, parse_op
from parsim.spec import Mesh

__all__ = ["KINDS", "Fault", "parse_fault", "strike"]

KINDS = ("raise", "kill", "stop", "loop")


class Fault(NamedTuple):
    """At step `step` (warm-up counts) the global rank `rank`, about to play `op`, raises, is killed, stops or loops."""

    rank: int
    op: Op
    kind: str
    step: int = 0

    def check(self, plan: Plan, mesh: Mesh, steps: int) -> None:
        """SpecError or ScheduleError unless the rank plays the op in one of the job's steps."""
        at = coordinates(mesh, self.rank)
        if not any(self.op in slot.ops for slot in plan.orders[at.pp]):
            raise ScheduleError(f"inject: rank {self.rank} (pipeline rank {at.pp}) never plays {self.op}")
        if not 0 <= self.step < steps:
            raise SpecError(f"inject: step {self.step}: the job plays steps 0 to {steps - 1}")


def parse_fault(text: str) -> Fault:
    """The fault spelled `RANK:OP:KIND` or `RANK:OP:KIND:STEP`. Raises SpecError or ScheduleError."""
    rank, _, rest = text.partition(":")
    op, _, rest = rest.partition(":")
    kind, _, step = rest.partition(":")
    if not rank.isdecimal() or not (step or "0").isdecimal() or kind not in KINDS:
        raise SpecError(f"inject {text!r}: write RANK:OP:KIND[:STEP] as in 2:1F3:raise, KIND one of {', '.join(KINDS)}")
    return Fault(int(rank), parse_op(op), kind, int(step or 0))


def strike(fault: Fault) -> None:
    """Let it happen, in this process; the moment is noted in the file that PARSIM_FAULT_LOG names, if it is set."""
    if log := os.environ.get("PARSIM_FAULT_LOG"):
        Path(log).write_text(f"{time.time()}")
    if fault.kind == "raise":
        raise RuntimeError(f"injected at {fault.op}")
    if fault.kind == "loop":
        while True:
            pass
    os.kill(os.getpid(), signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
