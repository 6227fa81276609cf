"""Tables made from the papers' rules by an independent implementation, cell for cell."""

import re
from pathlib import Path

import pytest

from parsim.plan import parse_csv, write_csv
from parsim.schedules import build, names

TABLES = sorted((Path(__file__).parent / "reference").glob("*.csv"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_equals_the_reference_table(path: Path) -> None:
    name, pp, m, v = re.fullmatch(r"(.+)_p(\d+)_m(\d+)_v(\d+)", path.stem).groups()
    plan = build(name, int(pp), int(m), int(v))
    ours, theirs = write_csv(plan).splitlines(), path.read_text().splitlines()
    for rank, (row, reference) in enumerate(zip(ours, theirs, strict=True)):
        assert row == reference, f"rank {rank}"
    assert parse_csv(path.read_text(), name) == plan


def test_every_schedule_has_a_reference_table() -> None:
    assert {path.stem.split("_p")[0] for path in TABLES} == set(names())
