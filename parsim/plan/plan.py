"""Plan: the score. An ordered list of slots for each pipeline rank, and where the stages stand."""

from collections.abc import Iterator
from dataclasses import dataclass

from parsim.errors import ScheduleError
from parsim.plan.op import Op, Slot
from parsim.plan.placement import Placement

__all__ = ["Orders", "Plan"]

Orders = tuple[tuple[Slot, ...], ...]


@dataclass(frozen=True)
class Plan:
    """What each pipeline rank plays, in order: `orders[rank]`.

    `microbatches` is m, the micro-batches of one step of one pipeline, all chains counted together (a
    bidirectional schedule plays m / 2 in each direction). A Plan may be wrong: `deps.check` proves it sound.
    """

    name: str
    placement: Placement
    microbatches: int
    orders: Orders

    def __post_init__(self) -> None:
        if self.microbatches < 1:
            raise ScheduleError(f"micro-batches {self.microbatches}: a plan needs at least 1")
        if len(self.orders) != self.placement.ranks:
            raise ScheduleError(f"plan has {len(self.orders)} orders for {self.placement.ranks} pipeline ranks")
        chains = len(self.placement.chains)
        if rest := self.microbatches % chains:
            below, above = self.microbatches - rest, self.microbatches - rest + chains
            way_out = f"{below} or {above}" if below else f"{above}"
            raise ScheduleError(
                f"micro-batches {self.microbatches}: {chains} chains share them evenly; {way_out} would do"
            )

    @property
    def microbatches_per_chain(self) -> int:
        """How many micro-batches each stage sees."""
        return self.microbatches // len(self.placement.chains)

    def ops(self) -> Iterator[tuple[int, Op]]:
        """Every op with its rank, rank by rank in order."""
        for rank, order in enumerate(self.orders):
            for slot in order:
                for op in slot.ops:
                    yield rank, op
