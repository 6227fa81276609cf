"""Cost: what a player asks about time. Everything in seconds.

An op's duration depends on its kind and stage, never on its micro-batch; a message's delay on the two stages.
"""

from typing import Protocol

from parsim.plan.op import Slot

__all__ = ["Cost"]


class Cost(Protocol):
    """A source of times: unit costs, a roofline, measurements."""

    def seconds(self, slot: Slot) -> float:
        """How long the slot (an op, or an overlapped pair) occupies its stream."""
        ...

    def hop_seconds(self, source: int, target: int) -> float:
        """Delay of the message that stage `source` hands to stage `target` on another rank."""
        ...
