"""How fast the roofline prices: seconds for 10,000 distinct layer costs, milliseconds for a whole layout.

    python benchmarks/speed/costs.py                 a table
    python benchmarks/speed/costs.py --json -        the same as JSON
    python benchmarks/speed/costs.py --profile       the functions that took longest, besides

A layer cost is the time of F and of B of one layer of a pipeline's inner stage, with its tensor-parallel collectives.
The 10,000 differ in what a layer reads: width, sequence, tensor parallelism, micro-batch and recomputation, each of
them with every other. `distinct` counts the different pairs of times. `again` prices the same runs anew, with new
`RooflineCost`s: what is remembered of sub-layouts. `cousins` are other runs with the same layers: other dp, other
schedules, other batches. A run is made, and checked, before it is priced: `runs` says what that takes.

A layout is one of 96 layers on 1,024 GPUs: its mesh, micro-batch, recomputation, ZeRO stage and sequence parallelism,
drawn from all that fit. Priced are F, B, I, W, REDUCE_GRAD and STEP of every stage and the messages between neighbours
both ways; `again` as above; `making` is the checked copy of a run with another layout.
"""

import argparse
import cProfile
import gc
import pstats
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from typing import Any, TypeVar

from figures import deliver, machine, positive

from parsim.cost import RooflineCost
from parsim.plan import Kind, Op, Slot, straight
from parsim.spec import Layout, Run, run_from_document

T = TypeVar("T")

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
_GPUS = 1024
_KINDS = (Kind.F, Kind.B, Kind.I, Kind.W, Kind.REDUCE_GRAD, Kind.STEP)


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


def layouts(count: int) -> list[Layout]:
    """`count` layouts of 1,024 GPUs, no two alike, in an order of chance."""
    meshes = [
        {"tp": tp, "cp": cp, "dp": _GPUS // (tp * cp * pp), "pp": pp}
        for tp, cp, pp in product(DEGREES, (1, 2), (1, 2, 4, 6, 8, 12, 16, 24, 32, 48))
        if _GPUS % (tp * cp * pp) == 0
    ]
    every = product(meshes, (1, 2, 4), ("none", "full", "selective"), (0, 1, 2, 3), (False, True))
    named = ("mesh", "micro_batch_size", "recompute", "zero", "sequence_parallel")
    values = [dict(zip(named, fields, strict=True)) for fields in every if not fields[4] or fields[0]["tp"] > 1]
    return [Layout.model_validate(chosen) for chosen in random.Random(0).sample(values, count)]


def whole(runs_of_layouts: Sequence[Run]) -> list[list[float]]:
    """Seconds of every op and every message of each run."""
    found = []
    for run in runs_of_layouts:
        stages = run.layout.mesh.pp
        cost = RooflineCost(run, straight(stages))
        times = [cost.seconds(Slot(Op(stage, kind, 0))) for stage in range(stages) for kind in _KINDS]
        times += [cost.hop_seconds(a, b) for s in range(stages - 1) for a, b in ((s, s + 1), (s + 1, s))]
        found.append(times)
    return found


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of some work, and what it found. The garbage collector leaves what was there before alone: going
    through 10,000 runs again and again is not pricing them.
    """
    gc.collect()
    gc.freeze()
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def same(one: object, other: object) -> None:
    """Ends the program where two ways to the same prices differ."""
    if one != other:
        raise SystemExit("the same runs were priced in two ways")


def measured_layers(count: int) -> dict[str, Any]:
    """The figures of layer costs."""
    making, made = timed(lambda: list(runs(count)))
    cousins = [cousin(run) for run in made]
    first, found = timed(lambda: prices(made))
    again, repeated = timed(lambda: prices(made))
    others, theirs = timed(lambda: prices(cousins))
    same(found, repeated)
    same(found, theirs)
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


def measured_layouts(count: int) -> dict[str, Any]:
    """The figures of whole layouts."""
    chosen = layouts(count)
    document = {
        "model": "gpt3-175b",
        "cluster": "dgx-h100",
        "layout": {"mesh": {"dp": _GPUS}},
        "batch": {"sequence_length": 2048, "global_batch_size": 4 * _GPUS},
    }
    base = run_from_document(document)
    making, made = timed(lambda: [base.changed(layout=layout) for layout in chosen])
    first, found = timed(lambda: whole(made))
    again, repeated = timed(lambda: whole(made))
    same(found, repeated)
    return {
        "layouts": len(made),
        "prices": sum(map(len, found)),
        "making_ms": 1e3 * making / len(made),
        "first_ms": 1e3 * first / len(made),
        "again_ms": 1e3 * again / len(made),
        "layouts_per_s": len(made) / first,
    }


def profile(count: int, rows: int) -> None:
    """The functions that took longest by themselves, over every fifth layer."""
    chosen = list(runs(len(HEADS) * len(SEQUENCES) * len(DEGREES) * len(BATCHES) * len(RECOMPUTED)))[::5][:count]
    profiler = cProfile.Profile()
    profiler.runcall(prices, chosen)
    pstats.Stats(profiler, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(rows)


def _table(figures: dict[str, Any]) -> None:
    sys.stdout.write(
        "{runs} layers ({distinct} distinct): priced in {first_s:.2f} s ({layer_costs_per_s:.0f} a second, "
        "{seconds_for_10000:.2f} s for 10,000), again in {again_s:.2f} s, their cousins in {cousins_s:.2f} s; "
        "the runs were made in {runs_s:.2f} s\n".format(**figures["layers"])
    )
    sys.stdout.write(
        "{layouts} layouts ({prices} prices): {first_ms:.3f} ms each ({layouts_per_s:.0f} a second), again "
        "{again_ms:.3f} ms; making one {making_ms:.3f} ms\n".format(**figures["layouts"])
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=positive, default=10_000, help="layer costs, at most 10,000")
    parser.add_argument("--layouts", type=positive, default=2_000, help="at most 3,000")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    arguments = parser.parse_args()
    found = {"layers": measured_layers(arguments.count), "layouts": measured_layouts(arguments.layouts)}
    deliver({**machine(), **found}, arguments.json, _table)
    if arguments.profile:
        profile(1000, 25)


if __name__ == "__main__":
    main()
