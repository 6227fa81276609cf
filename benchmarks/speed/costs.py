"""How fast the roofline prices layers: seconds for 10,000 layer costs, all distinct, and where they go.

    python benchmarks/speed/costs.py                 a table
    python benchmarks/speed/costs.py --json -        the same as JSON
    python benchmarks/speed/costs.py --profile       the functions that took longest, besides

A layer cost is the time of F and of B of one layer of a pipeline's inner stage, with its tensor-parallel collectives.
The 10,000 differ in what a layer reads: width, sequence, tensor parallelism, micro-batch and recomputation, each of
them with every other. `distinct` counts the different pairs of times. `again` prices the same runs anew, with new
`RooflineCost`s: what a memory of sub-layouts would save. `cousins` are other runs with the same layers: other dp, other
schedules, other batches. A run is made, and checked, before it is priced: `runs` says what that takes.
"""

import argparse
import cProfile
import json
import platform
import pstats
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any

from parsim.cost import RooflineCost
from parsim.plan import Kind, Op, Slot, straight
from parsim.spec import Run, run_from_document

HEADS = (16, 24, 32, 40, 48, 56, 64, 80, 96, 128)  # of 128 each
SEQUENCES = (1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
DEGREES = (1, 2, 4, 8)
BATCHES = (1, 2, 3, 4, 6)
RECOMPUTED: tuple[object, ...] = (
    "none",
    "full",
    "selective",
    {"mode": "selective", "modules": ["mlp"]},
    {"mode": "selective", "modules": ["layernorm", "act"]},
)
_STAGES = 4


def runs(count: int) -> Iterator[Run]:
    """`count` runs of which no two have the same layer."""
    every = product(HEADS, SEQUENCES, DEGREES, BATCHES, RECOMPUTED)
    for heads, sequence, tp, batch, recompute in islice(every, count):
        yield run_from_document(
            {
                "model": {
                    "name": "m",
                    "layers": _STAGES,
                    "hidden": 128 * heads,
                    "heads": heads,
                    "kv_heads": 8,
                    "ffn": 448 * heads,
                    "vocab": 32000,
                },
                "cluster": "dgx-h100",
                "layout": {
                    "mesh": {"tp": tp, "dp": 2, "pp": _STAGES},
                    "micro_batch_size": batch,
                    "recompute": recompute,
                    "sequence_parallel": tp > 1,
                },
                "batch": {"sequence_length": sequence, "global_batch_size": 16 * batch},
            }
        )


def cousin(run: Run) -> Run:
    """Another run with the same layers."""
    layout = run.layout
    mesh = layout.mesh.model_copy(update={"dp": 2 * layout.mesh.dp})
    batch = run.batch.model_copy(update={"global_batch_size": 3 * run.batch.global_batch_size})
    return run.model_copy(
        update={"layout": layout.model_copy(update={"mesh": mesh, "schedule": "zb-h1"}), "batch": batch}
    )


def prices(priced: Sequence[Run]) -> list[tuple[float, float]]:
    """Seconds of F and B of an inner stage of each run."""
    found = []
    for run in priced:
        cost = RooflineCost(run, straight(_STAGES))
        found.append((cost.seconds(Slot(Op(1, Kind.F, 0))), cost.seconds(Slot(Op(1, Kind.B, 0)))))
    return found


def timed(priced: Sequence[Run]) -> tuple[float, list[tuple[float, float]]]:
    """CPU seconds of `prices`, and what it found."""
    start = time.process_time()
    found = prices(priced)
    return time.process_time() - start, found


def measured(count: int) -> dict[str, Any]:
    """The figures."""
    start = time.process_time()
    made = list(runs(count))
    making = time.process_time() - start
    cousins = [cousin(run) for run in made]
    first, found = timed(made)
    again, same = timed(made)
    others, _ = timed(cousins)
    if same != found:
        raise SystemExit("the same runs were priced in two ways")
    return {
        "runs": len(made),
        "distinct": len(set(found)),
        "runs_s": making,
        "first_s": first,
        "again_s": again,
        "cousins_s": others,
        "layer_costs_per_s": len(made) / first,
        "seconds_for_10000": 1e4 * first / len(made),
    }


def profile(count: int, rows: int) -> None:
    """The functions that took longest by themselves, over every fifth layer."""
    chosen = list(runs(len(HEADS) * len(SEQUENCES) * len(DEGREES) * len(BATCHES) * len(RECOMPUTED)))[::5][:count]
    profiler = cProfile.Profile()
    profiler.runcall(prices, chosen)
    pstats.Stats(profiler, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(rows)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="layer costs, at most 10,000")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    arguments = parser.parse_args()
    found = measured(arguments.count)
    if arguments.json:
        text = json.dumps({"python": platform.python_version(), "machine": platform.machine(), **found}, indent=1)
        sys.stdout.write(text + "\n") if arguments.json == "-" else Path(arguments.json).write_text(text + "\n")
    else:
        sys.stdout.write(
            "{runs} layers ({distinct} distinct): priced in {first_s:.2f} s ({layer_costs_per_s:.0f} a second, "
            "{seconds_for_10000:.2f} s for 10,000), again in {again_s:.2f} s, their cousins in {cousins_s:.2f} s; "
            "the runs were made in {runs_s:.2f} s\n".format(**found)
        )
    if arguments.profile:
        profile(1000, 25)


if __name__ == "__main__":
    main()
