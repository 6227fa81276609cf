"""What things cost in time: unit times given by hand, and a roofline of a transformer's ops on a GPU."""

from parsim.cost.cost import Cost
from parsim.cost.unit import UnitCost, parse_times

__all__ = ["Cost", "UnitCost", "parse_times"]
