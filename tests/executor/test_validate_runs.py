"""The runs of benchmarks/validate: they load, simulate, fit their GPUs, and the executor takes them."""

from pathlib import Path

import pytest

from executor.job import job_of
from executor.validate_command import compared_run
from parsim.simulation import simulate
from parsim.spec import load_run

FOLDER = Path(__file__).parents[2] / "benchmarks" / "validate"
RUNS = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_can_be_validated(path: Path) -> None:
    run = load_run(str(path))
    assert run.ranks == (32 if path.stem.startswith("nodes-") else 8)
    result = simulate(run)
    assert result.fits
    assert not result.warnings
    assert job_of(run).ranks == run.ranks
    assert job_of(compared_run(run)).plan.orders == job_of(run).plan.orders


def test_the_readme_names_every_run() -> None:
    text = (FOLDER / "README.md").read_text()
    assert len(RUNS) >= 8
    assert all(f"`{path.stem}`" in text for path in RUNS)
