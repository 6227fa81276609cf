"""Gradients and losses of real processes against a single one: every schedule, axes, precisions, models, plans."""

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from executor.job import Job, job_of
from executor.parity import Parity, parity_of
from executor.record import RunRecord
from executor.reference import Reference, reference
from executor.run_command import play_job
from parsim.plan import Kind, Op, Plan, Slot, check, parse_csv
from parsim.schedules import build, get, names
from parsim.spec import Run, load_run

STEPS = 3
LIMIT = {"fp64": 1e-10, "fp32": 1e-5, "bf16": 2e-2}
LLAMA = {"name": "llama", "layers": 8, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "vocab": 50}
GPT = {
    **{"name": "gpt", "layers": 8, "hidden": 32, "heads": 4, "ffn": 64, "vocab": 50, "gated_mlp": False},
    **{"norm": "layer", "tied_embeddings": True, "attention_bias": True, "output_bias": True, "mlp_bias": True},
    **{"positions": "learned", "max_positions": 32},
}


def run_of(
    schedule: str, pp: int, dp: int, microbatches: int, model: Any = None, software: Any = None, **layout: Any
) -> Run:
    base = load_run("tiny-local")
    document = base.document()
    stated = {"mesh": {"pp": pp, "dp": dp}, "schedule": schedule, "micro_batch_size": 2, "precision": "fp64", **layout}
    return Run.model_validate(
        {
            "model": model or LLAMA,
            "cluster": {**document["cluster"], "nodes": None},
            "layout": stated,
            "software": software or {},
            "batch": {"sequence_length": 12, "global_batch_size": 2 * microbatches * dp},
            "seed": 3,
        }
    )


@cache
def alone(run: Run) -> Reference:
    return reference(run, STEPS)


def parity(run: Run, plan: Plan | None = None, **options: Any) -> tuple[Parity, Reference]:
    """Play with real processes and compare. The single process does not care how the run is laid out."""
    job: Job = job_of(run, plan, steps=STEPS, warmup=0, keep_gradients=True, **options)
    record = play_job(job, hang_after_s=60.0)
    assert isinstance(record, RunRecord)
    expected = alone(run)
    arrays = {name: gradient.numpy() for name, gradient in expected.gradients.items()}
    return parity_of(record.ranks, record.losses, arrays, expected.losses), expected


def check_close(found: tuple[Parity, Reference], precision: str) -> None:
    close, expected = found
    assert close.max_rel_diff <= LIMIT[precision], close
    assert close.loss_diff <= LIMIT[precision], close
    assert close.copies_diff == 0.0, "copies of a weight must stay the same on all ranks"
    assert len(set(expected.losses)) == STEPS, "the optimizer must have done something"


SIZES = [(2, 1, 4), (4, 1, 8), (2, 2, 4)]


@pytest.mark.parametrize(("pp", "dp", "microbatches"), SIZES)
@pytest.mark.parametrize("name", names())
def test_every_schedule_trains_like_a_single_process(name: str, pp: int, dp: int, microbatches: int) -> None:
    check_close(parity(run_of(name, pp, dp, microbatches)), "fp64")


@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zb-v", "dualpipe", "dualpipe-v"])
def test_zero_1_and_tied_embeddings(name: str) -> None:
    """The tied weight has copies on the first and last stage, DualPipe four of them; ZeRO-1 cuts them over dp."""
    check_close(parity(run_of(name, 2, 2, 4, GPT, zero=1)), "fp64")


@pytest.mark.parametrize(
    ("name", "precision", "software"),
    [
        ("1f1b", "fp32", {}),
        ("zb-h1", "fp32", {}),
        ("dualpipe", "fp32", {}),
        ("1f1b", "bf16", {}),
        ("zb-v", "bf16", {"gradient_dtype": "bf16"}),
        ("interleaved-zb", "bf16", {"params_dtype": "fp32", "master_weights": None}),
    ],
)
def test_precisions(name: str, precision: str, software: dict[str, Any]) -> None:
    check_close(parity(run_of(name, 2, 2, 4, software=software, precision=precision, zero=1)), precision)


@pytest.mark.parametrize("recompute", ["full", "selective", {"mode": "full", "layers": 1}])
@pytest.mark.parametrize("name", ["1f1b", "zb-v"])
def test_recompute(name: str, recompute: Any) -> None:
    check_close(parity(run_of(name, 2, 1, 4, GPT, recompute=recompute)), "fp64")


def test_layers_that_do_not_divide_evenly() -> None:
    check_close(parity(run_of("1f1b", 2, 1, 3, {**LLAMA, "layers": 5}, split=[2, 3])), "fp64")


def shuffled(plan: Plan, seed: int) -> Plan:
    """The plan with every W moved somewhere behind its I, and I and W in place of some B: still sound."""
    chance = random.Random(seed)
    orders = []
    for order in plan.orders:
        row: list[Slot] = []
        for slot in order:
            if slot.second is None and slot.first.kind is Kind.B and chance.random() < 0.5:
                row += [Slot(Op(slot.first.stage, kind, slot.first.mb)) for kind in (Kind.I, Kind.W)]
            else:
                row.append(slot)
        for slot in [slot for slot in row if slot.first.kind is Kind.W]:
            at = row.index(slot)
            row.pop(at)
            row.insert(chance.randint(at, len(row)), slot)
        orders.append(tuple(row))
    changed = replace(plan, name="changed by hand", orders=tuple(orders))
    check(changed)
    return changed


@pytest.mark.parametrize("name", ["1f1b", "zb-v", "dualpipe"])
def test_plans_changed_by_hand(name: str) -> None:
    run = run_of(name, 2, 2, 4)
    check_close(parity(run, shuffled(build(name, 2, 4), seed=5)), "fp64")


def test_a_plan_from_a_csv() -> None:
    plan = parse_csv("0F0,0F1,0I0,0F2,0I1,0W1,0B2,0W0\n1F0,1B0,1F1,1I1,1F2,1W1,1B2\n")
    check_close(parity(run_of("1f1b", 2, 1, 3), plan), "fp64")


@pytest.mark.parametrize("name", ["interleaved", "dualpipe"])
def test_the_channels_that_nccl_needs(name: str) -> None:
    """A process group for each direction between two ranks, in the sender's order, as it is done on GPUs."""
    check_close(parity(run_of(name, 2, 2, 4), channels=True), "fp64")


def test_the_data_differ_between_micro_batches_and_steps() -> None:
    from executor.data import micro_batch

    run = run_of("1f1b", 2, 2, 4)
    rows = [micro_batch(run, step, index, "cpu")[0].tolist() for step in range(2) for index in range(8)]
    assert len({str(row) for row in rows}) == 16
    tokens, targets = micro_batch(run, 0, 0, "cpu")
    assert tokens[:, 1:].equal(targets[:, :-1])


def test_schedules_refuse_what_they_refuse_everywhere() -> None:
    assert get("dualpipe").name == "dualpipe"
    with pytest.raises(Exception, match=r"dualpipe"):
        job_of(run_of("dualpipe", 2, 1, 3))
