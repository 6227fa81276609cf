"""A step under FSDP2: the fake walk of one rank against real ranks, and against the ledger."""

from typing import Any

import pytest

from executor.fsdp_walk import fake_walk, real_walks
from executor.launch import launch
from parsim.errors import LayoutError
from parsim.memory import memory_of
from parsim.model.weights import model_weights
from parsim.run_plan import plan_of
from parsim.spec import Run, load_run

RANKS = 2
MODEL = {"name": "small", "layers": 4, "hidden": 128, "heads": 4, "kv_heads": 2, "ffn": 320, "vocab": 500}


def run_of(root: str = "stays", **layout: Any) -> Run:
    stated = {"mesh": {"dp": RANKS}, "fsdp": True, "micro_batch_size": 2, "precision": "bf16", **layout}
    return Run.model_validate(
        {
            "model": MODEL,
            "cluster": {**load_run("tiny-local").document()["cluster"], "nodes": None},
            "layout": stated,
            "software": {"framework": "pytorch-cpu", "fsdp_root": root},
            "batch": {"sequence_length": 512, "global_batch_size": 4},
        }
    )


RUNS = tuple(
    run_of(root, reshard_after_forward=reshard, recompute=recompute)
    for reshard, recompute in ((True, "none"), (True, "full"), (False, "full"))
    for root in ("stays", "reshards")
)


def test_what_a_fake_rank_holds_is_what_real_ones_hold() -> None:
    """Gathered weights too: they are not missed, though FSDP resizes their storages. With many tokens the peak is in
    the loss, where gloo holds no copies of its own (its reduce-scatter copies what it is given).
    """
    assert launch(real_walks, RUNS, RANKS) == [[fake_walk(run) for run in RUNS]] * RANKS


@pytest.mark.parametrize("run", RUNS)
def test_the_ledger_counts_what_is_walked(run: Run) -> None:
    (memory,) = memory_of(run, plan_of(run))
    assert memory.peak_bytes == pytest.approx(fake_walk(run).peak_bytes, rel=0.05)


def test_weights_that_stay_whole_are_seen() -> None:
    layers = 4 * (128 * (128 + 2 * 64 + 128) + 3 * 128 * 320 + 2 * 128)
    root = 2 * 500 * 128 + 128
    resharded = fake_walk(run_of("reshards"))
    assert fake_walk(run_of()).peak_bytes - resharded.peak_bytes == 2 * root
    whole = fake_walk(run_of("reshards", reshard_after_forward=False))
    assert whole.peak_bytes - resharded.peak_bytes == 2 * (root + layers)
    steps = 4 * len(model_weights(run_of().model))  # AdamW counts them for each weight
    assert resharded.held_bytes == 12 * (root + layers) / RANKS + steps


def test_what_fsdp_alone_cannot_play() -> None:
    with pytest.raises(LayoutError, match="fsdp on dp ranks would do"):
        fake_walk(run_of(fsdp=False))
