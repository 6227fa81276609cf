"""The executor's tests need torch, the extra [run]; without it they are left out, and pytest says so."""

from importlib.util import find_spec

import pytest

HAS_TORCH = find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["test_*.py"]


if HAS_TORCH:
    import torch

    torch.set_num_threads(1)  # small tensors: more threads would only get in the ranks' way


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if HAS_TORCH else "tests/executor: left out, torch is not installed (extra [run])"
