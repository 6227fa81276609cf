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
from parsim.cost import LayerTable, RooflineCost, StepCost
from parsim.errors import SpecError
from parsim.explanation.hidden import hidden_of
from parsim.explanation.slowest import slowest_stage_of
from parsim.explanation.waterfall import waterfall_of
from parsim.memory import RankMemory, memory_of, memory_samples
from parsim.metrics import RankUse, bubble
from parsim.model.flops import model_flops
from parsim.network.estimate import Correction
from parsim.network.groups import axis_groups
from parsim.plan import Placement, Plan
from parsim.run_plan import plan_of
from parsim.sim import Noise, Played, Prices, compile_plan, latest_first_starts, play, play_events, prices, recording
from parsim.sim.contention_run import play_contended
from parsim.sim.period import lasting
from parsim.spec import Mesh, Run
from parsim.step_result import RankRow, StepResult
from parsim.units import format_seconds

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
    layers: LayerTable | None = None,
    contention: bool = False,
    every_rank: bool = False,
    steps: int = 1,
    jitter: float = 0.0,
    slow_ranks: Mapping[int, float] | None = None,
    seed: int | None = None,
) -> StepResult:
    """Predict one step of `run` (with several, the one in the middle, and the time of each).

    `jitter` is the sigma of a lognormal factor of mean 1 on every op, `slow_ranks` factors by global rank, `seed`
    overrides the run's. `plan` plays instead of the run's schedule, `cost` (measured times) prices it instead of the
    roofline, `correction` (a user's nccl-tests log) prices its collectives,
    `layers` its kernels where it has the very shape. With `contention` SimPy plays what is
    inside the ops on the shared links, where it slows what it meets. Raises LayoutError for a run that cannot be
    priced, ScheduleError for a schedule or plan that does not fit it, SpecError for impossible noise.
    """
    if engine not in _PLAYERS:
        raise SpecError(f"engine {engine}: one of {', '.join(_PLAYERS)}")
    if steps < 1:
        raise SpecError(f"steps {steps}: at least 1")
    if cost is not None and correction is not None:
        raise SpecError(
            "measured costs hold their collectives already: a calibration of collectives cannot change them"
        )
    if cost is not None and layers is not None:
        raise SpecError("measured costs hold their kernels already: a layer table cannot change them")

    def priced_on(placement: Placement) -> StepCost:
        return RooflineCost(run, placement, correction=correction, layers=layers) if cost is None else cost

    measured = cost is not None or correction is not None or layers is not None
    full_plan = plan_of(run, plan, priced_on if measured else None)
    step_cost = priced_on(full_plan.placement)
    program = compile_plan(full_plan)
    priced = _stretched(prices(program, step_cost), step_cost.straggler)
    memory = memory_of(run, full_plan)
    noise = Noise(jitter, _slow_lanes(run, slow_ranks or {}), run.seed if seed is None else seed)
    lanes = run.layout.mesh.dp * run.layout.mesh.cp if every_rank or not noise.silent else 1

    _check_barrier(run, contention, noise)
    contended = _contended(step_cost, lanes) if contention else None

    def take(step: int) -> Played:
        multipliers = (
            None if lanes == 1 and noise.silent else noise.multipliers(program, lanes, step, run.layout.mesh.tp)
        )
        if contended is not None:
            return play_contended(program, priced, contended, multipliers)
        return _PLAYERS[engine](program, priced, multipliers, join=lanes)

    # Of further steps only the times are kept; the one in the middle is played again, the same by its seed.
    first, barrier = take(0), not run.software.post_validation
    times = (lasting(first, barrier), *(lasting(take(step), barrier) for step in range(1, steps)))
    middle = sorted(range(steps), key=times.__getitem__)[(steps - 1) // 2]
    played = take(middle) if middle else first
    return _read(run, step_cost, memory, played, times, times[middle], every_rank, contention)


def _check_barrier(run: Run, contention: bool, noise: Noise) -> None:
    """SpecError where nobody can tell what a step without a barrier lasts."""
    if run.software.post_validation and (contention or not noise.silent):
        raise SpecError(
            "software.post_validation: without a barrier steps run into each other, which is told of replicas that are "
            "alike on links of their own; post_validation false, or neither contention, jitter nor slow ranks would do"
        )


def _contended(cost: StepCost, lanes: int) -> RooflineCost:
    """The cost that can say what is inside its ops. SpecError for measured times, and for replicas that differ."""
    if not isinstance(cost, RooflineCost):
        raise SpecError("contention plays what is inside ops, and measured times do not tell: without them it would do")
    if lanes > 1:
        raise SpecError(
            "contention plays one replica for all that are alike: without every rank, jitter or slow ranks it would do"
        )
    return cost


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
    step_s: float,
    every_rank: bool,
    contended: bool,
) -> StepResult:
    """What the recording of the slowest lane says, and with `every_rank` the use of every rank."""
    program = played.program
    slowest = _slowest_lane(played)
    evidence = _evidence(run, cost)
    timeline = recording(program, played, lane=slowest, run=run.document(), evidence=evidence)
    rows_of_ranks = timeline.by_rank()
    samples = (
        sample for held, spans in zip(memory, rows_of_ranks, strict=True) for sample in memory_samples(held, spans)
    )
    timeline = replace(timeline, memory=tuple(samples))
    found = bubble(timeline, latest_first_starts(program, played, slowest), step_s)
    waterfall = waterfall_of(run, program.plan, cost, rows_of_ranks, step_s, contended=contended)
    return StepResult(
        run=run,
        plan=program.plan,
        timeline=timeline,
        bubble=found,
        memory=memory,
        rows=tuple(_every_rank(run, played) if every_rank else map(_pipeline_rank, found.ranks)),
        waterfall=waterfall,
        hidden=hidden_of(program.plan, cost, timeline),
        slowest_stage=slowest_stage_of(run, program.plan, cost),
        model_flops=model_flops(run.model, run.batch.sequence_length, run.batch.global_batch_size),
        step_times_s=times,
        lanes=played.lanes,
        evidence=evidence,
        groups=_groups(run),
        notes=(*_notes(run, timeline.makespan_s, step_s), *(cost.notes if isinstance(cost, RooflineCost) else ())),
    )


def _notes(run: Run, makespan_s: float, step_s: float) -> tuple[str, ...]:
    """That a step without a barrier is not what its recording shows."""
    if not run.software.post_validation:
        return ()
    return (
        f"post-validation: no barrier ends the step, and ranks start the next one as soon as they can: its time is the "
        f"period of the steady state, {format_seconds(step_s)}; from a common start a step would take "
        f"{format_seconds(makespan_s)}",
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
