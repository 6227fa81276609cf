"""How fast the planner decides: CPU seconds to the certificate of both bundled searches, layouts played a second.

    python benchmarks/speed/search.py                 a table
    python benchmarks/speed/search.py --json -        the same as JSON
    python benchmarks/speed/search.py --play-all      also every distinct cost vector of the first space, really played

A certificate: from the search's document to the proven best `top` layouts, in a process that remembers nothing: survey,
bounds and plays, without the contended play of the finalists and the drawing. `played_per_s` counts distinct cost
vectors whose schedule was played by the longest path; making programs, pricing and bounds that lead
to them stand apart as `bounding_cpu_s`.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
from figures import deliver, machine, positive

from parsim.search.branch import Workers, branch_and_bound
from parsim.search.explore import opened
from parsim.search.journal import Journal
from parsim.search.playing import families, prices_of
from parsim.search.scope import scope_of
from parsim.search.space import meshes, shapes
from parsim.search.survey import judged
from parsim.sim import Family, Prices
from parsim.spec import load_search

SEARCHES = ("gpt3-175b-a100-calculon", "llama3-405b-h100")


def certificate(name: str, top: int) -> dict[str, Any]:
    """Seconds of CPU to the certificate, and what became of the space."""
    search = load_search(name)
    text = json.dumps(search.document())
    started = time.process_time()
    scope = scope_of(text)
    with Journal(None, text) as journal:
        found = [
            branch_and_bound(scope, text, nodes, top, Workers(None, journal, None), lambda *told: None)
            for nodes in scope.sizes
        ]
    return {
        "search": name,
        "top": top,
        "cpu_s": time.process_time() - started,
        "space": sum(size.layouts for size in found),
        "removed": found[0].removed,
        "feasible": sum(size.feasible for size in found),
        "vectors": sum(size.vectors for size in found),
        "played": sum(size.played for size in found),
        "certified": all(size.complete for size in found),
        "best_s": found[0].top[0].step_s if found[0].top else None,
        "bound_s": found[0].bound_s,
    }


def play_all(name: str, limit: int) -> dict[str, Any]:
    """Every distinct cost vector of a space (of its first `limit` feasible shapes) played, all of a family together."""
    scope = scope_of(json.dumps(load_search(name).document()))
    lanes: dict[Family, list[tuple[Prices, int]]] = {}
    started = time.process_time()
    done = 0
    for mesh in meshes(scope, scope.sizes[0]):
        for shape in shapes(scope, mesh):
            if done < limit and judged(scope, shape).feasible.any():
                times, found = opened(scope, shape)
                for family, own in families(times, found.points):
                    priced_lanes = prices_of(times, found.points[own], family.model), shape.microbatches
                    lanes.setdefault(family, []).append(priced_lanes)
                done += 1
    priced = time.process_time()
    vectors = inexact = 0
    for family, parts in lanes.items():
        columns = [np.concatenate([getattr(p, name) for p, _ in parts], 1) for name in ("durations", "delays")]
        counts = np.concatenate([np.full(p.lanes, m) for p, m in parts])
        interval = family.play(Prices(*columns), counts)
        vectors += len(counts)
        inexact += int((~interval.exact).sum())
    playing = time.process_time() - priced
    return {
        "search": name,
        "shapes": done,
        "families": len(lanes),
        "vectors": vectors,
        "bounding_cpu_s": priced - started,
        "playing_cpu_s": playing,
        "played_per_s": vectors / playing,
        "inexact": inexact,
    }


def alone(*arguments: str) -> dict[str, Any]:
    """One measurement in a process of its own: nothing is remembered."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def print_table(figures: dict[str, Any]) -> None:
    """For people."""
    for row in figures["certificates"]:
        print(
            f"{row['search']}, top {row['top']}: certified {row['certified']} in {row['cpu_s']:.2f} s of CPU; "
            f"space {row['space']:,}, feasible {row['feasible']:,}, {row['vectors']:,} vectors bounded, "
            f"{row['played']:,} played; best {row['best_s']:.4f} s"
        )
    for row in figures.get("played", ()):
        print(
            f"{row['search']}: {row['vectors']:,} distinct cost vectors of {row['shapes']:,} shapes played in "
            f"{row['playing_cpu_s']:.2f} s of CPU, {row['played_per_s']:,.0f}/s ({row['inexact']:,} as intervals); "
            f"priced and bounded in {row['bounding_cpu_s']:.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="JSON into a file, - for the terminal")
    parser.add_argument("--play-all", action="store_true", help="also play all of the first space")
    parser.add_argument("--limit", type=positive, default=10**9, help="shapes that --play-all plays at the most")
    parser.add_argument("--one", nargs=2, metavar=("SEARCH", "TOP"), help=argparse.SUPPRESS)
    parser.add_argument("--all-of", metavar="SEARCH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(certificate(options.one[0], int(options.one[1]))))
        return
    if options.all_of:
        print(json.dumps(play_all(options.all_of, options.limit)))
        return
    asked = [(SEARCHES[0], "1"), (SEARCHES[0], "100"), (SEARCHES[1], "10")]
    figures: dict[str, Any] = {"on": machine(), "certificates": [alone("--one", *one) for one in asked]}
    if options.play_all:
        figures["played"] = [alone("--all-of", SEARCHES[0], "--limit", str(options.limit))]
    deliver(figures, options.json, print_table)


if __name__ == "__main__":
    main()
