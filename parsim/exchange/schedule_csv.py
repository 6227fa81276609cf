"""A run's plan as PyTorch's schedule CSV: what `torch.distributed.pipelining` loads, ops that compute alone."""

from dataclasses import replace

from parsim.exchange.table import Note
from parsim.plan import COMPUTE, Plan, write_csv
from parsim.run_plan import plan_of
from parsim.spec import Run

__all__ = ["compute_csv", "schedule_csv"]


def schedule_csv(run: Run) -> tuple[str, list[Note]]:
    """The CSV of the run's plan, and what a reader must know. Raises ScheduleError where no schedule has this size."""
    plan = plan_of(run)
    notes = [Note("run", "a schedule is the order of ops on each pipeline rank; of the run it says nothing else")]
    if len(plan.placement.chains) > 1:
        notes.append(
            Note("layout.schedule", f"{plan.name} has two chains of stages: PyTorch's runtime plays one, parsim's both")
        )
    return compute_csv(plan), notes


def compute_csv(plan: Plan) -> str:
    """The CSV of a plan's F, B, I and W; messages and reductions are added by who plays it."""
    orders = (tuple(slot for slot in order if slot.first.kind in COMPUTE) for order in plan.orders)
    return write_csv(replace(plan, orders=tuple(orders)))
