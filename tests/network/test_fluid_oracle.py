"""The oracle: SimGrid, which shares links max-min fairly too, ends the same flows at the same times.

Debian's python3-simgrid belongs to the system's interpreter, so it is played there, in a process with a deadline. Its
TCP factors are off: plain max-min is left.
"""

import json
import random
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from parsim.network.drain import drain

INTERPRETER = "/usr/bin/python3"
PLAYER = """
import json, sys
from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone
given = json.load(sys.stdin)
settings = {
    "network/model": "CM02", "network/TCP-gamma": 0, "network/crosstraffic": 0, "network/weight-S": 0,
    "network/latency-factor": 1, "network/bandwidth-factor": 1, "maxmin/precision": 1e-9, "surf/precision": 1e-12,
}
engine = Engine(["oracle", "--log=root.thres:critical", *[f"--cfg={key}:{value}" for key, value in settings.items()]])
zone = NetZone.create_full_zone("zone")
links = [zone.create_link(str(index), [rate]).seal() for index, rate in enumerate(given["capacities"])]
ways = []
for index, route in enumerate(given["routes"]):
    ways.append([zone.create_host(f"{end}{index}", 1e9).seal() for end in ("from", "to")])
    ends = [host.netpoint for host in ways[-1]]
    zone.add_route(*ends, None, None, [LinkInRoute(links[link]) for link in route], False)
zone.seal()
found = []
def play():
    flows = [Comm.sendto_async(*way, size) for way, size in zip(ways, given["sizes"])]
    Comm.wait_all(flows)
    found.extend(flow.finish_time for flow in flows)
Actor.create("all", ways[0][0], play)
engine.run()
print("ENDS", json.dumps(found))
"""


class Pattern(NamedTuple):
    capacities: list[float]
    routes: list[tuple[int, ...]]
    sizes: list[int]


@cache
def has_simgrid() -> bool:
    if not Path(INTERPRETER).exists():
        return False
    asked = [INTERPRETER, "-c", "import simgrid"]
    return subprocess.run(asked, capture_output=True, timeout=30, check=False).returncode == 0


def simgrid_ends(pattern: Pattern) -> list[float]:
    done = subprocess.run(
        [INTERPRETER, "-c", PLAYER],
        input=json.dumps(pattern._asdict()),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("ENDS"))
    return list(json.loads(line.removeprefix("ENDS")))


def rail(seed: int) -> Pattern:
    """GPU i of a node to GPU i of another: NIC up, leaf down, on rails; some leaves are apart and joined by spines."""
    chance = random.Random(seed)
    nodes, rails, spines = 24, 4, 2
    ports = nodes * rails
    groups = 3  # leaf switches of a rail
    capacities = [50e9] * (2 * ports) + [150e9] * (2 * rails * groups * spines)

    def up(rail: int, leaf: int, spine: int) -> int:
        return 2 * ports + ((rail * groups + leaf) * spines + spine) * 2

    routes = []
    for node in range(nodes):
        for number in range(rails):
            for _ in range(2):
                other = chance.choice([each for each in range(nodes) if each != node])
                leaf, there = node % groups, other % groups
                spine = chance.randrange(spines)
                core = [] if leaf == there else [up(number, leaf, spine), up(number, there, spine) + 1]
                routes.append((node * rails + number, *core, ports + other * rails + number))
    return Pattern(capacities, routes, [chance.randrange(10**6, 10**9) for _ in routes])


def scattered(seed: int) -> Pattern:
    """Any links in any order, of capacities that are nothing alike."""
    chance = random.Random(seed)
    capacities = [chance.uniform(1e9, 1e11) for _ in range(60)]
    routes = [tuple(chance.sample(range(60), chance.randint(1, 6))) for _ in range(200)]
    return Pattern(capacities, routes, [chance.randrange(10**6, 10**10) for _ in routes])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("pattern_of", [rail, scattered])
def test_ends_are_those_of_simgrid(pattern_of: Callable[[int], Pattern], seed: int) -> None:
    if not has_simgrid():
        pytest.skip(f"{INTERPRETER} has no simgrid (Debian: python3-simgrid)")
    pattern = pattern_of(seed)
    expected = simgrid_ends(pattern)
    found = drain(pattern.capacities, pattern.routes, pattern.sizes)
    assert found.max() == pytest.approx(max(expected), rel=1e-6)
    assert np.allclose(found, expected, rtol=1e-6, atol=0)
