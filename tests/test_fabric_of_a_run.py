"""The same run on other fabrics, and by its user's own measurements: the answer follows, in the right direction."""

import pytest

from parsim.network.calibration import Calibrations, Measurement
from parsim.network.estimate import estimate
from parsim.network.reach import reach_of_size
from parsim.simulation import simulate
from parsim.spec import load_run
from parsim.step_result import StepResult

UNITS = "cluster.fabric.tiers=[{name: unit, nodes: 4, oversubscription: %s}]"


def step(*overrides: str, name: str = "llama3-70b-64") -> StepResult:
    return simulate(load_run(name, overrides))


def test_a_fabric_that_blocks_takes_longer() -> None:
    even, blocking = step(UNITS % 1.0), step(UNITS % 4.0)
    assert even.step_time_s < blocking.step_time_s < 1.2 * even.step_time_s
    assert even.groups["pp"]["blocking_tier"] is None
    assert blocking.groups["pp"]["blocking_tier"] == "unit"


def test_rails_pass_fewer_switches_than_a_plain_tree() -> None:
    rails, plain = (step(f"cluster.fabric.topology={name}") for name in ("rail_optimised", "fat_tree"))
    assert rails.step_time_s < plain.step_time_s


def test_a_rack_of_72_hides_what_a_node_of_8_cannot() -> None:
    wide = "layout.mesh={tp: 16, cp: 1, dp: 8, pp: 4}"
    rack = ("cluster.node.nvlink_domain=64",)
    node, domain = step(wide), step(wide, *rack)
    assert domain.step_time_s < node.step_time_s
    assert domain.groups["tp"]["nvlink_domains"] == 1
    assert node.groups["tp"]["nvlink_domains"] == 2


def test_a_log_goes_before_the_model() -> None:
    run = load_run("llama3-70b-64")
    node = reach_of_size(run.cluster, 1)
    sizes = [2.0**power for power in range(10, 34)]

    def log(factor: float) -> Calibrations:
        rows = [
            (Measurement(kind, size, factor * estimate(kind, size, node).seconds, 8, 1), node)
            for size in sizes
            for kind in ("all_gather", "reduce_scatter")
        ]
        return Calibrations.of(rows)

    same, slower = (simulate(run, correction=log(factor)) for factor in (1.0, 2.0))
    assert slower.exposed_s["tp"] == pytest.approx(2 * same.exposed_s["tp"], rel=0.02)
    assert slower.exposed_s["pipeline"] < 1.5 * same.exposed_s["pipeline"]
    assert "network.collectives" in slower.evidence["calibrated"]
    assert "calibrated" not in simulate(run).evidence


def test_groups_of_a_run_partition_its_ranks() -> None:
    result = step()
    for axis, group in result.groups.items():
        assert group["groups"] * group["ranks"] == result.run.ranks, axis
    assert result.document()["process_groups"]["dp"]["ranks"] == 16
