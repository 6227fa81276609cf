"""Predict: what parsim says of every record of a file in the format of published.yaml.

    python benchmarks/published/predict.py --data FILE --out predictions.json [--refused FILE]

predictions.json maps each id to the figures its kind asks for: a step's seconds and its peak memory where the record
says which memory its framework logs; one layer's forward and backward in ms; the bubble rate of given op times. What
cannot be expressed or priced is left out and listed with its reason, on standard error or in `--refused`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memory import UNITS, layer_bytes, logged_bytes, rank_bytes
from records import DATA, Facts, Record, facts_of, read_records, run_of

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED, Constants
from parsim.cost.segments import Collective
from parsim.cost.segments import play as play_segments
from parsim.cost.unit import UnitCost
from parsim.errors import LayoutError, ParsimError, SpecError
from parsim.files import write_all
from parsim.memory import memory_of
from parsim.model.layer import layer_kind, layer_work
from parsim.network.estimate import Correction
from parsim.plan import Kind, Op, Plan, Slot, straight
from parsim.run_plan import plan_of
from parsim.schedule_result import play_schedule
from parsim.schedules import get
from parsim.sim import Program, compile_plan, play, prices
from parsim.sim.period import lasting
from parsim.spec import Run

__all__ = [
    "Refusal",
    "bubble_rate",
    "layer_pair",
    "layer_seconds",
    "pass_seconds",
    "played",
    "predictions",
    "step_seconds",
]

_PARTS = ("", "_input", "_weight", "_again")  # of a kernel's name: forward, backward, forward once more

Figures = dict[str, Any]
"""Numbers by name, of memory also a list by pipeline rank."""


class Refusal(NamedTuple):
    """A figure of a record that is not predicted."""

    record: str
    figure: str
    reason: str


def predictions(records: Iterable[Record]) -> tuple[dict[str, Figures], list[Refusal]]:
    """By id the figures of every record that can be predicted, and what cannot."""
    found: dict[str, Figures] = {}
    refused: list[Refusal] = []
    for record in records:
        name, figures = record["id"], Figures()
        try:
            facts = facts_of(record)
            run = run_of(facts)
        except ParsimError as error:
            refused.append(Refusal(name, "all", str(error)))
            continue
        for figure, predict in _PREDICTORS.get(facts.kind, {}).items():
            try:
                figures |= predict(facts, run)
            except ParsimError as error:
                refused.append(Refusal(name, figure, str(error)))
            except Exception as error:  # one record that breaks parsim must not cost all others theirs
                refused.append(Refusal(name, figure, f"parsim fails, {type(error).__name__}: {error}"))
        if figures:
            found[name] = figures
        if facts.kind not in _PREDICTORS:
            refused.append(Refusal(name, "all", f"kind {facts.kind}: one of {', '.join(_PREDICTORS)}"))
    return found, refused


def step_seconds(run: Run, constants: Constants = FITTED) -> float:
    """How long a step takes: the longest path of the run's plan at the roofline's costs, or the period of steps that
    no barrier ends.
    """
    plan, program = played(run)
    cost = RooflineCost(run, plan.placement, constants)
    return lasting(play(program, prices(program, cost)), not run.software.post_validation) * cost.straggler


def layer_seconds(run: Run, constants: Constants = FITTED, whole: bool = True) -> tuple[float, float]:
    """Forward and backward of one layer: what one more layer adds to a stage. `whole`: with its attention."""
    less, more = ([pass_seconds(each, kind, constants, whole) for kind in (Kind.F, Kind.B)] for each in layer_pair(run))
    forward, backward = (longer - shorter for shorter, longer in zip(less, more, strict=True))
    return forward, backward


def pass_seconds(
    run: Run, kind: Kind, constants: Constants, whole: bool, correction: Correction | None = None
) -> float:
    """A pass of the first stage; not `whole`: what of its layers is MLP or experts, without the host.

    LayoutError for such a part of a layer where its collectives cannot be told from those of its attention.
    """
    slot = Slot(Op(0, kind, 0))
    cost = RooflineCost(run, straight(run.layout.mesh.pp), constants, correction)
    if whole:
        return cost.seconds(slot)
    if run.layout.mesh.tp * run.layout.mesh.cp > 1:
        raise LayoutError("software.attention: a layer without its attention is priced for tp 1 and cp 1 alone")
    work = layer_work(run.model, layer_kind(run.model, run.model.layers - 1))
    names = {f"{item.name}{part}" for item in work if item.module in ("mlp", "moe") for part in _PARTS}
    (blocks,) = cost.segments(slot)
    kept = (tuple(s for s in block if isinstance(s, Collective) or s.name in names) for block in blocks)
    return play_segments([block for block in kept if block]).seconds


def layer_pair(run: Run) -> tuple[Run, Run]:
    """The run, and one with a layer more."""
    return run, run.changed(model=run.model.model_copy(update={"layers": run.model.layers + 1}))


def bubble_rate(run: Run, op_times_ms: Mapping[str, float]) -> float:
    """Of the run's schedule at given op times, which are those of a whole rank: (span - busy)/span of the worst rank.

    T_B is the gradient of inputs alone, T_W that of weights; a message takes T_comm.
    """
    names = {"F": "T_F", "I": "T_B", "W": "T_W", "P2P": "T_comm"}
    if missing := [name for name in names.values() if name not in op_times_ms]:
        raise SpecError(f"op_times_ms.{missing[0]} is not stated")
    stages = run.layout.stages_per_rank or 1
    parts = {"F": stages, "I": stages, "W": stages, "P2P": 1}
    times = {name: (float(op_times_ms[given]) / parts[name],) for name, given in names.items()}
    cost = UnitCost(times)
    return play_schedule(plan_of(run, timing=lambda placement: cost), cost).bubble.of_span


def played(run: Run) -> tuple[Plan, Program]:
    """The run's plan, compiled; runs that differ in nothing that a plan depends on share it."""
    layout = run.layout
    shape = (layout.schedule, layout.mesh.pp, run.microbatches, layout.stages_per_rank, layout.group_size)
    key = (run,) if get(layout.schedule).timed or layout.offload is not None else shape
    if key not in _PLANS:
        if len(_PLANS) >= _MOST_PLANS:
            _PLANS.pop(next(iter(_PLANS)))
        plan = plan_of(run)
        _PLANS[key] = plan, compile_plan(plan)
    return _PLANS[key]


_MOST_PLANS = 200
_PLANS: dict[tuple[object, ...], tuple[Plan, Program]] = {}


def _step(facts: Facts, run: Run) -> Figures:
    return {"step_time_s": step_seconds(run) * facts.step_share}


def _memory(facts: Facts, run: Run) -> Figures:
    if facts.software.get("memory_reports") is None:
        return {}  # its framework logs none
    unit = UNITS[run.software.memory_unit]
    if not facts.whole_layer:
        return {"peak_mem_gib": layer_bytes(run) / unit}
    ranks = memory_of(run, played(run)[0])
    every = [size / unit for size in rank_bytes(run, ranks)]
    return {"peak_mem_gib": logged_bytes(run, ranks) / unit, "peak_mem_by_pipeline_rank_gib": every}


def _layer(facts: Facts, run: Run) -> Figures:
    forward, backward = layer_seconds(run, whole=facts.whole_layer)
    return {"layer_fwd_ms": 1e3 * forward, "layer_bwd_ms": 1e3 * backward}


def _bubble(facts: Facts, run: Run) -> Figures:
    return {"bubble_rate": bubble_rate(run, facts.op_times_ms or {})}


_PREDICTORS: dict[str, dict[str, Callable[[Facts, Run], Figures]]] = {
    "e2e": {"step_time_s": _step, "peak_mem_gib": _memory},
    "layer": {"layer_ms": _layer, "peak_mem_gib": _memory},
    "memory": {"peak_mem_gib": _memory},
    "schedule": {"bubble_rate": _bubble},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="records in the format of published.yaml")
    parser.add_argument("--out", type=Path, required=True, help="file for the predictions")
    parser.add_argument("--refused", type=Path, help="file for what is not predicted, with reasons")
    arguments = parser.parse_args()
    try:
        records = read_records(arguments.data)
    except ParsimError as error:
        sys.exit(f"error: {error}")
    found, refused = predictions(records)
    lines = [f"{refusal.record}: {refusal.figure}: {refusal.reason}" for refusal in refused]
    contents = {arguments.out: json.dumps(found, indent=1) + "\n"}
    if arguments.refused:
        contents[arguments.refused] = "".join(f"{line}\n" for line in lines)
    else:
        print("\n".join(lines), file=sys.stderr)
    try:
        write_all(contents)
    except ParsimError as error:
        sys.exit(f"error: {error}")
    print(f"{len(found)} of {len(records)} records predicted, {len(refused)} figures refused", file=sys.stderr)


if __name__ == "__main__":
    main()
