"""How well the simulator predicts emulated steps, for every schedule: compute ops sleep, messages between processes
are real, and the prediction knows the table of times and a message's time beforehand.

    python benchmarks/validate/emulated.py --pp 8 --microbatches 16 --times F=40ms,I=40ms,W=40ms --json -

Ratios are predicted over measured. Structural replay stands beside it: measured op times played again, which is no
advance prediction.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from executor.calibrate import hop_of, link_job_of, play_links
from executor.emulation_times import seconds_table
from executor.job import job_of
from executor.run_command import play_job, run_of_plan
from executor.validate import emulated_part, structural_part
from parsim.cost import UnitCost
from parsim.errors import ScheduleError
from parsim.schedules import build, names

__all__ = ["main", "measure"]

_HANG_AFTER_S = 60.0


def measure(
    schedule: str, pp: int, microbatches: int, times: UnitCost, steps: int, hop_s: float | None
) -> dict[str, Any]:
    """One schedule's row; ScheduleError where it is not defined at this size."""
    plan = build(schedule, pp, microbatches)
    job = job_of(run_of_plan(plan), plan, times=times, steps=steps, warmup=1)
    if hop_s is None:
        links = play_links(link_job_of(job), job.ranks, _HANG_AFTER_S)
        assert links is not None
        hop_s = hop_of(job, links).seconds
    record = play_job(job, _HANG_AFTER_S)
    return {
        "schedule": schedule,
        "emulated": emulated_part(record, hop_s).part,
        "structural": structural_part(record, hop_s),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pp", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=16)
    parser.add_argument("--times", default="F=40ms,I=40ms,W=40ms")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--schedules", nargs="*", default=list(names()))
    parser.add_argument("--json", metavar="FILE", help="the numbers; - for standard output, instead of the table")
    options = parser.parse_args(arguments)
    rows, hop_s = [], None
    for schedule in options.schedules:
        try:
            row = measure(
                schedule, options.pp, options.microbatches, seconds_table(options.times), options.steps, hop_s
            )
        except ScheduleError as error:
            print(f"{schedule}: {error}", file=sys.stderr)
            continue
        hop_s = row["emulated"]["hop_s"]
        rows.append(row)
        if options.json != "-":
            print(_line(row), flush=True)
    document = {"pp": options.pp, "microbatches": options.microbatches, "times": options.times, "rows": rows}
    if options.json == "-":
        print(json.dumps(document, indent=1))
    elif options.json:
        Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    if rows and options.json != "-":
        ratios = [row["emulated"]["ratio"] for row in rows]
        print(f"emulated: median {median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")


def _line(row: dict[str, Any]) -> str:
    parts = (
        f"{name} {row[name]['ratio']:.4f} ({row[name]['lowest']:.4f} to {row[name]['highest']:.4f})"
        for name in ("emulated", "structural")
    )
    return f"{row['schedule']:16s} {'   '.join(parts)}   {row['emulated']['measured_s']:.3f} s"


if __name__ == "__main__":
    main()
