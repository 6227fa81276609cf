"""plan_of(run): the score that a run plays, the same for the simulator and the executor.

An automatic schedule is made for the times that its stages have, the roofline's or whatever else plays it, and for the
share of an activation that W keeps by the memory ledger: they depend on the run and on where stages stand, not on the
orders. A run that the roofline cannot price can still be played: in the order for F = I = W.
"""

from collections.abc import Callable
from dataclasses import replace

from parsim.cost import Cost
from parsim.errors import LayoutError, ScheduleError
from parsim.plan import COMPUTE, Placement, Plan, add_gradient_reduction, add_offload, add_optimizer_step, check
from parsim.schedules import build, get
from parsim.spec import Run

__all__ = ["plan_of"]


def plan_of(run: Run, plan: Plan | None = None, timing: Callable[[Placement], Cost] | None = None) -> Plan:
    """The plan a run plays: its schedule's, or the given one if it fits the run; with gradient reduction and
    optimizer step. An automatic schedule is made for the costs of `timing` on its placement, if it is given, which
    should be those that play it. Raises ScheduleError where the schedule is not defined at this size, or the plan does
    not fit.
    """
    layout = run.layout
    if plan is None:
        plan = _scheduled(run, timing)
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
    if layout.offload is not None and layout.offload.moves_activations:
        from parsim.memory.host import stages_that_move

        plan = add_offload(plan, stages_that_move(run, plan.placement))
    return add_optimizer_step(add_gradient_reduction(plan))


def _scheduled(run: Run, timing: Callable[[Placement], Cost] | None) -> Plan:
    """The plan of the run's schedule, with the options that the layout states."""
    layout = run.layout
    stated = {"group_size": layout.group_size, "activation_limit_stages": layout.activation_limit_stages}
    options: dict[str, float] = {name: value for name, value in stated.items() if value is not None}
    if "weight_share" in get(layout.schedule).options:
        from parsim.memory import weight_share  # here and below: most plans need neither, and ranks start sooner

        options["weight_share"] = weight_share(run)

    def roofline(placement: Placement) -> Cost:
        from parsim.cost import RooflineCost

        return RooflineCost(run, placement)

    def made_for(timing: Callable[[Placement], Cost] | None) -> Plan:
        pp, microbatches, stages = layout.mesh.pp, run.microbatches, layout.stages_per_rank
        return build(layout.schedule, pp, microbatches, stages, timing=timing, **options)

    if timing is not None:
        return made_for(timing)
    try:
        return made_for(roofline)
    except LayoutError:
        return made_for(None)


def _computing(plan: Plan) -> Plan:
    """A plan's F, B, I and W: the run adds reductions and steps of its own."""
    orders = tuple(tuple(slot for slot in order if slot.first.kind in COMPUTE) for order in plan.orders)
    return replace(plan, orders=orders)
