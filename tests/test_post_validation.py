"""Zero bubble with the optimizer checked afterwards: no barrier ends the step, and what is told of it still adds up."""

from typing import Any

import pytest

from parsim.errors import SpecError
from parsim.simulation import simulate
from parsim.spec import Run, run_from_document


def run_of(schedule: str, validated_later: bool, **layout: Any) -> Run:
    return run_from_document(
        {
            "model": {"name": "m", "layers": 22, "hidden": 4096, "heads": 32, "ffn": 16384, "vocab": 51200},
            "cluster": {"name": "dgx-a100", "nodes": 1},
            "layout": {"mesh": {"pp": 8}, "schedule": schedule, "split": [2, 3, 3, 3, 3, 3, 3, 2], **layout},
            "batch": {"sequence_length": 2048, "global_batch_size": 24},
            "software": {"post_validation": validated_later},
        }
    )


@pytest.mark.parametrize(
    ("schedule", "layout"), [("zb-auto", {"activation_limit_stages": 16.0}), ("zb-h1", {}), ("zb-h2", {}), ("1f1b", {})]
)
def test_a_step_without_a_barrier_is_shorter_and_adds_up(schedule: str, layout: dict[str, Any]) -> None:
    waited, ran_on = (simulate(run_of(schedule, flag, **layout)) for flag in (False, True))
    assert max(row.busy_s for row in ran_on.rows) * (1 - 1e-12) <= ran_on.step_time_s <= waited.step_time_s
    assert ran_on.timeline.makespan_s == waited.step_time_s
    assert ran_on.compute_s + sum(ran_on.exposed_s.values()) == pytest.approx(ran_on.step_time_s)
    assert ran_on.exposed_s["pipeline"] <= waited.exposed_s["pipeline"]
    assert ran_on.bubble.over_ideal == pytest.approx(ran_on.step_time_s / ran_on.bubble.ideal - 1)
    assert any("post-validation" in warning for warning in ran_on.warnings)
    assert not any("post-validation" in warning for warning in waited.warnings)


def test_a_zero_bubble_gains_what_its_slanted_ends_would_wait() -> None:
    """ZB-H2 ends rank by rank, 1F1B's first rank ends last: only the first gains much of the barrier's absence."""
    gains = {}
    for schedule in ("zb-h2", "1f1b"):
        waited, ran_on = (simulate(run_of(schedule, flag)) for flag in (False, True))
        gains[schedule] = 1 - ran_on.step_time_s / waited.step_time_s
    assert gains["zb-h2"] > 0.02
    assert gains["1f1b"] < 0.5 * gains["zb-h2"]


@pytest.mark.parametrize("asked", [{"contention": True}, {"jitter": 0.1}, {"slow_ranks": {1: 1.5}}])
def test_what_no_one_can_tell_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="post_validation false"):
        simulate(run_of("zb-h1", True), **asked)


def test_replicas_that_are_alike_may_be_told_apart() -> None:
    assert simulate(run_of("zb-h1", True), every_rank=True, steps=2).step_time_s == pytest.approx(
        simulate(run_of("zb-h1", True)).step_time_s
    )
