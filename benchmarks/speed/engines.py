"""How fast the two players are: CPU time of one core, medians of alternated repeats.

    python benchmarks/speed/engines.py                a table
    python benchmarks/speed/engines.py --json -       the figures as JSON

For each plan: compiling it, the longest path of one scenario and of a batch, SimPy's player, and as a yardstick bare
SimPy: as many processes as ranks that wait for one timeout after the other, as many as the plan has slots. Ops per
second count the slots of the plan (an overlapped pair is one), times the lanes of a batch. The repeats go round all
measurements, so that a slow moment of a shared machine hits all of them alike.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import simpy
from figures import deliver, positive

from parsim.cost.unit import UnitCost
from parsim.errors import ScheduleError
from parsim.plan import Plan
from parsim.schedules import build
from parsim.sim import Prices, Program, compile_plan, play, play_events, prices, stack
from parsim.sim.longest_path import play_levels, play_rows

PLANS: dict[str, dict[str, int]] = {
    "1f1b": {},
    "interleaved": {"stages_per_rank": 2},
    "zb-h1": {},
    "dualpipe": {},
}
TIMES = UnitCost({"F": (1.0,), "I": (1.1,), "W": (0.8,), "P2P": (0.1,)})
FIGURES = (
    "compile_ops_per_s",
    "path_single_ops_per_s",
    "path_batched_ops_per_s",
    "simpy_ops_per_s",
    "simpy_bare_events_per_s",
)


def bare(processes: int, timeouts: int) -> None:
    """SimPy alone: each process waits for its share of the timeouts."""
    environment = simpy.Environment()

    def waits(count: int) -> Any:
        for _ in range(count):
            yield environment.timeout(1.0)

    for _ in range(processes):
        environment.process(waits(timeouts // processes))
    environment.run()


def batch_of(priced: Prices, lanes: int) -> Prices:
    """Scenarios that differ: every lane's times stretched by up to 10 %."""
    stretch = np.random.default_rng(0).uniform(1.0, 1.1, (len(priced.durations), lanes))
    wide = stack([priced] * lanes)
    return Prices(wide.durations * stretch, wide.delays)


def check_equal(program: Program, one: Prices, many: Prices) -> float:
    """The largest difference between any two players, relative to the makespan."""
    expected = play_rows(program, many)
    makespan = expected.makespan
    found = [play_levels(program, many).ends - expected.ends]
    found.append(play_events(program, one).ends - play_rows(program, one).ends)
    return float(max(np.abs(difference).max() for difference in found) / makespan)


def works(plan: Plan, lanes: int) -> tuple[dict[str, tuple[Callable[[], object], int]], dict[str, Any]]:
    """What to time, with the ops each call plays; and what is known about the plan without timing."""
    program = compile_plan(plan)
    one = prices(program, TIMES)
    many = batch_of(one, lanes)
    rows, ranks = program.rows, plan.placement.ranks
    facts = {
        "pp": ranks,
        "microbatches": plan.microbatches,
        "slots": rows,
        "lanes": lanes,
        "largest_difference": check_equal(program, one, batch_of(one, 4)),
    }
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "compile_ops_per_s": (lambda: compile_plan(plan), rows),
        "path_single_ops_per_s": (lambda: play(program, one), rows),
        "path_batched_ops_per_s": (lambda: play(program, many), rows * lanes),
        "simpy_ops_per_s": (lambda: play_events(program, one), rows),
        "simpy_bare_events_per_s": (lambda: bare(ranks, rows), rows // ranks * ranks),
    }
    return calls, facts


def measure(pp: int, microbatches: int, lanes: int, repeats: int) -> dict[str, Any]:
    """All figures of all plans: the median of the repeats, with the least and the most of them."""
    prepared = {name: works(build(name, pp, microbatches, **options), lanes) for name, options in PLANS.items()}
    rates: dict[str, dict[str, list[float]]] = {name: {figure: [] for figure in FIGURES} for name in PLANS}
    for repeat in range(repeats + 1):
        for name, (calls, _) in prepared.items():
            for figure, (call, ops) in calls.items():
                begin = time.process_time()
                call()
                seconds = time.process_time() - begin
                if repeat:  # the first round warms caches
                    rates[name][figure].append(ops / max(seconds, 1e-9))
    plans = {}
    for name, (_, facts) in prepared.items():
        medians = {figure: statistics.median(found) for figure, found in rates[name].items()}
        plans[name] = {
            **facts,
            **medians,
            "simpy_over_bare": medians["simpy_ops_per_s"] / medians["simpy_bare_events_per_s"],
            "batched_over_single": medians["path_batched_ops_per_s"] / medians["path_single_ops_per_s"],
            "spread": {figure: {"min": min(found), "max": max(found)} for figure, found in rates[name].items()},
        }
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    return {"schema_version": "1.0", "clock": "CPU time", "repeats": repeats, **machine, "plans": plans}


def print_table(figures: dict[str, Any]) -> None:
    print(f"millions a second of CPU time, median of {figures['repeats']} (least to most); Python {figures['python']}")
    for name, plan in figures["plans"].items():
        print(f"{name}: {plan['pp']} ranks, {plan['microbatches']} micro-batches, {plan['slots']} slots")
        for figure in FIGURES:
            least, most = plan["spread"][figure]["min"] / 1e6, plan["spread"][figure]["max"] / 1e6
            label = figure.removesuffix("_per_s").replace("_", " ")
            label += f" ({plan['lanes']} lanes)" if "batched" in figure else ""
            print(f"  {label:32} {plan[figure] / 1e6:9.3f}   ({least:.3f} to {most:.3f})")
        print(f"  SimPy's player is {plan['simpy_over_bare']:.2f} times as fast as bare SimPy timeouts;", end=" ")
        print(f"players differ by {plan['largest_difference']:.1e} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, or to the terminal with -")
    parser.add_argument("--pp", type=positive, default=16, help="pipeline ranks (default 16)")
    parser.add_argument("--microbatches", type=positive, default=256, help="micro-batches (default 256)")
    parser.add_argument("--lanes", type=positive, default=256, help="scenarios of a batch (default 256)")
    parser.add_argument("--repeats", type=positive, default=9, help="repeats of each measurement (default 9)")
    arguments = parser.parse_args()
    try:
        figures = measure(arguments.pp, arguments.microbatches, arguments.lanes, arguments.repeats)
    except ScheduleError as error:
        parser.error(str(error))
    deliver(figures, arguments.json, print_table)


if __name__ == "__main__":
    main()
