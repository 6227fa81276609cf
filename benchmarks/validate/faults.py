"""Injected faults: does every one end the whole run, soon, with one short line that says who, where and why?

    python benchmarks/validate/faults.py --runs 60                 ranks spawned and supervised
    python benchmarks/validate/faults.py --runs 40 --torchrun      ranks under torchrun, which watch each other

Each run injects one fault (raise, kill, stop, endless loop) at a random op, rank and step of a random schedule. It went
right if the run's own line names the rank, the op and the cause, the exit code is not 0, the run was over within the
bound after the fault, and no process of it is left. Times count from the fault to the end of the launching command.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from parsim.plan import COMPUTE
from parsim.schedules import build, names

HANG_AFTER_S = 2.0
BOUNDS_S = {"raise": 1.0, "kill": 1.0, "stop": 3.0, "loop": HANG_AFTER_S + 1.0}
TORCHRUN_BOUND_S = 6.0
CAUSES = {"raise": "RuntimeError: injected", "kill": "kill", "stop": "stopped", "loop": "still computing after 2 s"}
SAYS_KILLED = ("killed by SIGKILL", "its process is gone")
PP, MICROBATCHES, STEPS = 4, 8, 2
_DEADLINE_S = 120.0


def one(chance: random.Random, torchrun: bool) -> dict[str, Any]:
    """Inject one fault; what happened, and what was wrong with it."""
    schedule = chance.choice(names())
    plan = build(schedule, PP, MICROBATCHES)
    rank = chance.randrange(PP)
    slot = chance.choice([slot for slot in plan.orders[rank] if slot.first.kind in COMPUTE])
    kind = chance.choice(list(BOUNDS_S))
    fault = f"{rank}:{slot.first}:{kind}:{chance.randrange(STEPS)}"
    command = ["run", "tiny-local", "--set", f"layout.schedule={schedule}", "--no-memory", "--warmup", "0"]
    command += ["--steps", str(STEPS), "--hang-after", f"{HANG_AFTER_S:g}", "--inject", fault]
    launcher = [sys.executable, "-m"]
    if torchrun:
        launcher += ["torch.distributed.run", "--nproc-per-node", str(PP), "--rdzv-backend", "c10d"]
        launcher += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", "-m"]
    with tempfile.TemporaryDirectory() as folder:
        log, mark = Path(folder) / "fault", uuid.uuid4().hex
        environment = {**os.environ, "PARSIM_FAULT_LOG": str(log), "PARSIM_MARK": mark, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*launcher, "executor", *command], env=environment, capture_output=True, text=True, timeout=_DEADLINE_S
        )
        ended = time.time()
        struck = float(log.read_text()) if log.exists() else ended
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    place = f"error: rank {rank}, playing {slot}: "
    wrong = []
    if len(said) != 1 or not said[0].startswith(place):
        wrong.append(f"said {said or done.stderr[-200:]}")
    elif CAUSES[kind] not in said[0] and not (kind == "kill" and any(way in said[0] for way in SAYS_KILLED)):
        wrong.append(f"another cause: {said[0]}")
    if not torchrun and done.stderr.strip() != "\n".join(said):
        wrong.append("printed more than its one line")
    if done.returncode == 0:
        wrong.append("exit code 0")
    lasted, bound = ended - struck, TORCHRUN_BOUND_S if torchrun else BOUNDS_S[kind]
    if lasted > bound:
        wrong.append(f"took {lasted:.2f} s, {bound:g} s allowed")
    if left := left_over(mark):
        wrong.append(f"left processes {left}")
    return {"fault": fault, "schedule": schedule, "kind": kind, "seconds": lasted, "wrong": wrong}


def left_over(mark: str, patience_s: float = 1.0) -> list[int]:
    """Processes that still have the run's mark in their environment, after a moment to leave."""
    deadline = time.monotonic() + patience_s
    while left := [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if mark in _environment(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many ended right, and the times by kind."""
    kinds = {}
    for kind in BOUNDS_S:
        seconds = [row["seconds"] for row in rows if row["kind"] == kind]
        if seconds:
            kinds[kind] = {"n": len(seconds), "median_s": median(seconds), "slowest_s": max(seconds)}
    return {"runs": len(rows), "right": sum(not row["wrong"] for row in rows), "kinds": kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--torchrun", action="store_true", help="start the ranks with torchrun")
    parser.add_argument("--json", type=Path, help="where to write the rows; - for standard output")
    options = parser.parse_args()
    chance, rows = random.Random(options.seed), []
    for _ in range(options.runs):
        rows.append(one(chance, options.torchrun))
        if rows[-1]["wrong"]:
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    found = summary(rows)
    if options.json is not None:
        text = json.dumps({**found, "rows": rows}, indent=1) + "\n"
        if str(options.json) == "-":
            sys.stdout.write(text)
        else:
            options.json.write_text(text)
        return
    print(f"{found['right']} of {found['runs']} faults ended the run as they should")
    for kind, row in found["kinds"].items():
        print(f"{kind:6s} {row['n']:3d}  median {row['median_s']:.2f} s  slowest {row['slowest_s']:.2f} s")


if __name__ == "__main__":
    main()
