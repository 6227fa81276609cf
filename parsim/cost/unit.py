"""Unit costs: times given by hand, one for all stages or one for each. What papers draw their diagrams with.

B is I + W and an overlapped pair F + B unless given; reductions and optimizer steps take no time, copies to and from
the host (OFFLOAD, RELOAD) none unless given.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from parsim.errors import ScheduleError
from parsim.plan.op import Kind, Op, Slot

__all__ = ["UnitCost", "parse_times"]

_NAMES = ("F", "I", "W", "B", "FB", "P2P", "OFFLOAD", "RELOAD")
_UNLESS_GIVEN = ("FB", "OFFLOAD", "RELOAD")
_LONGEST = 1e15  # sums of times stay exact enough to be told apart
_DEFAULTS = {"F": (1.0,), "I": (1.0,), "W": (1.0,), "P2P": (0.0,), "OFFLOAD": (0.0,), "RELOAD": (0.0,)}


@dataclass(frozen=True)
class UnitCost:
    """Times by kind: `times["F"]` has one entry for all stages or one for each stage; also I, W, B, FB, P2P,
    OFFLOAD and RELOAD.

    P2P is the delay of any message between two ranks (its list goes by the stage that sends).
    """

    times: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def time(self, name: str, stage: int) -> float:
        """The time of `name` on `stage`, with the defaults for what was not given."""
        values = self.times.get(name, _DEFAULTS.get(name))
        if values is not None:
            return values[0] if len(values) == 1 else values[stage]
        return sum(self.time(part, stage) for part in ("I", "W"))  # B, not given

    def seconds(self, slot: Slot) -> float:
        first, second = slot
        if first.kind in (Kind.REDUCE_GRAD, Kind.STEP):
            return 0.0
        alone = self.time(first.kind.value, first.stage)
        if second is None:
            return alone
        if "FB" in self.times and second.kind is Kind.B:
            return self.time("FB", first.stage)
        return alone + self.time(second.kind.value, second.stage)

    def hop_seconds(self, source: int, target: int) -> float:
        return self.time("P2P", source)

    def lag_seconds(self, copy: Op, slot: Slot | None) -> float:
        """A copy is one piece: it begins when its forward has ended, and its backward when it has; it keeps no other
        slot waiting, and may run beside all of the slot before the backward.
        """
        return 0.0 if slot is not None else -self.time(copy.kind.value, copy.stage)

    def document(self, stages: int) -> dict[str, float | list[float]]:
        """Every time as played: one number, or a list by stage where stages differ."""
        names = [name for name in _NAMES if name not in _UNLESS_GIVEN or name in self.times]
        rows = {name: [self.time(name, stage) for stage in range(stages)] for name in names}
        return {name: row[0] if len(set(row)) == 1 else row for name, row in rows.items()}

    def check(self, stages: int) -> None:
        """ScheduleError if a list of times is not as long as the number of stages."""
        for name, values in self.times.items():
            if len(values) not in (1, stages):
                raise ScheduleError(
                    f"times: {name} lists {len(values)} stages, the plan has {stages}; give 1 or {stages}"
                )


def parse_times(text: str) -> UnitCost:
    """Unit costs from `F=1,I=1,W=1,P2P=0.1`; a list by stage is written `F=1:1:1.2`. Raises ScheduleError."""
    times: dict[str, tuple[float, ...]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, values = item.partition("=")
        if not equals or name not in _NAMES:
            raise ScheduleError(f"times: {item!r} is not NAME=VALUE with NAME one of {', '.join(_NAMES)}")
        if name in times:
            raise ScheduleError(f"times: {name} is given twice")
        times[name] = tuple(_number(value, item) for value in values.split(":"))
    return UnitCost(times)


def _number(text: str, item: str) -> float:
    if not re.fullmatch(r"\d+\.?\d*([eE][+-]?\d+)?|\.\d+", text) or (value := float(text)) > _LONGEST:
        raise ScheduleError(f"times: {text!r} in {item!r} is not a finite number from 0 to {_LONGEST:g}")
    return value
