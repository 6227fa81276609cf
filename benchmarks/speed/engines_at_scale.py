"""What a search and a large job ask of the longest path: CPU time of one core, medians of alternated repeats.

    python benchmarks/speed/engines_at_scale.py             a table
    python benchmarks/speed/engines_at_scale.py --json -    the figures as JSON

- one layout: interleaved 1F1B of 16 ranks, 192 micro-batches and 3 stages a rank, 18,432 ops: compiled, played, its
  spans as columns and as a timeline.
- every rank: 16,384 ranks (tp 8, pp 16, dp 128), a draw of jitter for every op of every rank, ranks of a tp group at
  the pace of the slowest, replicas that wait for each other at their reductions; interleaved with 8 stages a rank, 16
  and 256 micro-batches (557,056 and 8.4 million ops of replicas).
- samples: 1,000 steps of one 1F1B pipeline of 16 ranks and 64 micro-batches, jittered.
- makespans: ops of all lanes a second, lanes with prices of their own, of a plan of 6 micro-batches a rank.
- any number: 1,024 lanes of 512 micro-batches on 16 ranks from a small program, beside playing the plan; the share of
  lanes that are exact. Stages are equal but for the first and the last, as layers are.
- bound: lanes a second of the chain bound.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from figures import deliver, positive

from parsim.cost.unit import UnitCost
from parsim.plan import Plan, add_gradient_reduction, add_optimizer_step
from parsim.schedules import build, get
from parsim.sim import (
    Family,
    Noise,
    Prices,
    Program,
    StageTimes,
    chain_bound,
    compile_plan,
    makespans,
    play,
    prices,
    recording,
)

TIMES = UnitCost({"F": (1.0,), "I": (1.1,), "W": (0.8,), "P2P": (0.1,)})
LANES = 1024
WIDTHS = (256, 1024)
NAMES = ("1f1b", "interleaved", "zb-h1", "zb-v")


def step_of(name: str, pp: int, microbatches: int, stages_per_rank: int | None = None) -> Plan:
    return add_optimizer_step(add_gradient_reduction(build(name, pp, microbatches, stages_per_rank)))


def layouts(program: Program, lanes: int) -> Prices:
    """Lanes as a search has them: times of a layer, of a message, and of the first and last stage differ by lane."""
    chance, one = np.random.default_rng(0), prices(program, TIMES)
    parts = program.plan.placement.part_of
    layer, ends = chance.uniform(0.5, 2, lanes), chance.uniform(1, 1.3, (2, lanes))
    factors = np.array([np.ones(lanes), *ends])
    which = [{0: 1, max(parts): 2}.get(parts[slot.first.stage], 0) for slot in program.priced]
    return Prices(
        one.durations[:, None] * layer * factors[which],
        one.delays[:, None] * chance.uniform(0, 3, lanes),
    )


def works() -> dict[str, tuple[Callable[[], object], float]]:
    """What to time; how many things each call does (0: seconds of the call are the figure)."""
    plan = build("interleaved", 16, 192, 3)
    program = compile_plan(plan)
    one = prices(program, TIMES)
    played = play(program, one)
    calls: dict[str, tuple[Callable[[], object], float]] = {
        "one_layout_compile_s": (lambda: compile_plan(plan), 0),
        "one_layout_play_s": (lambda: play(program, one), 0),
        "one_layout_span_columns_s": (lambda: played.starts(0), 0),
        "one_layout_timeline_s": (lambda: recording(program, played), 0),
    }

    noise = Noise(0.03, seed=1)
    for microbatches in (16, 256):
        large = compile_plan(step_of("interleaved", 16, microbatches, 8))
        priced = prices(large, TIMES)

        def step(large: Program = large, priced: Prices = priced) -> object:
            return play(large, priced, noise.multipliers(large, 128, together=8), join=128).makespan

        calls[f"every_rank_{microbatches}_microbatches_s"] = (step, 0)
    pipeline = compile_plan(build("1f1b", 16, 64))
    pipeline_prices = prices(pipeline, TIMES)
    calls["thousand_samples_s"] = (
        lambda: play(pipeline, pipeline_prices, noise.multipliers(pipeline, 1000)).makespans,
        0,
    )

    for pp in (4, 16, 64):
        steps = compile_plan(step_of("1f1b", pp, 6 * pp))
        for lanes in WIDTHS:
            wide = layouts(steps, lanes)

            def many(steps: Program = steps, wide: Prices = wide) -> object:
                return makespans(steps, wide)

            calls[f"makespans_{pp}_ranks_{lanes}_lanes_ops_per_s"] = (many, steps.rows * lanes)
    for name in NAMES:
        family, full, their_prices, full_prices = any_number(name)
        numbers = np.full(LANES, full.plan.microbatches)

        def small(family: Family = family, lanes: Prices = their_prices, numbers: Any = numbers) -> object:
            return family.play(lanes, numbers)

        def whole(full: Program = full, lanes: Prices = full_prices) -> object:
            return makespans(full, lanes)

        calls[f"any_number_{name}_lanes_per_s"] = (small, LANES)
        calls[f"full_play_{name}_lanes_per_s"] = (whole, LANES)

    edges, placement = get("1f1b").edges(16, 64, 1), get("1f1b").placement(16, 1)
    stages = np.random.default_rng(0).uniform(0.5, 2, (4, 16, LANES))
    times = StageTimes({"F": stages[0], "B": stages[1]}, stages[2], stages[3])
    calls["chain_bound_16_ranks_lanes_per_s"] = (lambda: chain_bound(edges, placement, times), LANES)
    return calls


def any_number(name: str) -> tuple[Family, Program, Prices, Prices]:
    """A family of 16 ranks, its plan of 512 micro-batches, and the same lanes for both."""
    schedule = get(name)
    family = Family(lambda m: step_of(name, 16, m), lambda m: schedule.period(16, m, schedule.default_stages), 16, 512)
    full = compile_plan(step_of(name, 16, 512))
    return family, full, layouts(family.model, LANES), layouts(full, LANES)


def exact_share(name: str) -> dict[str, float]:
    """How many lanes are exact, and how wide the widest interval is; that each holds the truth is checked."""
    family, full, their_prices, full_prices = any_number(name)
    found, truth = family.play(their_prices, np.full(LANES, 512)), makespans(full, full_prices)
    assert (found.lower <= truth * (1 + 1e-9)).all()
    assert (found.upper >= truth * (1 - 1e-9)).all()
    return {
        "exact": float(found.exact.mean()),
        "widest_interval": float(((found.upper - found.lower) / truth).max()),
    }


def measure(repeats: int) -> dict[str, Any]:
    """All figures: the median of the repeats, with the least and the most of them."""
    calls = works()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, (call, things) in calls.items():
            begin = time.process_time()
            call()
            seconds = max(time.process_time() - begin, 1e-9)
            if repeat:  # the first round warms caches
                found[name].append(things / seconds if things else seconds)
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    return {
        "schema_version": "1.0",
        "clock": "CPU time",
        "repeats": repeats,
        **machine,
        "figures": {
            name: {"median": statistics.median(of), "min": min(of), "max": max(of)} for name, of in found.items()
        },
        "any_number": {name: exact_share(name) for name in NAMES},
    }


def print_table(figures: dict[str, Any]) -> None:
    print(f"CPU time, median of {figures['repeats']} (least to most); Python {figures['python']}")
    for name, of in figures["figures"].items():
        per_s = name.endswith("per_s")
        factor, unit = (1e-6, "M/s") if per_s and of["median"] > 1e6 else (1e-3, "k/s") if per_s else (1e3, "ms")
        print(f"  {name:44} {of['median'] * factor:9.2f} {unit} ({of['min'] * factor:.2f} to {of['max'] * factor:.2f})")
    for name, share in figures["any_number"].items():
        print(f"  {name}: {share['exact']:.1%} of lanes exact, widest interval {share['widest_interval']:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, or to the terminal with -")
    parser.add_argument("--repeats", type=positive, default=9, help="repeats of each measurement (default 9)")
    arguments = parser.parse_args()
    deliver(measure(arguments.repeats), arguments.json, print_table)


if __name__ == "__main__":
    main()
