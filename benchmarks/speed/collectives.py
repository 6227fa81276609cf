"""How fast collectives are estimated: seconds an estimate at 8, 1,024 and 16,384 ranks, and a sweep of sizes by a log.

    python benchmarks/speed/collectives.py            a table
    python benchmarks/speed/collectives.py --json -   the same as JSON

Every kind at sizes from 1 KiB to 16 GiB; an estimate is closed form, so the number of ranks should not matter.
"""

import argparse
import itertools
import sys
import time
from typing import Any

from figures import deliver, machine, positive

from parsim.network.calibration import Calibration, Measurement
from parsim.network.estimate import KINDS, estimate
from parsim.network.reach import Reach, reach_of_size
from parsim.spec import load_cluster

CLUSTER = "dgx-h100"
RANKS = (8, 1024, 16_384)
SIZES = tuple(2**power for power in range(10, 35))


def measured(reach: Reach, rounds: int, calibration: Calibration | None = None) -> dict[str, Any]:
    """Seconds an estimate, the mean over kinds and sizes and the slowest kind."""
    by_kind = dict.fromkeys(KINDS, 0.0)
    for kind, _ in itertools.product(KINDS, range(rounds)):
        start = time.process_time()
        for size in SIZES:
            estimate(kind, size, reach, correction=calibration)
        by_kind[kind] += time.process_time() - start
    each = {kind: seconds / rounds / len(SIZES) for kind, seconds in by_kind.items()}
    return {
        "ranks": reach.ranks,
        "calibrated": calibration is not None,
        "estimate_s": sum(each.values()) / len(each),
        "slowest_kind": max(each, key=lambda kind: each[kind]),
        "slowest_s": max(each.values()),
    }


def _table(figures: dict[str, Any]) -> None:
    for row in figures["rows"]:
        sys.stdout.write(
            f"{row['ranks']:6} ranks{', by a log' if row['calibrated'] else '':10}: {row['estimate_s'] * 1e6:7.1f} us "
            f"an estimate, {row['slowest_kind']} {row['slowest_s'] * 1e6:.1f} us\n"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=20)
    parser.add_argument("--json", metavar="FILE", help="- for standard output")
    arguments = parser.parse_args()
    cluster = load_cluster(CLUSTER)
    rows = []
    for ranks in RANKS:
        reach = reach_of_size(cluster, max(1, ranks // cluster.node.gpus))
        rows.append(measured(reach, arguments.rounds))
        log = [
            Measurement(kind, size, 1.3 * estimate(kind, size, reach).seconds, reach.ranks, reach.domains)
            for kind, size in itertools.product(KINDS, SIZES)
        ]
        rows.append(measured(reach, arguments.rounds, Calibration.of(log, reach)))
    deliver({**machine(), "cluster": CLUSTER, "rows": rows}, arguments.json, _table)


if __name__ == "__main__":
    main()
