"""`parsim schedule`: one schedule, all of them, or a plan of the user's own, at unit times."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsim.cli.drawing import Drawing, bubble_facts, put_recording
from parsim.cli.output import Outputs, json_text
from parsim.cost.unit import UnitCost, parse_times
from parsim.errors import ParsimError, ScheduleError
from parsim.files import parse_json_text, read_text
from parsim.metrics import BUBBLE_DEFINITIONS
from parsim.plan import Placement, Plan, parse_csv, plan_from_document, write_csv
from parsim.schedule_result import ScheduleResult, play_schedule

__all__ = ["read_plan", "schedule_command"]

_LIMIT = "activation_limit_stages"


def schedule_command(
    name: str | None,
    pp: int | None,
    microbatches: int | None,
    stages_per_rank: int | None,
    group_size: int | None,
    times_text: str,
    memory_limit: float | None,
    plan_path: Path | None,
    **paths: Path | None,
) -> None:
    """Play what was named, print its table, write what was asked for."""
    times = parse_times(times_text)
    if memory_limit is not None and not 0 <= memory_limit < math.inf:
        raise ScheduleError(f"memory limit {memory_limit:g}: a finite number of stage-activations >= 0")
    outputs = Outputs(**paths)
    if plan_path is not None:
        if name is not None:
            raise ScheduleError(f"--plan plays {plan_path}: leave out the name {name!r}")
        plan = read_plan(plan_path)
        _check_size(plan, plan_path, pp, microbatches, stages_per_rank, group_size)
        return _one(play_schedule(plan, times, memory_limit), outputs)
    if name is None:
        raise ScheduleError("name a schedule (`parsim list schedules`), `all`, or give --plan FILE")
    if pp is None or microbatches is None:
        raise ScheduleError(f"{name}: give --pp and --microbatches")
    options = {} if group_size is None else {"group_size": group_size}
    if name == "all":
        return _all(pp, microbatches, stages_per_rank, options, times, memory_limit, outputs)
    plan = _build(name, pp, microbatches, stages_per_rank, options, times, memory_limit)
    _one(play_schedule(plan, times, memory_limit), outputs)


def _build(
    name: str,
    pp: int,
    microbatches: int,
    stages_per_rank: int | None,
    options: Mapping[str, float],
    times: UnitCost,
    memory_limit: float | None,
) -> Plan:
    """The plan; to a schedule that plans by times and a limit, those that it will be played by."""
    from parsim.schedules import build, get

    def timing(placement: Placement) -> UnitCost:
        times.check(placement.stages)
        return times

    if memory_limit is not None and _LIMIT in get(name).options:
        options = {**options, _LIMIT: memory_limit}
    return build(name, pp, microbatches, stages_per_rank, timing=timing, **options)


def read_plan(path: Path) -> Plan:
    """A sound plan from a CSV or a JSON file (told apart by the first character)."""
    text = read_text(path, "plan")
    try:
        if text.lstrip().startswith(("{", "[")):
            return plan_from_document(parse_json_text(text))
        return parse_csv(text, name=path.stem)
    except ParsimError as error:
        raise type(error)(f"{path}: {error}") from None


def _check_size(plan: Plan, path: Path, pp: int | None, microbatches: int | None, v: int | None, g: int | None) -> None:
    """A plan brings its own size: another one said beside it is a mistake."""
    placement = plan.placement
    own = {
        "--pp": (pp, placement.ranks),
        "--microbatches": (microbatches, plan.microbatches),
        "--stages-per-rank": (v, placement.parts // placement.ranks),
    }
    for option, (said, has) in own.items():
        if said is not None and said != has:
            raise ScheduleError(f"{option} {said}: the plan {path} has {has}; leave the option out")
    if g is not None:
        raise ScheduleError(f"--group-size {g}: the plan {path} has its order already; leave the option out")


def _one(result: ScheduleResult, outputs: Outputs) -> None:
    document = result.document()
    if outputs.wants("csv"):
        outputs.put("csv", write_csv(result.plan))
    put_recording(outputs, document, result.timeline, _drawing(result))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_schedule

        print_schedule(document)


def _drawing(result: ScheduleResult) -> Drawing:
    plan, bubble = result.plan, result.bubble
    in_flight = "most stage-activations on one rank, from F to B or W"
    return Drawing(
        title=f"{plan.name}: {plan.placement.ranks} pipeline ranks, {plan.microbatches} micro-batches",
        facts=[
            ("makespan", f"{result.makespan:g}", f"ideal {bubble.ideal:g}: the work of the busiest rank"),
            *bubble_facts(bubble),
            ("over ideal", f"{bubble.over_ideal:.2%}", BUBBLE_DEFINITIONS["over_ideal"]),
            ("activations in flight", f"{max(result.peak_activations)}", in_flight),
        ],
        unit="units",
    )


def _all(
    pp: int,
    microbatches: int,
    stages_per_rank: int | None,
    options: Mapping[str, Any],
    times: UnitCost,
    memory_limit: float | None,
    outputs: Outputs,
) -> None:
    """Every schedule that is defined at this size; the others with the reason."""
    from parsim.schedules import get, names

    for kind in ("html", "png", "trace", "csv"):
        if outputs.wants(kind):
            raise ScheduleError(f"--{kind} shows one schedule: name it instead of `all`")
    played: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for name in names():
        taken = {option: value for option, value in options.items() if option in get(name).options}
        try:
            plan = _build(name, pp, microbatches, stages_per_rank, taken, times, memory_limit)
            played.append(play_schedule(plan, times, memory_limit).document())
        except ScheduleError as error:
            refused.append({"schedule": name, "reason": str(error)})
    if not played:
        raise ScheduleError(f"no schedule is defined at this size; the first: {refused[0]['reason']}")
    document = {"schema_version": played[0]["schema_version"], "schedules": played, "refused": refused}
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_schedules

        print_schedules(document)
