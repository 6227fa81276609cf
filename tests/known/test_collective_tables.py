"""Published nccl-tests tables: what the bundled curves were fitted to, and how near they come."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from parsim.spec.fabric_times import load_fabric_times

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "collectives"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, Any]]:
    """The benchmark's modules, and what they read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARK))
        found: dict[str, Any] = {name: importlib.import_module(name) for name in ("tables", "fit", "score")}
        yield {**found, "read": found["tables"].read_tables(BENCHMARK / "nccl_tests.yaml")}


def test_every_table_names_its_public_source() -> None:
    tables = yaml.safe_load((BENCHMARK / "nccl_tests.yaml").read_text())["tables"]
    assert len(tables) > 150
    assert len({table["id"] for table in tables}) == len(tables)
    assert all(str(table["source"]).startswith("https://") for table in tables)


def test_a_table_means_what_its_publisher_says(modules: dict[str, Any]) -> None:
    tables = {table.name: table for table in modules["read"]}
    two = tables["h100x16_ib400_issue309_ring"]
    assert (two.reach.ranks, two.reach.domains, two.reach.nics, two.reach.kind) == (16, 2, 8, "ib")
    assert two.reach.nic_bytes_per_s == 50e9
    assert two.algorithm == "ring"
    rack = tables["gb200x72_coreweave"]
    assert (rack.reach.ranks, rack.reach.domains, rack.reach.kind) == (72, 1, "nvlink5")
    old = tables["a100x8_alcf_polaris_nccl_2_18_all_reduce"]
    assert (old.reach.domains, old.reach.nics, old.reach.kind) == (2, 2, "slingshot")


def test_large_collectives_are_within_the_bands_that_the_readme_states(modules: dict[str, Any]) -> None:
    score = modules["score"]
    found = score.summary(score.plain(modules["read"]))
    assert found["bands"][">=64MiB"]["median"] <= 8
    assert found["bands"][">=64MiB"]["p90"] <= 30
    assert found["alltoall"]["nvlink"]["mean"] <= 10
    assert found["alltoall"]["ib"]["mean"] <= 20


def test_a_log_of_every_second_size_tells_the_others(modules: dict[str, Any]) -> None:
    score = modules["score"]
    found = score.summary(score.own_log(modules["read"]))["bands"]
    assert found[">=64MiB"]["mean"] <= 5
    assert found["1-64MiB"]["mean"] <= 12
    assert found["<1MiB"]["mean"] <= 20


def test_the_bundled_curves_are_those_that_the_fit_writes(modules: dict[str, Any]) -> None:
    fit = modules["fit"]
    found = fit.fit_all(fit.samples_of(modules["read"]))
    for name, times in found.items():
        bundled = load_fabric_times(name)
        assert times.evidence == bundled.evidence
        for curve, fitted in times.curves.items():
            assert fitted.us == pytest.approx(bundled.curves[curve].us, rel=0.02), (name, curve)
        assert times.per_byte == pytest.approx(dict(bundled.per_byte), rel=0.02)


def test_a_class_without_tables_says_that_it_is_assumed() -> None:
    assert load_fabric_times("tcp").evidence["all"].grade == "assumed"
    assert load_fabric_times("ib").evidence["all"].grade == "fitted"


def test_the_score_as_a_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK / "score.py"), "--json", "-"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = yaml.safe_load(done.stdout)
    assert set(found["bands"]) == {"<1MiB", "1-64MiB", ">=64MiB"}
    assert {"nvlink", "ib"} <= set(found["alltoall"])
    assert set(found["bands"]["<1MiB"]) == {"n", "mean", "median", "p90"}
    broken = tmp_path / "broken.yaml"
    broken.write_text("tables: [{id: a, rows: []}]")
    done = subprocess.run(
        [sys.executable, str(BENCHMARK / "score.py"), "--data", str(broken)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.startswith("error: ")
    assert "table a" in done.stderr
    assert len(done.stderr.splitlines()) == 1
