"""`executor validate`: play, predict, compare; one report, its parts apart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executor.calibrate import hop_of, link_job_of, play_links
from executor.job import Job, job_of
from executor.parity import parity_of
from executor.record import RunRecord
from executor.run_command import load_job, play_job
from executor.validate import (
    Prediction,
    emulated_part,
    gradients_part,
    memory_part,
    per_op,
    predicted_timeline,
    real_part,
    structural_part,
)
from parsim.cli.output import Outputs, json_text
from parsim.errors import SpecError
from parsim.model.flops import model_flops
from parsim.spec import Run
from parsim.timeline import timeline_document

__all__ = ["compared_run", "validate_command"]

SCHEMA_VERSION = "1.0"
_TIMES = "F=20ms,I=20ms,W=20ms"  # long beside messages and beside what a sleep overshoots
_FEWEST_STEPS = 3
_COMPARED_STEPS = 3  # optimizer steps whose losses are compared
_MOST_FLOPS = 3e12  # of those steps: a minute of a single process on a CPU core


def validate_command(
    name: str,
    overrides: tuple[str, ...],
    plan_path: Path | None,
    *,
    emulate: bool,
    times: str | None,
    device: str,
    steps: int,
    warmup: int,
    gradients: bool,
    hang_after_s: float,
    **paths: Path | None,
) -> None:
    """Measure, predict, print the report, write what was asked for."""
    if steps < _FEWEST_STEPS:
        raise SpecError(f"steps {steps}: every second step calibrates, at least {_FEWEST_STEPS} would do")
    outputs = Outputs(**paths)
    options = {"steps": steps, "warmup": warmup, "device": device}
    job = None
    if not emulate:
        counts = device == "cpu"
        job = load_job(name, overrides, plan_path, emulate=False, times=None, count_memory=counts, **options)
    emulated = _emulated_job(name, overrides, plan_path, emulate, times, options)
    compared = _compared_job(job, max(_COMPARED_STEPS - warmup, 1)) if job is not None and gradients else None

    record = None if job is None else play_job(job, hang_after_s)
    compared_record = None if compared is None else play_job(compared, hang_after_s)
    links = play_links(link_job_of(emulated), emulated.ranks, hang_after_s)
    emulated_record = play_job(emulated, hang_after_s)
    if links is None:
        return  # under torchrun rank 0 reports

    hop_s = hop_of(emulated, links).seconds
    sleeping = emulated_part(emulated_record, hop_s)
    computing = None if record is None else real_part(record, hop_s)
    shown, shown_job = (sleeping, emulated) if computing is None or job is None else (computing, job)
    document = {
        "schema_version": SCHEMA_VERSION,
        "plan": emulated.plan.name,
        "device": device,
        "ranks": emulated.ranks,
        "structural": structural_part(emulated_record if record is None else record, hop_s),
        "emulated": sleeping.part,
        "real": None if computing is None else computing.part,
        "gradients": None
        if compared is None or compared_record is None
        else _gradients(compared, compared_record, shown_job.run),
        "memory": None if record is None or not record.job.count_memory else memory_part(record),
        "per_op": per_op(shown),
        "skipped": _skipped(emulate, gradients, device),
        "run": shown_job.run.document(),
    }
    _put(outputs, document, shown, shown_job, "assumed" if emulate else "calibrated")
    outputs.write()
    if not outputs.quiet:
        from parsim.report.validation_table import print_validation

        print_validation(document)


def compared_run(run: Run) -> Run:
    """The run whose gradients are compared with a single process: itself, or with a small model of as many layers and
    the same kind where a single process would take minutes.
    """
    length, size = run.batch.sequence_length, run.batch.global_batch_size
    if _COMPARED_STEPS * model_flops(run.model, length, size) <= _MOST_FLOPS:
        return run
    model = run.model
    small = {
        "name": f"small {model.name}",
        "hidden": 128,
        "heads": 4,
        "kv_heads": 4 if model.kv_heads == model.heads else 1 if model.kv_heads == 1 else 2,
        "head_dim": 32,
        "ffn": 256,
        "vocab": 512,
    }
    return run.changed(
        model={**model.model_dump(mode="json"), **small},
        batch=run.batch.model_copy(update={"sequence_length": min(length, 64)}),
    )


def _emulated_job(
    name: str,
    overrides: tuple[str, ...],
    plan_path: Path | None,
    emulate: bool,
    times: str | None,
    options: Mapping[str, Any],
) -> Job:
    if emulate:
        return load_job(name, overrides, plan_path, emulate=True, times=times, **options)
    return load_job(name, overrides, plan_path, emulate=True, times=times or _TIMES, **options)


def _compared_job(job: Job, steps: int) -> Job:
    run = compared_run(job.run)
    return job_of(run, job.plan, steps=steps, warmup=job.warmup, device=job.device, keep_gradients=True)


def _gradients(job: Job, record: RunRecord, run: Run) -> dict[str, Any]:
    from executor.reference import reference

    expected = reference(job.run, _COMPARED_STEPS)
    arrays = {name: tensor.double().numpy() for name, tensor in expected.gradients.items()}
    parity = parity_of(record.ranks, record.losses[:_COMPARED_STEPS], arrays, expected.losses)
    model = job.run.model.name if job.run == run else f"{job.run.model.name}, for {run.model.name} is too large"
    return gradients_part(parity, job.run.layout.precision, model)


def _skipped(emulate: bool, gradients: bool, device: str) -> dict[str, str]:
    if emulate:
        return dict.fromkeys(("real", "gradients", "memory"), "with --emulate nothing is computed")
    found = {} if gradients else {"gradients": "as --no-gradients asks"}
    return found if device == "cpu" else {**found, "memory": "what kernels keep is known of the CPU's alone"}


def _put(outputs: Outputs, document: Mapping[str, Any], shown: Prediction, job: Job, grade: str) -> None:
    """The report, and the two recordings that `parsim compare` draws."""
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    if outputs.wants("predicted"):
        outputs.put("predicted", json_text(timeline_document(predicted_timeline(shown, job, grade))))
    if outputs.wants("measured"):
        measured_s = [timeline.makespan_s for timeline in shown.measured]
        middle = sorted(range(len(measured_s)), key=measured_s.__getitem__)[(len(measured_s) - 1) // 2]
        outputs.put("measured", json_text(timeline_document(shown.measured[middle])))
