"""Times of emulated ops: a table given by hand, or what the cost model predicts of a run."""

from parsim.cost import RooflineCost, UnitCost, parse_times
from parsim.errors import ScheduleError, SpecError
from parsim.plan import COMPUTE, Kind, Plan
from parsim.run_plan import plan_of
from parsim.spec import Run
from parsim.units import parse_quantity

__all__ = ["check_table", "roofline_times", "seconds_table"]


def seconds_table(text: str) -> UnitCost:
    """Times from `F=40ms,I=40ms,W=40ms`, lists by stage as `F=4ms:4ms:5ms`; seconds where no unit is given.

    Raises ScheduleError or SpecError for anything else.
    """
    items = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, values = item.partition("=")
        if not equals:
            raise ScheduleError(f"times: {item!r} is not NAME=TIME, as in F=40ms")
        seconds = (parse_quantity(value, "s") for value in values.split(":"))
        items.append(f"{name}={':'.join(f'{value:.12g}' for value in seconds)}")
    return parse_times(",".join(items))


def check_table(table: UnitCost, plan: Plan) -> None:
    """SpecError unless every kind that the plan plays has a time: the defaults of unit costs are not seconds."""
    kinds = {op.kind for _, op in plan.ops()}
    given = set(table.times)
    missing = [kind.value for kind in (Kind.F, Kind.I, Kind.W) if kind in kinds and kind.value not in given]
    if Kind.B in kinds and "B" not in given and not {"I", "W"} <= given:
        missing.append("B")
    if missing:
        raise SpecError(f"times: {plan.name} plays {', '.join(missing)}; give each its time, as in {missing[0]}=40ms")


def roofline_times(run: Run, plan: Plan | None = None) -> UnitCost:
    """What the cost model predicts of every stage's ops of a run; LayoutError for a run that it cannot price."""
    played = plan_of(run, plan)
    cost = RooflineCost(run, played.placement)
    times: dict[str, list[float]] = {}
    for order in played.orders:
        for slot in order:
            if slot.first.kind in COMPUTE:
                name = slot.first.kind.value if slot.second is None else "FB"
                row = times.setdefault(name, [0.0] * played.placement.stages)
                row[slot.first.stage] = cost.seconds(slot)
    return UnitCost({name: tuple(row) for name, row in times.items()})
