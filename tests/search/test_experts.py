"""Searches of models with experts, fp8 and FSDP: what is found is what `simulate` says of the run, time and memory."""

from typing import Any

import pytest

from parsim.memory import memory_of
from parsim.run_plan import plan_of
from parsim.search import SearchResult, search
from parsim.search.finalists import run_of_entry
from parsim.simulation import simulate
from parsim.spec.load import search_from_document


def found(model: str, nodes: int, sequences: int, **space: Any) -> SearchResult:
    document = {
        "name": f"some-{model}",
        "model": model,
        "cluster": {"name": "dgx-h100", "nodes": nodes},
        "batch": {"sequence_length": 4096, "global_batch_size": sequences},
        "space": space,
    }
    return search(search_from_document(document), top=4, contention=0)


def check(result: SearchResult) -> None:
    """Every layout of the list as `simulate` plays it."""
    assert result.certified
    assert result.top
    for entry in result.top:
        run, unsaid = run_of_entry(result.scope, entry)
        assert not unsaid
        scale = result.scope.batch.global_batch_size / entry.shape.mesh.sequences
        assert entry.step_s == pytest.approx(simulate(run).step_time_s * scale, rel=1e-9)
        peak = max(rank.peak_bytes for rank in memory_of(run, plan_of(run)))
        assert entry.found.peak_bytes == pytest.approx(peak, rel=1e-9)


@pytest.mark.parametrize(
    "space",
    [
        # Experts behind tp sum by sequence parallelism alone: an all-reduce is refused, not a crash.
        {"tp": [1, 2], "pp": [1, 2], "zero": 1, "tp_comm": ["all_reduce", "sequence_parallel"], "micro_batch_size": 1},
        {"tp": 2, "pp": [2, 4], "zero": [1, 2], "expert_tp": [1, 2], "schedule": ["zb-v"], "recompute": "full"},
        {"tp": [1, 2], "pp": 1, "zero": [2, 3], "precision": ["bf16", "fp8"], "micro_batch_size": 1},
        {"tp": 2, "pp": 4, "zero": 3, "precision": "fp8", "schedule": "1f1b", "micro_batch_size": [1, 2]},
    ],
)
def test_mixtral(space: dict[str, Any]) -> None:
    check(found("mixtral-8x7b", 4, 64, ep=[4, 8], **space))


def test_qwen3_in_fp8() -> None:
    check(found("qwen3-30b-a3b", 2, 32, tp=[1, 2], ep=8, zero=[1, 3], precision=["bf16", "fp8"], micro_batch_size=1))


def test_deepseek() -> None:
    space = {"tp": 1, "ep": 64, "pp": 8, "schedule": ["1f1b", "zb-v"], "zero": 1, "precision": ["bf16", "fp8"]}
    check(found("deepseek-v3", 64, 512, micro_batch_size=1, split=["even", "balanced"], **space))


def test_a_space_of_refused_layouts_alone_is_told() -> None:
    result = found("mixtral-8x7b", 4, 64, tp=2, ep=8, pp=1, tp_comm="all_reduce", micro_batch_size=1)
    assert result.best is None
    assert set(result.document()["removed"]) == {"layout.sequence_parallel"}
