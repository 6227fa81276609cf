"""The closed form of a peak against the replay, for every schedule, and the counts that it is made of."""

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from parsim.errors import ParsimError
from parsim.memory import holdings_of, memory_of, peak_bytes, profiles_of, replay
from parsim.memory.profile import NUMBERS
from parsim.metrics import activation_peaks
from parsim.plan import add_gradient_reduction, add_optimizer_step
from parsim.schedules import build, get, names
from parsim.spec import Run, run_from_document

MODEL = {"name": "m", "layers": 24, "hidden": 256, "heads": 8, "kv_heads": 8, "ffn": 512, "vocab": 1024}
EXPERTS = {**MODEL, "moe": {"experts": 8, "topk": 2, "expert_ffn": 128, "dense_layers": 3}, "mtp_layers": 1}
FRAMEWORKS = ("megatron-core", "zero-bubble-megatron", "torchtitan", "pytorch", "internevo")


def run_of(model: dict[str, Any], pp: int, m: int, framework: str, **layout: Any) -> Run:
    dp = 2
    return run_from_document(
        {
            "model": {**model, "tied_embeddings": False},
            "cluster": {"name": "dgx-h100", "nodes": -(-pp * dp // 8)},
            "layout": {"mesh": {"pp": pp, "dp": dp}, "split": "balanced", **layout},
            "batch": {"sequence_length": 1024, "global_batch_size": m * dp},
            "software": {"framework": framework, "attention": "unfused", "hidden_dropout": 0.1},
        }
    )


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(names()),
    st.integers(1, 6),
    st.integers(1, 24),
    st.integers(1, 3),
    st.sampled_from([MODEL, EXPERTS]),
    st.sampled_from(FRAMEWORKS),
    st.sampled_from(["none", "full", "selective", {"mode": "full", "layers": 3, "method": "block"}]),
)
def test_peaks_equal_the_replays(
    schedule: str, pp: int, m: int, v: int, model: dict[str, Any], framework: str, recompute: Any
) -> None:
    try:
        plan = add_optimizer_step(add_gradient_reduction(build(schedule, pp, m, v)))
        run = run_of(model, pp, m, framework, recompute=recompute)
        holdings = holdings_of(run, plan.placement)
    except ParsimError:
        assume(False)
        raise
    found = peak_bytes(profiles_of(plan), holdings)
    played = [replay(holding, order).peak_bytes for holding, order in zip(holdings, plan.orders, strict=True)]
    assert found == pytest.approx(played, rel=1e-12)


@pytest.mark.parametrize("schedule", names())
@pytest.mark.parametrize(("pp", "m"), [(2, 4), (4, 16), (8, 16)])
def test_rows_are_few_and_hold_what_is_in_flight(schedule: str, pp: int, m: int) -> None:
    """Activations of a stage and micro-batch from their F to B or W, at the most: as counted on the plan, and as the
    schedule's closed form says."""
    plan, chosen = build(schedule, pp, m), get(schedule)
    counted = activation_peaks(plan)
    for rank, profile in enumerate(profiles_of(plan)):
        rows = profile.made.reshape(-1, len(profile.stages), len(NUMBERS))
        in_flight = rows[:, :, :6].sum(axis=(1, 2)).max()
        assert in_flight == counted[rank]
        if chosen.peak_activations is not None:
            assert in_flight == chosen.peak_activations(pp, m, chosen.default_stages, rank)
        assert len(profile.made) <= 40 * len(profile.stages)


def test_a_profile_serves_every_run_of_its_plan() -> None:
    """More tokens, another model, other software: the rows are of the schedule."""
    plan = build("zb-h1", 4, 8)
    profiles = profiles_of(plan)
    for run in (
        run_of(MODEL, 4, 8, "megatron-core"),
        run_of(EXPERTS, 4, 8, "pytorch"),
        run_of(MODEL, 4, 4, "torchtitan", micro_batch_size=2),
    ):
        expected = [rank.peak_bytes for rank in memory_of(run, plan)]
        assert peak_bytes(profiles, holdings_of(run, plan.placement)) == pytest.approx(expected, rel=1e-12)
