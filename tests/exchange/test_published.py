"""Every published run of Megatron-LM, torchtitan or DeepSpeed can be written as that tool's file, and read back."""

import importlib.util
import sys
from pathlib import Path

import pytest

from parsim.errors import ParsimError
from parsim.exchange import export
from parsim.spec import Run
from tests.exchange.test_round_trips import back, unspoken

FOLDER = Path(__file__).parents[2] / "benchmarks" / "published"
TOOL_OF = {
    "megatron-core": "megatron",
    "megatron-2021": "megatron",
    "megatron-2022": "megatron",
    "megatron-2023": "megatron",
    "zero-bubble-megatron": "megatron",
    "megascale": "megatron",
    "torchtitan": "torchtitan",
    "deepspeed-zero3-2021": "deepspeed",
}


def published() -> dict[str, list[tuple[str, Run]]]:
    """Runs of the published records by tool, each with its id; records that describe no run are none."""
    name = "published_records_for_exchange"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "records.py")
    assert spec is not None
    assert spec.loader is not None
    records = importlib.util.module_from_spec(spec)
    sys.modules[name] = records
    spec.loader.exec_module(records)
    found: dict[str, list[tuple[str, Run]]] = {}
    for record in records.read_records(FOLDER / "published.yaml"):
        tool = TOOL_OF.get(record["software"]["framework"])
        if tool is not None:
            try:
                found.setdefault(tool, []).append((record["id"], records.run_of(records.facts_of(record))))
            except ParsimError:
                continue
    return found


@pytest.fixture(scope="module")
def runs() -> dict[str, list[tuple[str, Run]]]:
    return published()


@pytest.mark.parametrize(("tool", "least"), [("megatron", 370), ("torchtitan", 20), ("deepspeed", 4)])
def test_published_runs_are_written_and_read_back(
    tool: str, least: int, runs: dict[str, list[tuple[str, Run]]], tmp_path: Path
) -> None:
    assert len(runs[tool]) >= least
    for name, run in runs[tool]:
        exported = export(run, tool)
        assert unspoken(run, back(exported, tool, run, tmp_path), exported) == {}, name
