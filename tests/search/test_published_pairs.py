"""The faster of two published layouts of one job, by the search's own times: those of `simulate`."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parsim.search import search
from parsim.simulation import simulate
from parsim.spec import Run
from parsim.spec.load import search_from_document

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published"


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(PUBLISHED))
    yield importlib.import_module("records")
    sys.modules.pop("records", None)


def space_of(run: Run) -> dict[str, Any]:
    """The space that holds a run's layout alone."""
    layout, mesh = run.layout, run.layout.mesh
    return {
        **{axis: getattr(mesh, axis) for axis in ("tp", "cp", "pp", "dp")},
        "schedule": layout.schedule if mesh.pp > 1 else "1f1b",
        "stages_per_rank": {"values": [layout.stages_per_rank]} if layout.stages_per_rank else "all",
        "split": [layout.split],
        "micro_batch_size": layout.micro_batch_size,
        "recompute": [layout.recompute.model_dump(mode="json")],
        "tp_comm": "sequence_parallel" if layout.sequence_parallel else "all_reduce",
        "zero": layout.zero_stage,
        "dp_overlap": run.software.dp_overlap,
        "tp_overlap": run.software.tp_overlap,
        "precision": layout.precision,
    }


def searched(run: Run) -> float:
    document = run.document()
    kept = {name: document[name] for name in ("name", "model", "cluster", "network", "batch", "software")}
    found = search(search_from_document(kept | {"space": space_of(run), "reserve_bytes": 1}), top=1, contention=0)
    assert found.best is not None
    return found.best.step_s


@pytest.mark.parametrize(
    ("faster", "slower"),
    [("korth-t5-22b-selective-sp", "korth-t5-22b-full"), ("zb-t4-1.5b-1f1b-i-m24", "zb-t4-1.5b-1f1b-m24")],
)
def test_picks_the_faster_of_two_published_layouts(records: Any, faster: str, slower: str) -> None:
    by_id = {record["id"]: record for record in records.read_records(records.DATA)}
    runs = [records.run_of(records.facts_of(by_id[name])) for name in (faster, slower)]
    times = [searched(run) for run in runs]
    assert times == pytest.approx([simulate(run).step_time_s for run in runs], rel=1e-9)
    assert times[0] < times[1]
