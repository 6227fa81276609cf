"""How fast networks are built and routed: seconds to build, microseconds a route, and networkx as the yardstick.

    python benchmarks/speed/topology.py                         the bundled clusters at their sizes
    python benchmarks/speed/topology.py dgx-h100:2048 --json -  other sizes, as JSON

A route is between two ranks drawn at random, first with nothing known (`first`) and again (`again`). The yardstick is
networkx's bidirectional search for the fewest links over the same graph, on a few of the same pairs.
"""

import argparse
import random
import sys
import time
from typing import Any

import networkx as nx
from figures import deliver, machine, positive

from parsim.network.build import build
from parsim.network.routes import Router
from parsim.spec import load_cluster

CLUSTERS = ("dgx-h100:2048", "meta-h100-roce:3072", "h800-deepseek:256", "gb200-nvl72:1800", "alcf-polaris:560")


def measured(name: str, nodes: int, pairs: int, searches: int) -> dict[str, Any]:
    """The figures of one cluster."""
    cluster = load_cluster(name)
    start = time.perf_counter()
    network = build(cluster, nodes)
    built = time.perf_counter()
    router = Router(network)
    ready = time.perf_counter()
    draw, ranks = random.Random(0), len(network.gpus)
    drawn = [(draw.randrange(ranks), draw.randrange(ranks)) for _ in range(pairs)]
    times = [time.perf_counter()]
    for _ in range(2):
        for source, target in drawn:
            router.route(source, target)
        times.append(time.perf_counter())
    for source, target in drawn[:searches]:
        nx.bidirectional_shortest_path(network.graph, network.gpus[source], network.gpus[target])
    searched = (time.perf_counter() - times[-1]) / searches
    return {
        "cluster": name,
        "gpus": ranks,
        "links": len(network.ends),
        "build_s": built - start,
        "router_s": ready - built,
        "route_first_us": (times[1] - times[0]) / pairs * 1e6,
        "route_again_us": (times[2] - times[1]) / pairs * 1e6,
        "networkx_us": searched * 1e6,
        "times_networkx": searched * pairs / (times[2] - times[1]),
    }


def _table(figures: dict[str, Any]) -> None:
    for row in figures["rows"]:
        sys.stdout.write(
            "{cluster:16} {gpus:6} GPUs {links:7} links: built in {build_s:5.2f} s, router {router_s:4.2f} s, a route "
            "{route_first_us:5.1f} then {route_again_us:4.1f} us, networkx {networkx_us:8.1f} us "
            "({times_networkx:.0f} times)\n".format(**row)
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clusters", nargs="*", default=CLUSTERS, help="name:nodes")
    parser.add_argument("--pairs", type=positive, default=50_000)
    parser.add_argument("--searches", type=positive, default=20, help="pairs that networkx searches")
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    arguments = parser.parse_args()
    rows = []
    for entry in arguments.clusters:
        name, _, nodes = entry.partition(":")
        rows.append(measured(name, int(nodes or 64), arguments.pairs, arguments.searches))
    deliver({**machine(), "rows": rows}, arguments.json, _table)


if __name__ == "__main__":
    main()
