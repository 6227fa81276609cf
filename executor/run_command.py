"""`executor run`: a run or a plan in, the recording of real processes out."""

from pathlib import Path
from statistics import median
from typing import Any

from executor.emulation_times import check_table, roofline_times, seconds_table
from executor.fault import parse_fault
from executor.job import Job, job_of, labels_of
from parsim.axes.mesh import coordinates
from parsim.cli.drawing import Drawing, bubble_facts, put_recording
from parsim.cli.output import Outputs, json_text
from parsim.cli.schedule import read_plan
from parsim.errors import ScheduleError, SpecError
from parsim.metrics import bubble
from parsim.plan import Plan
from parsim.run_plan import plan_of
from parsim.spec import Run, load_run, run_from_document
from parsim.timeline import timeline_document
from parsim.units import format_seconds

__all__ = ["load_job", "play_job", "run_command", "run_of_plan"]

SCHEMA_VERSION = "1.0"


def run_command(
    name: str,
    overrides: tuple[str, ...],
    plan_path: Path | None,
    *,
    device: str,
    emulate: bool,
    times: str | None,
    steps: int,
    warmup: int,
    memory: bool,
    inject: tuple[str, ...],
    hang_after_s: float,
    **paths: Path | None,
) -> None:
    """Play, print the table, write what was asked for."""
    outputs = Outputs(**paths)
    job = load_job(
        name,
        overrides,
        plan_path,
        emulate=emulate,
        times=times,
        steps=steps,
        warmup=warmup,
        device=device,
        faults=tuple(map(parse_fault, inject)),
        count_memory=memory and not emulate,
    )
    record = play_job(job, hang_after_s)
    if record is None:
        return  # under torchrun rank 0 reports
    timeline = record.timeline()
    document = {**_document(job, record), "bubble": bubble(timeline).document()}
    if outputs.wants("out"):
        outputs.put("out", json_text(timeline_document(timeline)))
    put_recording(outputs, document, timeline, _drawing(job, record, timeline))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_measured

        print_measured(document)


def load_job(
    name: str, overrides: tuple[str, ...], plan_path: Path | None, *, emulate: bool, times: str | None, **options: Any
) -> Job:
    """The job that the command line spells: a run with its own schedule or a plan, or a plan with a small model."""
    if name.lower().endswith((".csv", ".json")):
        if plan_path is not None:
            raise ScheduleError(f"{name} is a plan already; leave out --plan {plan_path}")
        plan: Plan | None = read_plan(Path(name))
        assert plan is not None
        run = run_of_plan(plan, overrides)
    else:
        run = load_run(name, overrides)
        plan = None if plan_path is None else read_plan(plan_path)
    if times is not None and not emulate:
        raise SpecError("--times are for --emulate: without it ops take the time they take")
    if not emulate:
        return job_of(run, plan, **options)
    if times is None:
        return job_of(run, plan, times=roofline_times(run, plan), **options)
    table, usual = seconds_table(times), plan_of(run, plan)
    check_table(table, usual)
    table.check(usual.placement.stages)
    return job_of(run, plan, planned_by=table, times=table, **options)


def run_of_plan(plan: Plan, overrides: tuple[str, ...] = ()) -> Run:
    """A small model for a plan that came without one: two layers a part, the plan's ranks and micro-batches, on the
    machine at hand. `overrides` are `--set`'s.
    """
    document = {
        "name": plan.name,
        "model": {
            "name": "small",
            "layers": 2 * plan.placement.parts,
            "hidden": 128,
            "heads": 4,
            "ffn": 512,
            "vocab": 512,
        },
        "cluster": "local-cpu",
        "layout": {"mesh": {"pp": plan.placement.ranks}, "precision": "fp32"},
        "batch": {"sequence_length": 64, "global_batch_size": plan.microbatches},
    }
    return run_from_document(document, overrides=overrides)


def play_job(job: Job, hang_after_s: float) -> Any:
    """The record of a job's ranks; None on every rank of a torchrun but the first. Raises RunFailed."""
    from executor.launch import launch
    from executor.play import play
    from executor.record import RunRecord

    mesh = job.run.layout.mesh
    labels = labels_of(job)
    results = launch(
        play,
        job,
        job.ranks,
        device=job.device,
        hang_after_s=hang_after_s,
        labels=tuple(labels[coordinates(mesh, rank).pp] for rank in range(job.ranks)),
    )
    return None if results is None else RunRecord(job, results)


def _document(job: Job, record: Any) -> dict[str, Any]:
    """The numbers of a run as JSON."""
    tokens = job.run.batch.global_batch_size * job.run.batch.sequence_length
    step_s = median(record.step_s)
    middle = record.middle
    return {
        "schema_version": SCHEMA_VERSION,
        "plan": job.plan.name,
        "device": job.device,
        "ranks": job.ranks,
        "emulated": job.times is not None,
        "step_time_s": step_s,
        "step_times_s": list(record.step_s),
        "tokens_per_s": tokens / step_s,
        "losses": list(record.losses) if job.times is None else [],
        "cpu_share": record.cpu_share(middle),
        "clock_error_s": record.clock_error_s,
        "recorded_step": middle,
        "recorded_step_s": record.step_s[middle],
        "memory_is": "tensors counted" if job.device == "cpu" else "what PyTorch's allocator holds",
        "per_rank": record.per_rank(middle),
        "run": job.run.document(),
    }


def _drawing(job: Job, record: Any, timeline: Any) -> Drawing:
    found = bubble(timeline)
    spread = f"{len(record.step_s)} steps, {format_seconds(min(record.step_s))} to {format_seconds(max(record.step_s))}"
    what = "emulated compute, real messages" if job.times is not None else job.run.model.name
    return Drawing(
        title=f"{job.plan.name}: {what} on {job.ranks} ranks ({job.device})",
        facts=[("measured step time", format_seconds(median(record.step_s)), spread), *bubble_facts(found)],
    )
