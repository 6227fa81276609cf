"""plan_of(run): the score that a run plays, the same for the simulator and the executor."""

from dataclasses import replace

from parsim.errors import ScheduleError
from parsim.plan import COMPUTE, Plan, add_gradient_reduction, add_optimizer_step, check
from parsim.schedules import build
from parsim.spec import Run

__all__ = ["plan_of"]


def plan_of(run: Run, plan: Plan | None = None) -> Plan:
    """The plan a run plays: its schedule's, or the given one if it fits the run; with gradient reduction and
    optimizer step. Raises ScheduleError where the schedule is not defined at this size, or the plan does not fit.
    """
    layout = run.layout
    if plan is None:
        options = {} if layout.group_size is None else {"group_size": layout.group_size}
        plan = build(layout.schedule, layout.mesh.pp, run.microbatches, layout.stages_per_rank, **options)
    else:
        check(plan)
        plan = _computing(plan)
        if plan.placement.ranks != layout.mesh.pp:
            raise ScheduleError(
                f"plan {plan.name} has {plan.placement.ranks} pipeline ranks, the run has pp {layout.mesh.pp}"
            )
        if plan.microbatches != run.microbatches:
            batch = f"global batch {run.batch.global_batch_size} / (micro-batch {layout.micro_batch_size} * "
            raise ScheduleError(
                f"plan {plan.name} plays {plan.microbatches} micro-batches, the run has {run.microbatches} "
                f"({batch}dp {layout.mesh.dp})); a global batch of "
                f"{plan.microbatches * layout.micro_batch_size * layout.mesh.dp} would do"
            )
    return add_optimizer_step(add_gradient_reduction(plan))


def _computing(plan: Plan) -> Plan:
    """A plan's F, B, I and W: the run adds reductions and steps of its own."""
    orders = tuple(tuple(slot for slot in order if slot.first.kind in COMPUTE) for order in plan.orders)
    return replace(plan, orders=orders)
