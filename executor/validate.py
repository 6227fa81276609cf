"""Validation: how well the simulator tells time and memory of this machine, in five parts that are never mixed.

- `gradients`: the ranks' gradients and losses against those of a single process.
- `structural`: replay. The measured op times of a recorded step go back into the simulator, one by one; what its
  makespan misses are dependencies, messages and gaps between ops. It is no advance prediction.
- `emulated`: an advance prediction. Compute ops sleep for times known beforehand, messages are real.
- `real`: a prediction from the steps around it. Every second step calibrates, the others are predicted.
- `memory`: an advance prediction of every rank's peak, by the ledger with this executor's habits.

Ratios are predicted over measured. `spread` is the largest ratio of a step less the smallest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from executor.job import Job
from executor.parity import Parity
from executor.record import RunRecord
from parsim.axes.mesh import coordinates
from parsim.cost import Cost, MeasuredCost, UnitCost
from parsim.cost.measured import durations_of, medians_of
from parsim.errors import ScheduleError, SpecError
from parsim.memory import memory_of
from parsim.sim import Played, compile_plan, play, prices, recording, replay
from parsim.spec import Run
from parsim.timeline import Timeline

__all__ = [
    "ENOUGH_CPU",
    "Prediction",
    "emulated_part",
    "gradients_part",
    "memory_part",
    "per_op",
    "predicted_timeline",
    "real_part",
    "structural_part",
]

ENOUGH_CPU = 0.9
"""Below this share of the CPU inside its ops a run is too noisy to tell anything about a prediction."""
_FEWEST_STEPS = 3


@dataclass(frozen=True)
class Prediction:
    """A predicted step beside the measured ones: `part` is the report's entry."""

    part: Mapping[str, Any]
    played: Played
    measured: tuple[Timeline, ...]
    """The recordings of the steps that were predicted."""


def structural_part(record: RunRecord, hop_s: float) -> dict[str, Any]:
    """Replay every recorded step with its own op times; a message takes `hop_s`."""
    ratios = []
    for step, measured_s in enumerate(record.step_s):
        timeline = record.timeline(step)
        played = replay(record.job.plan, durations_of(timeline), hop_s)
        ratios.append(played.makespan / measured_s)
    shortest = min(_durations(record.timeline()), default=0.0)
    return {**_ratios(ratios), "shortest_op_s": shortest, "hop_s": hop_s, "is_prediction": False}


def emulated_part(record: RunRecord, hop_s: float) -> Prediction:
    """Predict emulated steps from their table of times and a message's time, both known before."""
    times = record.job.times
    if times is None:
        raise SpecError("the run was not emulated; give --emulate a table of --times")
    table = UnitCost({**times.times, "P2P": (hop_s,)})
    played = _play(record.job, table)
    ratios = [played.makespan / measured_s for measured_s in record.step_s]
    part = {
        "predicted_s": played.makespan,
        "measured_s": median(record.step_s),
        **_ratios(ratios),
        "hop_s": hop_s,
        "times": times.document(record.job.plan.placement.stages),
        "is_prediction": True,
    }
    return Prediction(part, played, tuple(record.timeline(step) for step in range(len(record.step_s))))


def real_part(record: RunRecord, hop_s: float) -> Prediction:
    """Predict every second step: with medians of all steps between (`ratio`), and each from its two neighbours
    (`spread`); a message takes `hop_s`. SpecError for fewer than three steps.
    """
    steps = len(record.step_s)
    if steps < _FEWEST_STEPS:
        raise SpecError(f"steps {steps}: calibration between the steps needs at least {_FEWEST_STEPS}")
    timelines = [record.timeline(step) for step in range(steps)]
    predicted, calibrating = range(0, steps, 2), range(1, steps, 2)
    played = _play(record.job, _cost(record.job, [timelines[step] for step in calibrating], hop_s))
    ratios = [
        _play(record.job, _cost(record.job, near, hop_s)).makespan / record.step_s[step]
        for step in predicted
        if (near := [timelines[other] for other in calibrating if abs(other - step) == 1])
    ]
    measured_s = median(record.step_s[step] for step in predicted)
    shares = [share for step in range(steps) if (share := record.cpu_share(step)) is not None]
    share = median(shares) if shares else None
    part = {
        "predicted_s": played.makespan,
        "measured_s": measured_s,
        **_ratios(ratios),
        "ratio": played.makespan / measured_s,
        "cpu_share": share,
        "too_noisy": share is not None and share < ENOUGH_CPU,
        "is_prediction": True,
    }
    return Prediction(part, played, tuple(timelines[step] for step in predicted))


def gradients_part(parity: Parity, precision: str, model: str) -> dict[str, Any]:
    """The comparison with a single process; `model` says of what (a smaller one where the run's is too large)."""
    return {**parity._asdict(), "precision": precision, "model": model}


def memory_part(record: RunRecord) -> dict[str, Any]:
    """Every rank's peak, and the most activations it holds between ops: the ledger's beside the counted ones."""
    job = record.job
    predicted = memory_of(_with_our_habits(job.run), job.plan)
    rows: list[dict[str, Any]] = []
    for rank in record.ranks:
        memory = predicted[coordinates(job.run.layout.mesh, rank.rank).pp]
        slot, highest = max(rank.memory, key=lambda sample: sum(sample[1].values()))
        measured = sum(highest.values())
        rows.append(
            {
                "rank": rank.rank,
                "predicted_bytes": memory.peak_bytes,
                "measured_bytes": measured,
                "ratio": memory.peak_bytes / measured,
                "predicted_in": str(memory.peak.slot) if memory.peak is not None else None,
                "measured_in": slot,
                "predicted_activation_bytes": max(moment.after for moment in memory.moments),
                "measured_activation_bytes": max(held["activations"] for _, held in rank.memory),
            }
        )
    ratios = [row["ratio"] for row in rows]
    return {
        "ratio": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "per_rank": rows,
        "is_prediction": True,
    }


def _with_our_habits(run: Run) -> Run:
    """The run as this executor plays it, whatever framework it is of; its types and its dropout stay its own."""
    habits = {"framework": "parsim-executor", "preset_version": None, "loss": "torch", "ops": "eager"}
    unpadded = {"vocab_pad_multiple": None, "fused_weight_gradient": False}
    return run.model_copy(update={"software": run.software.model_copy(update=habits | unpadded)})


def per_op(prediction: Prediction) -> list[dict[str, Any]]:
    """For every op its predicted and its median measured duration and their ratio, in the order of the prediction."""
    found = [durations_of(timeline) for timeline in prediction.measured]
    rows = []
    for span in recording(prediction.played.program, prediction.played).spans:
        measured = [durations[span.op] for durations in found if span.op in durations]
        if not measured:
            continue  # an emulated run has no reductions and no steps
        predicted_s, measured_s = span.end_s - span.start_s, median(measured)
        rows.append(
            {
                "op": str(span.op),
                "rank": span.rank,
                "predicted_s": predicted_s,
                "measured_s": measured_s,
                "ratio": predicted_s / measured_s if measured_s else None,
            }
        )
    return rows


def predicted_timeline(prediction: Prediction, job: Job, evidence: str) -> Timeline:
    """The prediction as a recording, for `parsim compare`."""
    played = prediction.played
    return recording(played.program, played, run=job.run.document(), evidence={evidence: ["spans"]})


def _cost(job: Job, timelines: Sequence[Timeline], hop_s: float) -> MeasuredCost:
    placement = job.plan.placement
    return MeasuredCost(placement, medians_of(timelines, placement.stages), hop_s)


def _play(job: Job, cost: Cost) -> Played:
    program = compile_plan(job.plan)
    return play(program, prices(program, cost))


def _durations(timeline: Timeline) -> list[float]:
    return [seconds for op, seconds in durations_of(timeline).items() if op.mb is not None]


def _ratios(ratios: Sequence[float]) -> dict[str, Any]:
    if not ratios:
        raise ScheduleError("nothing was recorded; at least 1 step would do")
    return {
        "ratio": median(ratios),
        "spread": max(ratios) - min(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "steps": len(ratios),
    }
