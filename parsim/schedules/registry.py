"""The schedules of this folder, found by discovery, and `build`: from a name and a size to a plan."""

import gc
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache

import parsim.schedules
from parsim.errors import ScheduleError
from parsim.plan import Placement, Plan
from parsim.schedules.schedule import Schedule, Size, Timing

__all__ = ["build", "get", "names"]


@cache
def _schedules() -> dict[str, Schedule]:
    """Every `SCHEDULE` and `SCHEDULES` of the package's modules, by name, in alphabetical order."""
    found: dict[str, Schedule] = {}
    for module_info in pkgutil.iter_modules(parsim.schedules.__path__):
        module = importlib.import_module(f"{parsim.schedules.__name__}.{module_info.name}")
        own = (module.SCHEDULE,) if hasattr(module, "SCHEDULE") else ()
        for schedule in (*own, *getattr(module, "SCHEDULES", ())):
            if schedule.name in found:
                raise ScheduleError(
                    f"schedule {schedule.name!r} is defined twice, the second time in {module.__name__}"
                )
            found[schedule.name] = schedule
    return dict(sorted(found.items()))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A plan is hundreds of thousands of small tuples and no circle. Left on, the garbage collector would walk them
    again and again while they are made, which takes twice as long as making them.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def names() -> tuple[str, ...]:
    """The names of all schedules, in alphabetical order."""
    return tuple(_schedules())


def get(name: str) -> Schedule:
    """The schedule called `name`; ScheduleError with the nearest name if there is none."""
    try:
        return _schedules()[name]
    except KeyError:
        close = get_close_matches(name.lower().replace("_", "-"), names(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names())}"
        raise ScheduleError(f"no schedule is called {name!r}; {hint}") from None


def build(
    name: str,
    pp: int,
    microbatches: int,
    stages_per_rank: int | None = None,
    *,
    timing: Callable[[Placement], Timing] | None = None,
    **options: float,
) -> Plan:
    """The plan of a schedule for `pp` pipeline ranks and `microbatches` micro-batches (all chains together).

    A schedule that plans by times asks `timing` for those of its placement; without, F = I = W and messages take none.
    Raises ScheduleError for an unknown name or option, and for a size at which the schedule is not defined. That a
    schedule's plans are sound (`plan.check`) is proved by the tests for all schedules, not again for each plan.
    """
    schedule = get(name)
    size = Size(pp, microbatches, schedule.default_stages if stages_per_rank is None else stages_per_rank, options)
    schedule.check(size)
    placement = schedule.placement(pp, size.stages_per_rank)
    timed = {"timing": timing and timing(placement)} if schedule.timed else {}
    with _collector_paused():
        orders = schedule.orders(pp, microbatches, size.stages_per_rank, **timed, **options)
    return Plan(name, placement, microbatches, orders)
