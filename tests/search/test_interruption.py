"""A search as a process, killed at random moments and resumed: the same bytes, and no process is left."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.search.conftest import document

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "search"


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARK))
    yield importlib.import_module("interrupt")
    sys.modules.pop("interrupt", None)


@pytest.mark.timeout(300)
def test_a_killed_search_goes_on_and_leaves_no_process(interrupt: Any, tmp_path: Path) -> None:
    """Two workers: killed with their parent, they end too, or the pipe that they inherit would not."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document(2, micro_batch_size=1, recompute="none")))
    found = interrupt.interrupted(path, kills=2, seed=1, deadline_s=120.0)
    assert found.kills == 2
    assert found.same
