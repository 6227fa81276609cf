"""parsim: plan the parallel layout of large-model training.

    run = parsim.load("llama3-405b-16k")   # a YAML file, or the name of a bundled run
    result = parsim.simulate(run)          # step time, bubbles, memory of every pipeline rank
    result.step_time_s

Names are loaded when first used, so that importing parsim costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parsim.comparison import compare as compare
    from parsim.errors import ParsimError as ParsimError
    from parsim.plan import Plan as Plan
    from parsim.search.planner import search as search
    from parsim.simulation import simulate as simulate
    from parsim.spec import Run as Run
    from parsim.spec import load_run as load
    from parsim.spec import load_search as load_search
    from parsim.step_result import StepResult as StepResult
    from parsim.timeline import Timeline as Timeline

__version__ = "0.1.0"

_HOMES = {
    "ParsimError": ("parsim.errors", "ParsimError"),
    "Plan": ("parsim.plan", "Plan"),
    "Run": ("parsim.spec", "Run"),
    "StepResult": ("parsim.step_result", "StepResult"),
    "Timeline": ("parsim.timeline", "Timeline"),
    "compare": ("parsim.comparison", "compare"),
    "load": ("parsim.spec", "load_run"),
    "load_search": ("parsim.spec", "load_search"),
    "search": ("parsim.search", "search"),
    "simulate": ("parsim.simulation", "simulate"),
}

__all__ = [
    "ParsimError",
    "Plan",
    "Run",
    "StepResult",
    "Timeline",
    "__version__",
    "compare",
    "load",
    "load_search",
    "search",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'parsim' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
