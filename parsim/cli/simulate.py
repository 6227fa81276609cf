"""`parsim simulate`: a run file in, a predicted step out."""

import re
from pathlib import Path
from typing import get_args

from parsim.cli.output import Outputs, json_text
from parsim.cli.schedule import read_plan
from parsim.errors import SpecError
from parsim.metrics import BUBBLE_DEFINITIONS
from parsim.step_result import StepResult
from parsim.timeline import timeline_document
from parsim.units import format_bytes, format_seconds

__all__ = ["simulate_command"]


def simulate_command(
    name: str,
    overrides: tuple[str, ...],
    engine: str,
    plan_path: Path | None,
    every_rank: bool,
    steps: int,
    jitter: str | None,
    slow: tuple[str, ...],
    seed: int | None,
    **paths: Path | None,
) -> None:
    """Simulate, print the tables, write what was asked for."""
    from parsim.simulate import Engine, simulate
    from parsim.spec import load_run

    if engine not in get_args(Engine):
        raise SpecError(f"--engine {engine}: one of {', '.join(get_args(Engine))}")
    outputs = Outputs(**paths)
    result = simulate(
        load_run(name, overrides),
        engine=engine,  # type: ignore[arg-type]
        plan=None if plan_path is None else read_plan(plan_path),
        every_rank=every_rank,
        steps=steps,
        jitter=0.0 if jitter is None else _sigma(jitter),
        slow_ranks=_slow_ranks(slow),
        seed=seed,
    )
    document = result.document()
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    if outputs.wants("timeline"):
        outputs.put("timeline", json_text(timeline_document(result.timeline)))
    if outputs.wants("trace"):
        from parsim.report import trace

        outputs.put("trace", json_text(trace(result.timeline)))
    if outputs.wants("html") or outputs.wants("png"):
        _draw(result, outputs)
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_simulation

        print_simulation(document)


def _sigma(text: str) -> float:
    match = re.fullmatch(r"lognormal:(\d+\.?\d*|\.\d+)", text)
    if match is None or not float(match[1]) <= 1:
        raise SpecError(f"--jitter {text}: write lognormal:SIGMA with SIGMA from 0 to 1, as in lognormal:0.03")
    return float(match[1])


def _slow_ranks(items: tuple[str, ...]) -> dict[int, float]:
    found: dict[int, float] = {}
    for item in items:
        match = re.fullmatch(r"(\d{1,9})=(\d+\.?\d*|\.\d+)", item)
        if match is None or not 0 < float(match[2]) < float("inf"):
            raise SpecError(f"--slow-rank {item}: write RANK=FACTOR with a factor above 0, as in 17=1.3")
        if int(match[1]) in found:
            raise SpecError(f"--slow-rank {item}: rank {match[1]} is given twice")
        found[int(match[1])] = float(match[2])
    return found


def _draw(result: StepResult, outputs: Outputs) -> None:
    from parsim.report import Section, gantt, page, png_bytes

    run = result.run
    title = f"{run.model.name} on {run.ranks:,} × {run.cluster.node.gpu.name}"
    facts, capacity = _facts(result), result.gpu_memory_bytes
    if outputs.wants("html"):
        sections = (
            Section(
                "Where the step goes", ("cause", "seconds", "share"), _shares(result), "Averaged over pipeline ranks."
            ),
            Section(
                "What was assumed",
                ("field",),
                [(name,) for name in run.assumed],
                "Defaults the run file did not state.",
                True,
            ),
        )
        outputs.put("html", page(result.timeline, title=title, facts=facts, sections=sections, capacity_bytes=capacity))
    if outputs.wants("png"):
        outputs.put("png", png_bytes(gantt(result.timeline, title=title, facts=facts, capacity_bytes=capacity)))


def _shares(result: StepResult) -> list[tuple[str, str, str]]:
    causes = {"compute": result.compute_s, **result.exposed_s}
    return [
        (cause, format_seconds(seconds), f"{seconds / result.step_time_s:.1%}")
        for cause, seconds in sorted(causes.items(), key=lambda item: -item[1])
        if seconds
    ]


def _facts(result: StepResult) -> list[tuple[str, str, str]]:
    definitions, found = BUBBLE_DEFINITIONS, result.bubble
    fits = "fits" if result.fits else "does not fit"
    step, peak, size = result.step_time_s, result.peak_memory_bytes, result.gpu_memory_bytes
    rate = f"{result.model_tflops_per_gpu:.0f} TFLOP/s per GPU of model FLOP, attention over the full square"
    return [
        ("step time", format_seconds(step), f"{result.tokens_per_s:,.0f} tokens/s"),
        ("MFU", f"{result.mfu:.1%}", rate),
        ("bubble of the makespan", f"{found.of_makespan:.2%}", definitions["of_makespan"]),
        ("bubble of the span", f"{found.of_span:.2%}", definitions["of_span"]),
        ("peak memory", format_bytes(peak), f"allocated; {fits} in {format_bytes(size)}"),
    ]
