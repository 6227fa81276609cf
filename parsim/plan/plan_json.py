"""Plans as JSON, both ways: `{"schema_version", "name", "microbatches", "placement": {...}, "orders": [["0F0", ...]]}`.

What `parsim schedule --json` prints is such a document too. Without `placement` it is inferred as for a CSV.
"""

from typing import Any

from parsim.errors import ScheduleError
from parsim.plan.deps import check
from parsim.plan.placement import Placement
from parsim.plan.plan import Plan
from parsim.plan.torch_csv import infer_plan, read_orders

__all__ = ["SCHEMA_VERSION", "plan_document", "plan_from_document"]

SCHEMA_VERSION = "1.0"


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON values."""
    placement = plan.placement
    return {
        "schema_version": SCHEMA_VERSION,
        "name": plan.name,
        "microbatches": plan.microbatches,
        "placement": {
            "chains": [list(chain) for chain in placement.chains],
            "rank_of": list(placement.rank_of),
            "part_of": list(placement.part_of),
        },
        "orders": [[str(slot) for slot in order] for order in plan.orders],
    }


def plan_from_document(document: object) -> Plan:
    """The sound plan that a JSON document (already plain values) spells. ScheduleError: what is missing or broken."""
    if not isinstance(document, dict):
        raise ScheduleError("not a plan: the JSON must be an object with the key 'orders'")
    version = document.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, str) or version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise ScheduleError(f"schema_version {version!r}: this parsim reads {SCHEMA_VERSION.split('.')[0]}.x")
    rows = document.get("orders")
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and all(isinstance(c, str) for c in row) for row in rows
    ):
        raise ScheduleError("not a plan: 'orders' must be a list of lists of ops like \"2F0\"")
    orders = read_orders(rows)
    name = document.get("name", document.get("schedule", "custom"))
    if not isinstance(name, str):
        raise ScheduleError("not a plan: 'name' must be text")
    microbatches = document.get("microbatches")
    if "placement" not in document:
        plan = infer_plan(orders, name)
        if microbatches not in (None, plan.microbatches):
            raise ScheduleError(f"microbatches {microbatches!r}: the orders play {plan.microbatches}")
        return plan
    placement = _read_placement(document["placement"])
    if type(microbatches) is not int:
        raise ScheduleError(f"microbatches {microbatches!r}: a plan with a placement states them as a whole number")
    plan = Plan(name, placement, microbatches, orders)
    check(plan)
    return plan


def _read_placement(value: object) -> Placement:
    def whole(numbers: object) -> tuple[int, ...]:
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ScheduleError("placement: chains, rank_of and part_of are lists of whole numbers")
        return tuple(numbers)

    if (
        not isinstance(value, dict)
        or set(value) != {"chains", "rank_of", "part_of"}
        or not isinstance(value["chains"], list)
    ):
        raise ScheduleError("placement: needs exactly the keys chains, rank_of and part_of")
    return Placement(tuple(whole(chain) for chain in value["chains"]), whole(value["rank_of"]), whole(value["part_of"]))
