"""How fast L2 plays: a ring all-reduce of 64 MiB in 4 chunks a shard over 1,024 ranks, every transfer played.

    python benchmarks/speed/rounds.py                a table
    python benchmarks/speed/rounds.py --json -       the figures as JSON

CPU seconds of this process, medians of repeats that go round all cases; what is timed is making the rounds and playing
them, on a network that is there. "seconds" is what the collective would take. The cases: a ring on ports of its own,
the same on a rail-optimised fabric of 128 nodes of 8 GPUs with its routes, eight channels of it, other algorithms on
that fabric, a ring with one more message (played by the table, as any rounds), and an all-to-all.
"""

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from figures import deliver, positive

from parsim.errors import ParsimError
from parsim.network.build import build
from parsim.network.chunked import ChunkedResult, play_chunked, uniform_ports
from parsim.network.collectives import Group, round_of, rounds_of
from parsim.network.members import member_routes
from parsim.network.routes import Router
from parsim.spec import load_cluster

GPUS_PER_NODE = 8
ON_FABRIC: dict[str, tuple[str, str, dict[str, int]]] = {
    "ring on rails": ("all_reduce", "ring", {}),
    "ring on rails, 8 channels": ("all_reduce", "ring", {"channels": 8}),
    "tree on rails, 8 channels": ("all_reduce", "tree", {"channels": 8}),
    "hierarchical on rails": ("all_reduce", "hierarchical", {}),
    "nvls_tree on rails": ("all_reduce", "nvls_tree", {}),
}

Case = Callable[[], ChunkedResult]


def cases(ranks: int, size_bytes: float, chunks: int) -> dict[str, Case]:
    """What to time, by name."""
    ports = uniform_ports(ranks, 50e9, 5e-6)
    group = Group(ranks, GPUS_PER_NODE)
    network = build(load_cluster("dgx-h100"), -(-ranks // GPUS_PER_NODE))

    def ring() -> ChunkedResult:
        return play_chunked(rounds_of("all_reduce", "ring", group, size_bytes), ranks, *ports, chunks)

    def as_any_rounds() -> ChunkedResult:
        rounds = rounds_of("all_reduce", "ring", group, size_bytes)
        message = round_of(0, ranks - 1, ranks, 0.0, False)
        return play_chunked([message, *rounds], ranks, *ports, chunks)

    def all_to_all() -> ChunkedResult:
        return play_chunked(rounds_of("all_to_all", "pairwise", group, size_bytes), ranks, *ports, chunks)

    def on_fabric(kind: str, name: str, options: dict[str, int]) -> Case:
        def play() -> ChunkedResult:
            rounds = rounds_of(kind, name, group, size_bytes, **options)
            routes = member_routes(Router(network), group)
            return play_chunked(rounds, ranks, routes, network.capacities, network.latencies, chunks)

        return play

    return {
        "ring": ring,
        **{case: on_fabric(*what) for case, what in ON_FABRIC.items()},
        "ring as any rounds": as_any_rounds,
        "all-to-all": all_to_all,
    }


def measure(ranks: int, size_bytes: float, chunks: int, repeats: int) -> dict[str, Any]:
    """CPU seconds and transfers (chunks) a second of each case."""
    prepared = cases(ranks, size_bytes, chunks)
    seconds: dict[str, list[float]] = {name: [] for name in prepared}
    results: dict[str, ChunkedResult] = {}
    for _ in range(repeats):
        for name, play in prepared.items():
            begin = time.process_time()
            results[name] = play()
            seconds[name].append(time.process_time() - begin)
    figures = {
        name: {
            "transfers": results[name].transfers,
            "cpu_s": statistics.median(found),
            "cpu_s_least": min(found),
            "cpu_s_most": max(found),
            "transfers_per_s": results[name].transfers / max(statistics.median(found), 1e-9),
            "seconds": results[name].seconds,
        }
        for name, found in seconds.items()
    }
    return {
        "schema_version": "1.0",
        "clock": "CPU time",
        "ranks": ranks,
        "size_bytes": size_bytes,
        "chunks": chunks,
        "repeats": repeats,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cases": figures,
    }


def print_table(figures: dict[str, Any]) -> None:
    print(
        f"{figures['ranks']} ranks, {figures['size_bytes'] / 2**20:g} MiB, {figures['chunks']} chunks a shard; "
        f"CPU time, median of {figures['repeats']} (least to most); "
        f"{figures['peak_resident_bytes'] / 2**20:.0f} MiB at the most"
    )
    for name, case in figures["cases"].items():
        print(
            f"{name:28} {case['transfers'] / 1e6:8.3f} M transfers {case['cpu_s']:8.3f} s "
            f"({case['cpu_s_least']:.3f} to {case['cpu_s_most']:.3f}) {case['transfers_per_s'] / 1e6:8.1f} M/s   "
            f"takes {case['seconds'] * 1e3:.3f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, or to the terminal with -")
    parser.add_argument("--ranks", type=positive, default=1024, help="ranks, a multiple of 8 (default 1024)")
    parser.add_argument("--mib", type=positive, default=64, help="MiB of the collective (default 64)")
    parser.add_argument("--chunks", type=positive, default=4, help="chunks of a shard (default 4)")
    parser.add_argument("--repeats", type=positive, default=5, help="repeats of each measurement (default 5)")
    arguments = parser.parse_args()
    try:
        figures = measure(arguments.ranks, arguments.mib * 2.0**20, arguments.chunks, arguments.repeats)
    except ParsimError as error:
        parser.error(str(error))
    deliver(figures, arguments.json, print_table)


if __name__ == "__main__":
    main()
