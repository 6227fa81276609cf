"""A plan played at unit costs: what `parsim schedule` tells of a schedule before any model or machine is known."""

from dataclasses import dataclass
from typing import Any

from parsim.cost.unit import UnitCost
from parsim.errors import ScheduleError
from parsim.metrics import BUBBLE_DEFINITIONS, Bubble, activation_peaks, bubble
from parsim.plan import Plan, check, plan_document
from parsim.timeline import Timeline

__all__ = ["ScheduleResult", "play_schedule"]


@dataclass(frozen=True)
class ScheduleResult:
    """A played plan: its recording, its bubbles, and the stage-activations each rank holds at its peak."""

    plan: Plan
    times: UnitCost
    timeline: Timeline
    bubble: Bubble
    peak_activations: tuple[int, ...]

    @property
    def makespan(self) -> float:
        return self.bubble.makespan

    def document(self) -> dict[str, Any]:
        """The JSON of `parsim schedule`; `parsim schedule --plan` reads it back."""
        plan = plan_document(self.plan)
        placement = self.plan.placement
        return {
            "schema_version": plan["schema_version"],
            "schedule": self.plan.name,
            "pp": placement.ranks,
            "microbatches": self.plan.microbatches,
            "stages_per_rank": placement.parts // placement.ranks,
            "times": self.times.document(placement.stages),
            "makespan": self.makespan,
            "ideal": self.bubble.ideal,
            "bubble": self.bubble.document(),
            "definitions": BUBBLE_DEFINITIONS,
            "per_rank": [
                {
                    "rank": use.rank,
                    "busy": use.busy,
                    "span": use.span,
                    "idle": use.idle,
                    "peak_activations": self.peak_activations[use.rank],
                }
                for use in self.bubble.ranks
            ],
            "placement": plan["placement"],
            "orders": plan["orders"],
        }


def play_schedule(plan: Plan, times: UnitCost | None = None, memory_limit: float | None = None) -> ScheduleResult:
    """Play a plan at unit costs.

    Raises ScheduleError for an unsound plan, for lists of times of another length than the stages, and for a rank
    that holds more stage-activations than `memory_limit`; DeadlockError for a plan that never ends.
    """
    from parsim.sim import compile_plan, latest_first_starts, play, prices, recording

    times = times or UnitCost()
    check(plan)
    times.check(plan.placement.stages)
    peaks = activation_peaks(plan)
    if memory_limit is not None and max(peaks) > memory_limit:
        rank = peaks.index(max(peaks))
        raise ScheduleError(
            f"{plan.name}: rank {rank} holds {peaks[rank]} stage-activations, the memory limit is {memory_limit:g}; "
            f"a limit of {peaks[rank]} would do"
        )
    program = compile_plan(plan)
    priced = prices(program, times)
    played = play(program, priced)
    timeline = recording(program, played)
    return ScheduleResult(plan, times, timeline, bubble(timeline, latest_first_starts(program, played)), peaks)
