"""What things cost in time: unit times given by hand, a roofline of a transformer's ops on a GPU, measured times.

Those that read specifications, which take a moment to import, are loaded when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parsim.cost.cost import Cost, StepCost
from parsim.cost.unit import UnitCost, parse_times

if TYPE_CHECKING:
    from parsim.cost.layer_table import LayerTable, layer_table_from_document
    from parsim.cost.measured import MeasuredCost, cost_from_document
    from parsim.cost.roofline import RooflineCost

__all__ = [
    "Cost",
    "LayerTable",
    "MeasuredCost",
    "RooflineCost",
    "StepCost",
    "UnitCost",
    "cost_from_document",
    "layer_table_from_document",
    "parse_times",
]

_HOMES = {
    "LayerTable": "layer_table",
    "MeasuredCost": "measured",
    "RooflineCost": "roofline",
    "cost_from_document": "measured",
    "layer_table_from_document": "layer_table",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"parsim.cost.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
