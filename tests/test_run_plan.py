"""The plan of a run whose schedule plans by times: made for the run's own, the same for whoever asks."""

import pytest

from parsim.cost import LayerTable, RooflineCost, UnitCost, parse_times
from parsim.errors import ScheduleError, SpecError
from parsim.memory import weight_share
from parsim.metrics import activation_peaks
from parsim.plan import Plan, add_gradient_reduction, add_optimizer_step, check
from parsim.run_plan import plan_of
from parsim.schedule_result import play_schedule
from parsim.schedules import build
from parsim.simulation import simulate
from parsim.spec import Run, run_from_document

SMALL = {"name": "small", "layers": 16, "hidden": 2048, "heads": 16, "ffn": 8192, "vocab": 32000, "gated_mlp": False}


def make_run(microbatches: int = 16, precision: str = "bf16", **layout: object) -> Run:
    document = {
        "model": SMALL,
        "cluster": "dgx-h100",
        "layout": {"mesh": {"pp": 4}, "schedule": "zb-auto", "precision": precision, **layout},
        "batch": {"sequence_length": 1024, "global_batch_size": microbatches},
        "software": {"attention": "unfused", "attention_dropout": 0.1, "hidden_dropout": 0.1},
    }
    return run_from_document(document)


def whole(plan: Plan) -> Plan:
    return add_optimizer_step(add_gradient_reduction(plan))


@pytest.mark.parametrize("limit", [None, 3, 5.5, 8])
def test_a_run_is_planned_by_the_times_of_its_stages(limit: float | None) -> None:
    run = make_run(activation_limit_stages=limit)
    plan = plan_of(run)
    check(plan)
    options = {} if limit is None else {"activation_limit_stages": limit}
    expected = build(
        "zb-auto",
        4,
        16,
        timing=lambda placement: RooflineCost(run, placement),
        weight_share=weight_share(run),
        **options,
    )
    assert plan == whole(expected)
    assert plan_of(run) == plan


def test_a_run_is_no_slower_than_with_the_named_schedules() -> None:
    steps = {name: simulate(make_run(schedule=name)).step_time_s for name in ("1f1b", "zb-h1", "zb-auto")}
    assert steps["zb-auto"] <= min(steps["1f1b"], steps["zb-h1"]) * (1 + 1e-9)


def test_other_times_make_another_plan() -> None:
    """Measured times go before the roofline's; a schedule that plans by no times does not ask for them."""
    run = make_run(activation_limit_stages=8)
    short_weight = parse_times("F=1,I=1.1,W=0.4,P2P=0.1")
    plan = plan_of(run, timing=lambda placement: short_weight)
    assert plan != plan_of(run, timing=lambda placement: UnitCost())
    for other in (plan_of(run), plan_of(run, timing=lambda placement: UnitCost())):
        assert play_schedule(plan, short_weight).bubble.of_span <= play_schedule(other, short_weight).bubble.of_span

    class NotAsked(UnitCost):
        def time(self, name: str, stage: int) -> float:
            raise AssertionError("1f1b asked for a time")

    plain = make_run(schedule="1f1b")
    assert plan_of(plain, timing=lambda placement: NotAsked()) == plan_of(plain)


def test_a_run_is_planned_by_what_plays_it() -> None:
    """Kernels measured elsewhere change the order of an automatic schedule, which is no slower at them."""
    run = make_run(activation_limit_stages=6)
    roofline = RooflineCost(run, plan_of(run).placement)
    by_shape = {shape: 2e-3 if shape.name == "attention" else 1e-4 for shape in roofline.kernel_shapes}
    table = LayerTable(run.cluster.node.gpu.name, by_shape)
    found, usual = simulate(run, layers=table), simulate(run, plan=plan_of(run), layers=table)
    assert found.plan != usual.plan
    assert found.step_time_s <= usual.step_time_s
    assert simulate(run).plan == plan_of(run)


def test_a_run_that_nobody_can_price_is_planned_for_equal_times() -> None:
    run = make_run(precision="fp64")
    with pytest.raises(SpecError):
        simulate(run)
    assert plan_of(run) == whole(build("zb-auto", 4, 16, weight_share=weight_share(run)))


def test_what_the_weight_gradient_keeps() -> None:
    """32h of 34h + 5as, a heads and s tokens; without the s x s scores nearly all; all of it with recomputation."""
    heads, hidden, tokens = 16, 2048, 1024
    assert weight_share(make_run()) == pytest.approx(32 * hidden / (34 * hidden + 5 * heads * tokens))
    flash = make_run().changed(software=make_run().software.model_copy(update={"attention": "flash2"}))
    assert 0.8 < weight_share(flash) <= 1
    assert weight_share(make_run(recompute="full")) == 1
    peaks = activation_peaks(plan_of(make_run(recompute="full", activation_limit_stages=3)))
    assert max(peaks) == 3


def test_a_limit_that_does_nothing_is_refused() -> None:
    with pytest.raises(ScheduleError, match="zb-h1 has no option 'activation_limit_stages'"):
        plan_of(make_run(schedule="zb-h1", activation_limit_stages=4))


@pytest.mark.parametrize("limit", [0.5, 0, -1, float("nan"), float("inf"), "8", True])
def test_impossible_limits_are_refused(limit: object) -> None:
    with pytest.raises(SpecError, match=r"activation_limit_stages"):
        make_run(activation_limit_stages=limit)
