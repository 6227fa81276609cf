"""What things cost in time: unit times given by hand, and a roofline of a transformer's ops on a GPU.

The roofline reads specifications, which take a moment to import; it is loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

from parsim.cost.cost import Cost
from parsim.cost.unit import UnitCost, parse_times

if TYPE_CHECKING:
    from parsim.cost.roofline import RooflineCost

__all__ = ["Cost", "RooflineCost", "UnitCost", "parse_times"]


def __getattr__(name: str) -> Any:
    if name == "RooflineCost":
        from parsim.cost.roofline import RooflineCost

        return RooflineCost
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
