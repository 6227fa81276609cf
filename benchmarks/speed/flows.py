"""How fast fluid flows are, in CPU time of one core: events a second on rails, and draining random flows.

    python benchmarks/speed/flows.py                a table
    python benchmarks/speed/flows.py --json -       the figures as JSON

Rails: every GPU sends to its rail's GPU of another node, always one flow at a time of a random size; where one ends
the next starts, so that as many are under way at any time as there are GPUs. An event is a start or an end. `ring`:
always to the next node. `random`: to one of three nodes drawn for each GPU. Nodes stand in groups of 32 under the
leaf switch of each rail, and spines join the leaves of a rail.

Drain: as many flows between random GPUs over a tree of leaves and spines, all at once: one component. In batches
within 1 %; and with fewer flows also exactly, to say how far the batches are off.
"""

import argparse
import platform
import random
import statistics
import time
from typing import Any, NamedTuple

import numpy as np
from figures import deliver, positive

from parsim.network.drain import drain
from parsim.network.fluid import Fluid

NIC, PCIE, SPINES, PER_LEAF, RAILS = 50e9, 64e9, 4, 32, 8


class Wires(NamedTuple):
    """Capacities of all links, and how a flow goes from one port to another."""

    ports: int
    capacities: list[float]
    rails: int
    spines: int

    def route(self, source: int, target: int, spine: int) -> tuple[int, ...]:
        """PCIe, NIC, leaf, perhaps a spine, and down again; links of a port are 0 to 3 times `ports` further."""
        ports, rails, spines = self.ports, self.rails, self.spines
        leaf, there = (port // rails // PER_LEAF * rails + port % rails for port in (source, target))
        core: tuple[int, ...] = ()
        if leaf != there:
            base = 4 * ports
            core = (base + 2 * (leaf * spines + spine), base + 2 * (there * spines + spine) + 1)
        return source, ports + source, *core, 2 * ports + target, 3 * ports + target


def wires(ports: int, rails: int, spines: int, rate: float) -> Wires:
    leaves = -(-ports // rails // PER_LEAF) * rails
    capacities = [PCIE] * ports + [NIC] * 2 * ports + [PCIE] * ports + [rate] * (2 * leaves * spines)
    return Wires(ports, capacities, rails, spines)


def rail_events_per_s(flows: int, events: int, anywhere: bool, seed: int) -> float:
    """Events a second of CPU time, after all GPUs have started once."""
    chance = random.Random(seed)
    nodes = flows // RAILS
    net = wires(nodes * RAILS, RAILS, SPINES, PER_LEAF * NIC / SPINES)

    def way(port: int) -> tuple[int, ...]:
        node = (chance.randrange(nodes - 1) if anywhere else 0) + 1 + port // RAILS
        return net.route(port, node % nodes * RAILS + port % RAILS, chance.randrange(SPINES))

    fluid = Fluid(net.capacities)
    ways = [way(port) for port in range(net.ports)]
    # Three ways of each port ahead of time, in turns: drawing them is no part of what is measured.
    coming = [[way(port) for _ in range(3)] if anywhere else [ways[port]] for port in range(net.ports)]
    sizes = [chance.uniform(1e6, 1e8) for _ in range(events // 2 + flows)]
    port_of = {fluid.start(route, sizes.pop()): port for port, route in enumerate(ways)}
    end_s = fluid.next_end_s
    begin, done = time.process_time(), 0
    while done < events // 2:
        for number in fluid.advance(end_s):
            port = port_of.pop(number)
            port_of[fluid.start(coming[port][done % len(coming[port])], sizes[done % len(sizes)])] = port
            done += 1
        end_s = fluid.next_end_s
    return 2 * done / (time.process_time() - begin)


def random_flows(flows: int, seed: int) -> tuple[list[float], list[tuple[int, ...]], list[float]]:
    chance = random.Random(seed)
    net = wires(flows, 1, 16, 2 * NIC)
    ways = []
    for _ in range(flows):
        source, target = chance.sample(range(flows), 2)
        ways.append(net.route(source, target, chance.randrange(16)))
    return net.capacities, ways, [chance.uniform(1e6, 1e9) for _ in range(flows)]


def drained(flows: int, tolerance: float, seed: int) -> tuple[float, Any]:
    """CPU seconds to drain, and the ends."""
    problem = random_flows(flows, seed)
    begin = time.process_time()
    ends = drain(*problem, tolerance=tolerance)
    return time.process_time() - begin, ends


def measure(flows: int, events: int, exact: int, repeats: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"ring": [], "random": []}
    seconds: dict[str, list[float]] = {"batched": [], "exact": []}
    for repeat in range(repeats):
        for name, found in rates.items():
            found.append(rail_events_per_s(flows, events, name == "random", repeat))
        seconds["batched"].append(drained(flows, 0.01, repeat)[0])
        seconds["exact"].append(drained(flows, 0.0, repeat)[0])
    errors = []
    for seed in range(repeats):
        expected, found = (drained(exact, tolerance, seed)[1] for tolerance in (0.0, 0.01))
        errors.append((abs(found.max() / expected.max() - 1), np.abs(found - expected).mean() / expected.mean()))
    return {
        "schema_version": "1.0",
        "clock": "CPU time",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "repeats": repeats,
        "flows": flows,
        "events": events,
        "rail_events_per_s": {
            name: {"median": statistics.median(found), "min": min(found), "max": max(found)}
            for name, found in rates.items()
        },
        "random_drain_s": {
            name: {"median": statistics.median(found), "min": min(found), "max": max(found)}
            for name, found in seconds.items()
        },
        "batched_error": {
            "flows": exact,
            "makespan": max(makespan for makespan, _ in errors),
            "mean_of_ends": max(float(mean) for _, mean in errors),
        },
    }


def print_table(figures: dict[str, Any]) -> None:
    print(f"{figures['flows']} flows, median of {figures['repeats']} (least to most), CPU time")
    for name, found in figures["rail_events_per_s"].items():
        spread = f"({found['min'] / 1e3:.0f} to {found['max'] / 1e3:.0f})"
        print(f"  rails, {name:8} {found['median'] / 1e3:8.0f} thousand events/s {spread}")
    for name, found in figures["random_drain_s"].items():
        print(f"  drain, {name:8} {found['median']:8.2f} s ({found['min']:.2f} to {found['max']:.2f})")
    error = figures["batched_error"]
    print(
        f"  batches are off by {error['makespan']:.2%} of the makespan and {error['mean_of_ends']:.2%} of the mean end "
        f"({error['flows']} flows)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, or to the terminal with -")
    parser.add_argument("--flows", type=positive, default=16000, help="flows at a time (default 16000)")
    parser.add_argument("--events", type=positive, default=128000, help="starts and ends on rails (default 128000)")
    parser.add_argument("--exact", type=positive, default=2048, help="flows for the error of batches (default 2048)")
    parser.add_argument("--repeats", type=positive, default=3, help="repeats of each measurement (default 3)")
    arguments = parser.parse_args()
    if arguments.flows < 2 * RAILS:
        parser.error(f"--flows {arguments.flows}: at least {2 * RAILS}, two nodes of {RAILS}")
    figures = measure(arguments.flows, arguments.events, arguments.exact, arguments.repeats)
    deliver(figures, arguments.json, print_table)


if __name__ == "__main__":
    main()
