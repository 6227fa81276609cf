"""`parsim simulate`: a run file in, a predicted step out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsim.cli.calibration import read_calibration
from parsim.cli.drawing import Drawing, Fact, bubble_facts, put_recording
from parsim.cli.output import Outputs, json_text
from parsim.cli.schedule import read_plan
from parsim.cost import LayerTable, StepCost
from parsim.errors import SpecError
from parsim.files import parse_json_text, read_text
from parsim.plan import Plan
from parsim.step_result import StepResult
from parsim.timeline import timeline_document
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from parsim.explanation.budget import TokenBudget
    from parsim.report.page import Still
    from parsim.spec import Run

__all__ = ["read_cost", "read_layers", "simulate_command"]

_MOST_BARS = 64
_MEAN = "Mean over pipeline ranks."
_HIDDEN = f"{_MEAN} Hidden: communication that ran beside compute, on top of what shows; of the pipeline its messages."
_MOST_STEPS = 10_000  # beyond it percentiles tell nothing new


def simulate_command(
    name: str,
    overrides: tuple[str, ...],
    engine: str,
    plan_path: Path | None,
    cost_path: Path | None,
    calibration_path: Path | None,
    layers_path: Path | None,
    contention: bool,
    every_rank: bool,
    steps: int,
    jitter: str | None,
    slow: tuple[str, ...],
    seed: int | None,
    memory_rank: int | None,
    tokens: float | None,
    dollars_per_gpu_hour: float | None,
    watts_per_gpu: float | None,
    **paths: Path | None,
) -> None:
    """Simulate, print the tables, write what was asked for."""
    from parsim.sim import parse_jitter
    from parsim.simulation import simulate
    from parsim.spec import load_run

    if steps > _MOST_STEPS:
        raise SpecError(f"--steps {steps}: at most {_MOST_STEPS}")
    if tokens is None and (dollars_per_gpu_hour is not None or watts_per_gpu is not None):
        raise SpecError("--dollars-per-gpu-hour and --watts-per-gpu go with --tokens, the budget that they price")
    outputs = Outputs(**paths)
    run = load_run(name, overrides)
    plan = None if plan_path is None else read_plan(plan_path)
    result = simulate(
        run,
        engine=engine,  # type: ignore[arg-type]
        plan=plan,
        cost=None if cost_path is None else read_cost(cost_path, run, plan),
        correction=None if calibration_path is None else read_calibration(calibration_path, run.cluster).correction,
        layers=None if layers_path is None else read_layers(layers_path),
        contention=contention,
        every_rank=every_rank,
        steps=steps,
        jitter=0.0 if jitter is None else parse_jitter(jitter),
        slow_ranks=_slow_ranks(slow),
        seed=seed,
    )
    document = result.document(memory_rank)
    if not result.fits and plan is None and cost_path is None:
        document["remedies"] = _remedies(result)
    if tokens is not None:
        document["budget"] = _budget(result, tokens, dollars_per_gpu_hour, watts_per_gpu).document()
    if outputs.wants("timeline"):
        outputs.put("timeline", json_text(timeline_document(result.timeline)))
    put_recording(outputs, document, result.timeline, _drawing(result, document))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_simulation

        print_simulation(document)


def _remedies(result: StepResult) -> dict[str, Any]:
    """The fastest changes that make a run fit, priced by the roofline, and what they are."""
    from parsim.remedies import remedies_of

    found = [remedy.document(result.step_time_s) for remedy in remedies_of(result.run)]
    note = "one or two changes to the layout each, the fastest of what was tried; times of the roofline"
    return {"changes": found, "note": note if found else "neither one change to the layout nor two were enough"}


def read_cost(path: Path, run: "Run", plan: Plan | None = None) -> StepCost:
    """The costs in a user's file, for the stages of a run (or of a plan for it). ParsimError that names the file."""
    from parsim.cost import cost_from_document
    from parsim.run_plan import plan_of

    text = read_text(path, "cost file")
    try:
        return cost_from_document(parse_json_text(text), plan_of(run, plan).placement, run)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def read_layers(path: Path) -> LayerTable:
    """The layer table in a user's file, or that of a profiler's trace. ParsimError that names the file."""
    from parsim.cost import layer_table_from_document
    from parsim.cost.profiler_trace import layer_table_from_trace
    from parsim.exchange.kineto.events import TraceEvents

    try:
        if _is_trace(path):
            return layer_table_from_trace(TraceEvents(path))
        return layer_table_from_document(parse_json_text(read_text(path, "layer table")))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _is_trace(path: Path) -> bool:
    """Whether a file begins as a profiler's trace does; a compressed one is none other."""
    try:
        with path.open("rb") as stream:
            begun = stream.read(2**20)
    except OSError:
        return False  # what is wrong with the file is told by who reads it
    return begun.startswith(b"\x1f\x8b") or b'"traceEvents"' in begun


def _slow_ranks(items: tuple[str, ...]) -> dict[int, float]:
    from parsim.sim import parse_slow_rank

    found: dict[int, float] = {}
    for rank, factor in map(parse_slow_rank, items):
        if rank in found:
            raise SpecError(f"slow rank {rank} is given twice")
        found[rank] = factor
    return found


def _budget(
    result: StepResult, tokens: float, dollars_per_gpu_hour: float | None, watts_per_gpu: float | None
) -> "TokenBudget":
    from parsim.explanation.budget import budget_of
    from parsim.model.weights import active_parameters

    return budget_of(
        tokens=tokens,
        tokens_per_s=result.tokens_per_s,
        tokens_per_step=result.tokens_per_step,
        gpus=result.run.ranks,
        flops_per_step=result.model_flops,
        active_parameters=active_parameters(result.run.model),
        dollars_per_gpu_hour=dollars_per_gpu_hour,
        watts_per_gpu=watts_per_gpu,
    )


def _drawing(result: StepResult, document: Mapping[str, Any]) -> Drawing:
    run, size = result.run, format_bytes(result.gpu_memory_bytes)
    rate = f"{result.model_tflops_per_gpu:.0f} TFLOP/s per GPU of model FLOP, attention over the full square"
    memory = f"allocated; {'fits' if result.fits else 'does not fit'} in {size}"
    return Drawing(
        title=f"{run.model.name} on {run.ranks:,} × {run.cluster.node.gpu.name}",
        facts=[
            ("step time", format_seconds(result.step_time_s), f"{result.tokens_per_s:,.0f} tokens/s"),
            ("MFU", _percent(result.mfu), rate),
            ("HFU", _percent(result.hfu), f"FLOP that the kernels perform; {_attention(result)}"),
            *bubble_facts(result.bubble),
            *_budget_facts(document.get("budget")),
            ("peak memory", format_bytes(result.peak_memory_bytes), memory),
        ],
        capacity_bytes=result.gpu_memory_bytes,
        tables=(
            ("Where the step goes", ("cause", "time", "share", "hidden", "what it is"), _shares(document), _HIDDEN),
            *_memory_tables(document),
        ),
        figures=lambda: _figures(result, document),
    )


def _memory_tables(document: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]], str]]:
    """What would make the run fit, and every byte of a rank."""
    from parsim.report.memory_table import ledger_table, remedies_table

    for name, table in (("remedies", remedies_table), ("memory_ledger", ledger_table)):
        if document.get(name):
            title, columns, rows, note = table(document[name])
            yield f"{title[0].upper()}{title[1:]}", columns, rows, note


def _attention(result: StepResult) -> str:
    """How hardware FLOP count attention, in a few words; --json has all of it."""
    return "attention in full" if result.run.software.attention == "unfused" else "of attention the causal half"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _budget_facts(budget: Mapping[str, Any] | None) -> list[Fact]:
    if budget is None:
        return []
    from parsim.report.explanation_table import budget_lines

    return [line for line in budget_lines(budget) if line[0] not in ("tokens", "FLOP")]


def _figures(result: StepResult, document: Mapping[str, Any]) -> "list[Still]":
    """The waterfall, and each rank's bar where there are several."""
    from parsim.explanation.waterfall import CAUSES
    from parsim.report.page import Still
    from parsim.report.waterfall_plot import rank_bars, waterfall_plot

    step, ranks = result.step_time_s, document["waterfall_per_rank"]
    found = [
        Still(
            "From ideal compute to the step",
            waterfall_plot(document["waterfall"], step, CAUSES),
            f"{_MEAN} Slowest: {result.slowest_stage.text}. Hover for what a cause is.",
        )
    ]
    if 1 < len(ranks) <= _MOST_BARS:
        caption = "What the scores' skipped half saves is taken off ideal compute."
        found.append(Still("The same on every pipeline rank", rank_bars(ranks, step), caption))
    return found


def _shares(document: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    from parsim.explanation.waterfall import CAUSES
    from parsim.report.explanation_table import hidden_beside

    return [
        (
            row["cause"].replace("_", " "),
            format_seconds(row["seconds"]),
            f"{row['share']:.1%}",
            format_seconds(hidden) if hidden else "",
            CAUSES.get(row["cause"], ""),
        )
        for row in document["waterfall"]
        if (hidden := hidden_beside(document, row["cause"])) or row["seconds"]
    ]
