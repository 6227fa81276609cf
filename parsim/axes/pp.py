"""Pipeline parallelism: the layers in slices. It cuts no dim, so it owes no reduction, only messages.

A message is the activation (or its gradient) of a micro-batch at a boundary: s*b*h elements of 2 bytes each way.
Ranks of a tensor-parallel group hold the same activation: with sequence parallelism each has and sends a t-th of
it; Megatron of 2021 cuts the message the same way and gathers it on arrival (Narayanan et al. 2021, section 4.1).
"""

from dataclasses import dataclass

from parsim.axes.axis import Comm
from parsim.model.dims import Dim, Sizes, rows_of
from parsim.model.layer import Pass, Work

__all__ = ["PipelineAxis"]


@dataclass(frozen=True)
class PipelineAxis:
    """pp of a run; `message_share` is the part of an activation that one rank sends (1 or 1/tp)."""

    degree: int
    message_share: float = 1.0
    word_bytes: int = 2
    name: str = "pp"

    @property
    def cuts(self) -> frozenset[Dim]:
        return frozenset()

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        """Nothing inside an op: messages go between ops."""
        return ()

    def message(self, sizes: Sizes) -> Comm:
        """What one rank sends to the next stage (and gets back as a gradient) for a micro-batch."""
        size = self.word_bytes * rows_of(sizes) * sizes[Dim.HIDDEN] * self.message_share
        return Comm("send", self.name, "boundary", size)
