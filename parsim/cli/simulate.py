"""`parsim simulate`: a run file in, a predicted step out."""

from pathlib import Path
from typing import TYPE_CHECKING

from parsim.cli.calibration import read_calibration
from parsim.cli.drawing import Drawing, bubble_facts, put_recording
from parsim.cli.output import Outputs, json_text
from parsim.cli.schedule import read_plan
from parsim.cost import StepCost
from parsim.errors import SpecError
from parsim.files import parse_json_text, read_text
from parsim.plan import Plan
from parsim.step_result import StepResult
from parsim.timeline import timeline_document
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from parsim.spec import Run

__all__ = ["read_cost", "simulate_command"]

_MOST_STEPS = 10_000  # beyond it percentiles tell nothing new


def simulate_command(
    name: str,
    overrides: tuple[str, ...],
    engine: str,
    plan_path: Path | None,
    cost_path: Path | None,
    calibration_path: Path | None,
    contention: bool,
    every_rank: bool,
    steps: int,
    jitter: str | None,
    slow: tuple[str, ...],
    seed: int | None,
    **paths: Path | None,
) -> None:
    """Simulate, print the tables, write what was asked for."""
    from parsim.sim import parse_jitter
    from parsim.simulation import simulate
    from parsim.spec import load_run

    if steps > _MOST_STEPS:
        raise SpecError(f"--steps {steps}: at most {_MOST_STEPS}")
    outputs = Outputs(**paths)
    run = load_run(name, overrides)
    plan = None if plan_path is None else read_plan(plan_path)
    result = simulate(
        run,
        engine=engine,  # type: ignore[arg-type]
        plan=plan,
        cost=None if cost_path is None else read_cost(cost_path, run, plan),
        correction=None if calibration_path is None else read_calibration(calibration_path, run.cluster).correction,
        contention=contention,
        every_rank=every_rank,
        steps=steps,
        jitter=0.0 if jitter is None else parse_jitter(jitter),
        slow_ranks=_slow_ranks(slow),
        seed=seed,
    )
    document = result.document()
    if outputs.wants("timeline"):
        outputs.put("timeline", json_text(timeline_document(result.timeline)))
    put_recording(outputs, document, result.timeline, _drawing(result))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_simulation

        print_simulation(document)


def read_cost(path: Path, run: "Run", plan: Plan | None = None) -> StepCost:
    """The costs in a user's file, for the stages of a run (or of a plan for it). ParsimError that names the file."""
    from parsim.cost import cost_from_document
    from parsim.run_plan import plan_of

    text = read_text(path, "cost file")
    try:
        return cost_from_document(parse_json_text(text), plan_of(run, plan).placement, run)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _slow_ranks(items: tuple[str, ...]) -> dict[int, float]:
    from parsim.sim import parse_slow_rank

    found: dict[int, float] = {}
    for rank, factor in map(parse_slow_rank, items):
        if rank in found:
            raise SpecError(f"slow rank {rank} is given twice")
        found[rank] = factor
    return found


def _drawing(result: StepResult) -> Drawing:
    run, size = result.run, format_bytes(result.gpu_memory_bytes)
    rate = f"{result.model_tflops_per_gpu:.0f} TFLOP/s per GPU of model FLOP, attention over the full square"
    memory = f"allocated; {'fits' if result.fits else 'does not fit'} in {size}"
    peak = result.peak_memory_bytes
    return Drawing(
        title=f"{run.model.name} on {run.ranks:,} × {run.cluster.node.gpu.name}",
        facts=[
            ("step time", format_seconds(result.step_time_s), f"{result.tokens_per_s:,.0f} tokens/s"),
            ("MFU", "-" if result.mfu is None else f"{result.mfu:.1%}", rate),
            *bubble_facts(result.bubble),
            ("peak memory", *(("-", "not modelled") if peak is None else (format_bytes(peak), memory))),
        ],
        capacity_bytes=result.gpu_memory_bytes,
        table=("Where the step goes", ("cause", "time", "share"), _shares(result), "Mean over pipeline ranks."),
    )


def _shares(result: StepResult) -> list[tuple[str, str, str]]:
    causes = {"compute": result.compute_s, **result.exposed_s}
    return [
        (cause, format_seconds(seconds), f"{seconds / result.step_time_s:.1%}")
        for cause, seconds in sorted(causes.items(), key=lambda item: -item[1])
        if seconds
    ]
