"""A small run as plain values, and the one line that a refused one must be."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from parsim.errors import SpecError
from parsim.spec import Run, run_from_document

SMALL: dict[str, Any] = {
    "model": {"name": "small", "layers": 8, "hidden": 64, "heads": 8, "kv_heads": 4, "ffn": 128, "vocab": 1000},
    "cluster": {"name": "dgx-h100", "nodes": 2},
    "layout": {"mesh": {"tp": 2, "dp": 2, "pp": 4}},
    "batch": {"sequence_length": 128, "global_batch_size": 16},
}


@pytest.fixture
def small() -> dict[str, Any]:
    return deepcopy(SMALL)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture
def make() -> Callable[..., Run]:
    def build(*overrides: str) -> Run:
        return run_from_document(deepcopy(SMALL), overrides=overrides)

    return build


@pytest.fixture
def refusal() -> Callable[..., str]:
    """The message of the SpecError that a call raises: one line, no traceback in it."""

    def refused(call: Callable[[], object], kind: type[SpecError] = SpecError) -> str:
        with pytest.raises(kind) as caught:
            call()
        message = str(caught.value)
        assert message
        assert "\n" not in message
        assert "Traceback" not in message
        assert "pydantic" not in message
        assert len(message) < 700
        return message

    return refused
