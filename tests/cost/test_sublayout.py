"""Layouts that share what a layer reads share its prices, and never those of another layout."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cost import RooflineCost
from parsim.cost.layer_segments import layer_segments
from parsim.cost.stage import stage_segments
from parsim.cost.stage_prices import StagePrices, stage_prices
from parsim.errors import LayoutError
from parsim.plan import Kind, Op, Slot, straight
from parsim.spec import ModelSpec, MoeSpec, Run

MakeRun = Callable[..., Run]
EXPERTS = ModelSpec(
    name="m", layers=8, hidden=4096, heads=32, ffn=8192, vocab=32000, moe=MoeSpec(experts=64, topk=4, expert_ffn=1536)
)
KINDS = (Kind.F, Kind.B, Kind.I, Kind.W, Kind.REDUCE_GRAD, Kind.STEP)


def forget() -> None:
    for remembered in (layer_segments, stage_segments, stage_prices):
        remembered.cache_clear()


def times(run: Run) -> list[float]:
    stages = run.layout.mesh.pp
    cost = RooflineCost(run, straight(stages))
    found = [cost.seconds(Slot(Op(stage, kind, 0))) for stage in range(stages) for kind in KINDS]
    return found + [cost.hop_seconds(stage, stage + 1) for stage in range(stages - 1)]


def shared(run: Run) -> StagePrices:
    cost = RooflineCost(run, straight(run.layout.mesh.pp))
    cost.seconds(Slot(Op(0, Kind.F, 0)))
    return cost._stages


CHANGES: list[dict[str, Any]] = [
    {"mesh": {"tp": 4, "dp": 1, "pp": 2}},
    {"mesh": {"tp": 2, "cp": 2, "dp": 2, "pp": 2}},
    {"mesh": {"tp": 2, "dp": 8, "pp": 1}},
    {"micro_batch_size": 2},
    {"recompute": "full"},
    {"recompute": {"mode": "selective", "modules": ["layernorm"]}},
    {"recompute": {"mode": "selective", "modules": ["core_attn"]}},
    {"sequence_parallel": True},
    {"zero": 1},
    {"zero": 2},
    {"fsdp": True, "mesh": {"tp": 2, "dp": 8, "pp": 1}},
    {"fsdp": True, "mesh": {"tp": 2, "dp": 8, "pp": 1}, "reshard_after_forward": False},
    {"precision": "fp8"},
    {"gpu": "a100-80g-sxm"},
    {"sequence": 4096},
    {"microbatches": 16},
    {"software": {"tp_overlap": "te_userbuffers"}},
    {"software": {"dp_overlap": False}},
    {"software": {"hidden_dropout": 0.1, "ops": "eager"}},
    {"software": {"cuda_graphs": "full"}},
    {"model": EXPERTS, "sequence_parallel": True, "ep": 4},
    {"model": EXPERTS, "sequence_parallel": True, "ep": 4, "schedule": "dualpipe"},
    {"model": EXPERTS, "sequence_parallel": True, "ep": 4, "software": {"ep_overlap": True}},
    {"model": EXPERTS, "sequence_parallel": True, "ep": 4, "expert_tp": 2},
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(CHANGES), min_size=2, max_size=3, unique_by=str))
def test_a_price_does_not_depend_on_what_was_priced_before(make_run: MakeRun, changes: list[dict[str, Any]]) -> None:
    runs = []
    for change in changes:
        try:
            runs.append(make_run(**{"mesh": {"tp": 2, "dp": 4, "pp": 2}, **change}))
        except LayoutError:
            continue
    alone = {}
    for index, run in enumerate(runs):
        forget()
        alone[index] = times(run)
    for order in permutations(range(len(runs))):
        forget()
        assert {index: times(runs[index]) for index in order} == alone


@pytest.mark.parametrize(
    "change",
    [
        {"mesh": {"tp": 2, "dp": 8, "pp": 2}},
        {"mesh": {"tp": 2, "dp": 1, "pp": 4}},
        {"zero": 1},
        {"schedule": "zb-h1"},
        {"microbatches": 32},
    ],
)
def test_cousins_share_the_prices_of_their_layers(make_run: MakeRun, change: dict[str, Any]) -> None:
    one, other = (make_run(**{"mesh": {"tp": 2, "dp": 4, "pp": 2}, **more}) for more in ({}, change))
    assert shared(one) is shared(other)
    assert shared(one) is not shared(make_run(mesh={"tp": 2, "dp": 4, "pp": 2}, micro_batch_size=2))


def test_casts_of_weights_are_shared_by_the_microbatches_of_a_step(make_run: MakeRun) -> None:
    few, many = (make_run(mesh={"dp": 8}, precision="fp8", microbatches=count) for count in (8, 16))
    assert shared(few) is not shared(many)
    assert times(few)[0] > times(many)[0]
