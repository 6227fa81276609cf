"""Cost: what a player asks about time. Everything in seconds.

An op's duration depends on its kind and stage, never on its micro-batch; a message's delay on the two stages.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from parsim.plan.op import Op, Slot

__all__ = ["CopyCost", "Cost", "StepCost"]


class Cost(Protocol):
    """A source of times: unit costs, a roofline, measurements."""

    def seconds(self, slot: Slot) -> float:
        """How long the slot (an op, or an overlapped pair) occupies its stream."""
        ...

    def hop_seconds(self, source: int, target: int) -> float:
        """Delay of the message that stage `source` hands to stage `target` on another rank."""
        ...


@runtime_checkable
class CopyCost(Cost, Protocol):
    """A source of times that also knows copies to and from the host (OFFLOAD and RELOAD)."""

    def lag_seconds(self, copy: Op, slot: Slot | None) -> float:
        """From the end of what comes first to the earliest start of what follows, zero or less: of an OFFLOAD behind
        the slot of its forward, of the slot of its backward behind a RELOAD. Without a slot: of the next slot behind an
        OFFLOAD, of a RELOAD behind the slot that precedes its backward.
        """
        ...


class StepCost(Cost, Protocol):
    """A source of times that can also tell what of them is communication, and where they come from."""

    def exposed_seconds(self, slot: Slot) -> Mapping[str, float]:
        """The part of a slot's seconds by cause: axes whose communication shows, and the optimizer in STEP."""
        ...

    @property
    def straggler(self) -> float:
        """What a whole step is stretched by: on large jobs, its slowest ranks and its barrier."""
        ...

    @property
    def evidence(self) -> Mapping[str, str]:
        """The grade of every number that the times come from."""
        ...
