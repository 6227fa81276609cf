"""Schedule: what a pipeline schedule is, as data; Rule: one condition on a size; Size: the numbers it is asked for.

A file in this folder that defines `SCHEDULE = Schedule(...)` (or `SCHEDULES = (...)` for close kin) is a schedule
of parsim: it picks a placement and an order for each rank. Dependencies, messages, tests and the command line's
list follow from that.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from parsim.errors import ScheduleError
from parsim.plan import Orders, Placement, Slot
from parsim.plan.edges import Edges

__all__ = ["ANY", "Rule", "Schedule", "Size", "Timing", "exactly"]

ANY = range(1, 1001)  # any number of stages per rank, within reason

_MOST_RANKS = 1024
_MOST_FORWARDS = 10_000_000  # of all stages of one plan; beyond it the ops alone take several gigabytes
_LABELS = {"pp": "pp", "stages_per_rank": "stages per rank", "microbatches": "micro-batches"}


def exactly(stages_per_rank: int) -> range:
    """The legal stages per rank of a schedule that is defined for one number only."""
    return range(stages_per_rank, stages_per_rank + 1)


class Timing(Protocol):
    """Times as a player asks for them: what a schedule that plans by times is given. Every cost model is one."""

    def seconds(self, slot: Slot) -> float:
        """How long the slot occupies its stream."""
        ...

    def hop_seconds(self, source: int, target: int) -> float:
        """Delay of the message that stage `source` hands to stage `target` on another rank."""
        ...


@dataclass(frozen=True)
class Size:
    """What a schedule is asked for: p pipeline ranks, m micro-batches (all chains together), v stages per rank."""

    pp: int
    microbatches: int
    stages_per_rank: int
    options: Mapping[str, float] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """The number that a rule judges: pp, microbatches, stages_per_rank, or an option."""
        value: float = self.options[name] if name in self.options else getattr(self, name)
        return value

    def at(self, name: str, value: int) -> "Size":
        """The same size with one number replaced."""
        if name in self.options:
            return replace(self, options={**self.options, name: value})
        return replace(self, **{name: value})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rule:
    """A condition on one number of a size, given those judged before it (pp, stages per rank, micro-batches, options).

    Legal are the numbers from `least` to `most` for which `holds`; `says` completes "SCHEDULE ... needs".
    """

    judges: str
    says: Callable[[Size], str]
    least: Callable[[Size], int] = lambda size: 1
    most: Callable[[Size], int] = lambda size: sys.maxsize
    holds: Callable[[Size], bool] = lambda size: True

    def legal(self, size: Size) -> bool:
        return self.least(size) <= size.value(self.judges) <= self.most(size) and self.holds(size)


@dataclass(frozen=True)
class Schedule:
    """A pipeline schedule as data.

    `placement(p, v)` says where the stages stand and `orders(p, m, v, **options)` what each rank plays.
    `backward` is "full" (B), "split" (I then W) or "mixed" (B where nothing is gained by splitting). `legal_stages`
    are the legal stages per rank. `rules` come on top of those that hold for every schedule.
    `peak_activations(p, m, v, rank, **options)` is the most stage-activations the rank holds at once, each from its F
    to its B (or W), in closed form; None where none is known. `period(p, m, v, **options)` is how many micro-batches
    more give the same plan with its steady blocks played once more (where it has such blocks); None where plans do not
    repeat. `edges(p, m, v, **options)` counts what ranks play around their first and last backwards, for one m or an
    array of them, in closed form: what `chain_bound` takes; None where none is known. Options are whole numbers but
    for those that are `fractional`. Where the orders are `timed` they also take `timing`, a Timing of the placement's
    stages or None.
    """

    name: str
    paper: str
    placement: Callable[[int, int], Placement]
    orders: Callable[..., Orders]
    backward: Literal["full", "split", "mixed"] = "full"
    legal_stages: range = exactly(1)
    default_stages: int = 1
    rules: tuple[Rule, ...] = ()
    options: tuple[str, ...] = ()
    fractional: tuple[str, ...] = ()
    timed: bool = False
    peak_activations: Callable[..., int] | None = None
    period: Callable[..., int | None] = lambda pp, m, v, **options: None
    edges: Callable[..., Edges] | None = None

    def check(self, size: Size) -> None:
        """Raise ScheduleError (rule, numbers, nearest legal values) unless the schedule is defined at `size`."""
        for option in size.options:
            if option not in self.options:
                known = f"its options are {', '.join(self.options)}" if self.options else "it takes none"
                raise ScheduleError(f"{self.name} has no option {option!r}; {known}")
        rules = (*self._common_rules(), *self.rules)
        for number in ("pp", "stages_per_rank", "microbatches", *size.options):
            value = size.value(number)
            if number in self.fractional:
                if type(value) not in (int, float) or not math.isfinite(value):
                    raise ScheduleError(f"{_label(number)} {value!r}: {self.name} needs a finite number")
            elif type(value) is not int:
                raise ScheduleError(f"{_label(number)} {value!r}: {self.name} needs a whole number")
            judges = [rule for rule in rules if rule.judges == number]
            broken = next((rule for rule in judges if not rule.legal(size)), None)
            if broken is not None:
                raise ScheduleError(self._refusal(size, number, broken, judges))

    def _common_rules(self) -> tuple[Rule, ...]:
        stages = self.legal_stages
        few = f"exactly {stages[0]}" if len(stages) == 1 else f"{stages[0]} to {stages[-1]}"
        return (
            Rule("pp", lambda size: f"1 to {_MOST_RANKS} pipeline ranks", most=lambda size: _MOST_RANKS),
            Rule("stages_per_rank", lambda size: few, least=lambda size: stages[0], most=lambda size: stages[-1]),
            Rule("microbatches", lambda size: "at least 1"),
            Rule(
                "microbatches",
                lambda size: f"at most {_MOST_FORWARDS} forwards in all (pp × stages per rank × micro-batches)",
                least=lambda size: -sys.maxsize,
                most=lambda size: _MOST_FORWARDS // (size.pp * size.stages_per_rank),
            ),
        )

    def _refusal(self, size: Size, number: str, broken: Rule, judges: list[Rule]) -> str:
        """One line: the number, the rule it breaks, and the nearest values that break none of this number's rules."""
        value = size.value(number)
        least = max(rule.least(size) for rule in judges)
        most = min(rule.most(size) for rule in judges)

        def first(candidates: range) -> list[int]:
            legal = (c for c in candidates if all(rule.legal(size.at(number, c)) for rule in judges))
            return list(next(((c,) for c in legal), ()))

        below, above = math.ceil(value) - 1, math.floor(value) + 1
        near = first(range(min(below, most), least - 1, -1)) + first(range(max(above, least), most + 1))
        at = "" if number in ("pp", "stages_per_rank") else f" at pp {size.pp}"
        way_out = f"{' or '.join(map(str, near))} would do" if near else "no value would do"
        return f"{_label(number)} {value}: {self.name}{at} needs {broken.says(size)}; {way_out}"


def _label(number: str) -> str:
    return _LABELS.get(number, number)
