"""simulate(run): from a run to a predicted step.

The run's schedule becomes a plan, the roofline (or what was measured) prices it, an engine plays it, and the recording
is read: step time, bubbles, exposed times by cause, memory on every pipeline rank. Ranks that are alike are played
once, one lane for all replicas; jitter, slow ranks or `every_rank` unfold the data-parallel replicas into lanes of
their own.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from parsim.axes.mesh import Coordinates, coordinates
from parsim.cost import RooflineCost, StepCost
from parsim.errors import SpecError
from parsim.memory import RankMemory, memory_of, memory_samples
from parsim.metrics import RankUse, bubble, busy_seconds
from parsim.model.flops import model_flops
from parsim.network.estimate import Correction
from parsim.network.groups import axis_groups
from parsim.plan import COMPUTE, Kind, Plan
from parsim.run_plan import plan_of
from parsim.sim import Noise, Played, Prices, compile_plan, latest_first_starts, play, play_events, prices, recording
from parsim.spec import Mesh, Run
from parsim.step_result import RankRow, StepResult
from parsim.timeline import Span

__all__ = ["simulate"]

Engine = Literal["path", "events"]
_PLAYERS = {"path": play, "events": play_events}


def simulate(
    run: Run,
    *,
    engine: Engine = "path",
    plan: Plan | None = None,
    cost: StepCost | None = None,
    correction: Correction | None = None,
    every_rank: bool = False,
    steps: int = 1,
    jitter: float = 0.0,
    slow_ranks: Mapping[int, float] | None = None,
    seed: int | None = None,
) -> StepResult:
    """Predict one step of `run` (with several, the one in the middle, and the time of each).

    `jitter` is the sigma of a lognormal factor of mean 1 on every op, `slow_ranks` factors by global rank, `seed`
    overrides the run's. `plan` plays instead of the run's schedule, `cost` (measured times) prices it instead of the
    roofline, `correction` (a user's nccl-tests log) prices its collectives. Raises LayoutError for a run that cannot be
    priced, ScheduleError for a schedule or plan that does not fit it, SpecError for impossible noise.
    """
    if engine not in _PLAYERS:
        raise SpecError(f"engine {engine}: one of {', '.join(_PLAYERS)}")
    if steps < 1:
        raise SpecError(f"steps {steps}: at least 1")
    full_plan = plan_of(run, plan)
    if cost is not None and correction is not None:
        raise SpecError(
            "measured costs hold their collectives already: a calibration of collectives cannot change them"
        )
    cost = RooflineCost(run, full_plan.placement, correction=correction) if cost is None else cost
    memory = memory_of(run, full_plan)
    program = compile_plan(full_plan)
    priced = _stretched(prices(program, cost), cost.straggler)
    noise = Noise(jitter, _slow_lanes(run, slow_ranks or {}), run.seed if seed is None else seed)
    lanes = run.layout.mesh.dp * run.layout.mesh.cp if every_rank or not noise.silent else 1

    def take(step: int) -> Played:
        multipliers = None if lanes == 1 and noise.silent else noise.multipliers(program, lanes, step)
        return _PLAYERS[engine](program, priced, multipliers, join=lanes)

    # Of further steps only the times are kept; the one in the middle is played again, the same by its seed.
    first = take(0)
    times = (first.makespan, *(take(step).makespan for step in range(1, steps)))
    middle = sorted(range(steps), key=times.__getitem__)[(steps - 1) // 2]
    return _read(run, cost, memory, take(middle) if middle else first, times, every_rank)


def _stretched(priced: Prices, factor: float) -> Prices:
    """The fitted step-end factor of large jobs (stragglers, barrier) stretches all alike: times scale linearly."""
    return Prices(priced.durations * factor, priced.delays * factor)


def _slow_lanes(run: Run, slow_ranks: Mapping[int, float]) -> dict[tuple[int, int], float]:
    """Factors by (lane, pipeline rank); the ranks of a tp group advance together, at the pace of the slowest."""
    mesh, named = run.layout.mesh, dict[tuple[int, int], list[float]]()
    for rank, factor in slow_ranks.items():
        if not 0 <= rank < mesh.size:
            raise SpecError(f"slow rank {rank}: the run has ranks 0 to {mesh.size - 1}")
        if not 0 < factor < math.inf:
            raise SpecError(f"slow rank {rank}: the factor must be finite and more than 0, not {factor:g}")
        at = coordinates(mesh, rank)
        named.setdefault((_lane(mesh, at), at.pp), []).append(factor)
    # Whoever is not named runs at factor 1: one fast rank does not speed up its group.
    return {key: max(factors + [1.0] * (len(factors) < mesh.tp)) for key, factors in named.items()}


def _lane(mesh: Mesh, at: Coordinates) -> int:
    """The replica that a rank belongs to: all that share its weights, counted through dp and cp."""
    return at.dp * mesh.cp + at.cp


def _evidence(run: Run, cost: StepCost) -> dict[str, list[str]]:
    """Every number's name under its grade: the cost model's, the machine's, the run's, and defaults not stated."""
    grades = {**cost.evidence, **{f"run.{name}": str(known.grade) for name, known in run.evidence.items()}}
    grades |= dict.fromkeys((f"run.{name}" for name in run.assumed), "assumed")
    found: dict[str, list[str]] = {}
    for name, grade in grades.items():
        found.setdefault(grade, []).append(name)
    return dict(sorted(found.items()))


def _read(
    run: Run,
    cost: StepCost,
    memory: tuple[RankMemory, ...],
    played: Played,
    times: tuple[float, ...],
    every_rank: bool,
) -> StepResult:
    """What the recording of the slowest lane says, and with `every_rank` the use of every rank."""
    program = played.program
    slowest = _slowest_lane(played)
    evidence = _evidence(run, cost)
    timeline = recording(program, played, lane=slowest, run=run.document(), evidence=evidence)
    rows_of_ranks = timeline.by_rank()
    samples = (
        sample
        for held, spans in zip(memory, rows_of_ranks, strict=True)
        for sample in memory_samples(held, [span for span in spans if span.op.kind in COMPUTE])
    )
    timeline = replace(timeline, memory=tuple(samples))
    found = bubble(timeline, latest_first_starts(program, played, slowest))
    exposed = _exposed(program.plan, cost, rows_of_ranks, found.makespan)
    return StepResult(
        run=run,
        plan=program.plan,
        timeline=timeline,
        bubble=found,
        memory=memory,
        rows=tuple(_every_rank(run, played) if every_rank else map(_pipeline_rank, found.ranks)),
        compute_s=found.makespan - sum(exposed.values()),
        exposed_s=exposed,
        model_flops=model_flops(run.model, run.batch.sequence_length, run.batch.global_batch_size),
        step_times_s=times,
        lanes=played.lanes,
        evidence=evidence,
        groups=_groups(run),
    )


def _groups(run: Run) -> dict[str, dict[str, object]]:
    """Where the groups of each axis stand; dp with cp, whose ranks share weights too."""
    mesh = run.layout.mesh
    axes = {"tp": ("tp",), "cp": ("cp",), "dp": ("cp", "dp"), "pp": ("pp",)}
    return {
        axis: axis_groups(run.cluster, mesh, *names).document()
        for axis, names in axes.items()
        if getattr(mesh, axis) > 1
    }


def _slowest_lane(played: Played) -> int:
    """The lane that ends last. Lanes that a reduction joined end together: then the one that worked longest, for
    whom the others waited.
    """
    ends = played.makespans
    last = [lane for lane in range(played.lanes) if ends[lane] >= ends.max() * (1 - 1e-12)]
    return last[0] if len(last) == 1 else max(last, key=lambda lane: sum(played.busy(lane)))


def _exposed(plan: Plan, cost: StepCost, ranks: list[list[Span]], makespan: float) -> dict[str, float]:
    """Seconds of the step by cause, averaged over pipeline ranks.

    Inside an op, what its segments expose; before a STEP, waiting for gradients is "dp"; all other idle time of the
    compute stream is "pipeline"; "straggler" is the share by which everything was stretched.
    """
    found = dict.fromkeys(("pipeline", "tp", "cp", "ep", "dp", "optimizer", "straggler"), 0.0)
    for order, spans in zip(plan.orders, ranks, strict=True):
        lasted = {span.op: span.end_s - span.start_s for span in spans}
        for slot in order:
            if slot.first.kind is not Kind.REDUCE_GRAD:
                # Noise stretches what an op exposes like the rest of it.
                clean = cost.seconds(slot) * cost.straggler
                factor = lasted[slot.first] / clean if clean else 1.0
                for cause, seconds in cost.exposed_seconds(slot).items():
                    found[cause] = found.get(cause, 0.0) + seconds * factor
        waiting = sum(span.waiting_s for span in spans if span.op.kind is Kind.STEP) / cost.straggler
        found["dp"] += waiting
        found["pipeline"] += (makespan - busy_seconds(spans)) / cost.straggler - waiting
        found["straggler"] += makespan - makespan / cost.straggler
    return {cause: seconds / len(ranks) for cause, seconds in found.items()}


def _pipeline_rank(use: RankUse) -> RankRow:
    return RankRow(use.rank, use.busy, use.idle)


def _every_rank(run: Run, played: Played) -> Iterator[RankRow]:
    """A row for each global rank, in its order; ranks of one tp group share their lane's times."""
    mesh, makespan = run.layout.mesh, played.makespan
    busy = [played.busy(lane) for lane in range(played.lanes)]
    for rank in range(mesh.size):
        at = coordinates(mesh, rank)
        seconds = busy[_lane(mesh, at)][at.pp]
        yield RankRow(at.pp, seconds, max(makespan - seconds, 0.0), rank)
