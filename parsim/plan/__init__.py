"""The score: ops, slots, placements and plans; the one dependency rule; passes; CSV and JSON."""

from parsim.plan.deps import check, last_backward, levels, needs
from parsim.plan.op import BACKWARD, COMPUTE, Kind, Op, Slot, parse_op, parse_slot
from parsim.plan.passes import add_gradient_reduction, add_offload, add_optimizer_step, add_p2p, compute_only
from parsim.plan.placement import Placement, looped, mirrored, straight, vee
from parsim.plan.plan import Orders, Plan
from parsim.plan.plan_json import plan_document, plan_from_document
from parsim.plan.torch_csv import parse_csv, write_csv

__all__ = [
    "BACKWARD",
    "COMPUTE",
    "Kind",
    "Op",
    "Orders",
    "Placement",
    "Plan",
    "Slot",
    "add_gradient_reduction",
    "add_offload",
    "add_optimizer_step",
    "add_p2p",
    "check",
    "compute_only",
    "last_backward",
    "levels",
    "looped",
    "mirrored",
    "needs",
    "parse_csv",
    "parse_op",
    "parse_slot",
    "plan_document",
    "plan_from_document",
    "straight",
    "vee",
    "write_csv",
]
