"""Data parallelism: replicas that each take a share of the batch, plain (DDP), with cut states (ZeRO), or FSDP.

The reduction rule: dp cuts batch, W contracts it, so every weight gradient owes a reduction over the ranks that
hold the same weights (dp, and cp, which cuts seq). Plain data parallelism and ZeRO-1 pay it once a step, outside
the ops. With cut parameters (ZeRO-3, FSDP) every layer is gathered in F and again in the backward, and its
gradient scattered, in every micro-batch.

Elements sent per rank for P parameters on n ranks (a ring): ZeRO-0, 1 and 2: 2P(n-1)/n a step; ZeRO-3:
3P(n-1)/n a micro-batch, 2P(n-1)/n if parameters stay whole between forward and backward (Rajbhandari et al. 2020).
"""

from dataclasses import dataclass

from parsim.axes.axis import CollectiveKind, Comm
from parsim.model.dims import Dim, Sizes
from parsim.model.layer import Pass, Work, matmul_parameters

__all__ = ["DataAxis", "sent_elements"]


def sent_elements(parameters: float, ranks: int, zero: int, regather: bool = True) -> float:
    """Elements that a rank sends for one micro-batch of ZeRO-3, or one step of ZeRO-0 to 2, over a ring."""
    volumes = 2 if zero < 3 or not regather else 3
    return volumes * parameters * (ranks - 1) / ranks


@dataclass(frozen=True)
class DataAxis:
    """dp of a run. `sharded`: parameters are cut and gathered layer by layer; `regather`: again in the backward.
    Gathers carry the words that are computed with, whatever the masters are kept in.
    """

    degree: int
    sharded: bool = False
    regather: bool = True
    gradient_bytes: int = 4
    word_bytes: int = 2
    name: str = "dp"

    @property
    def cuts(self) -> frozenset[Dim]:
        return frozenset({Dim.BATCH})

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        """Gathers and scatters of one layer's parameters; nothing unless they are cut."""
        parameters = matmul_parameters(work, sizes)
        if self.degree == 1 or not self.sharded or not parameters:
            return ()
        first = work[0].name
        if which == "W":
            return (Comm("reduce_scatter", self.name, first, self.gradient_bytes * parameters),)
        if which == "I" and not self.regather:
            return ()
        return (Comm("all_gather", self.name, first, self.word_bytes * parameters, before=True),)

    def reduction(self, parameters: float, scattered: bool) -> Comm:
        """The gradient reduction of a stage, once a step: scattered where each rank updates its share alone."""
        kind: CollectiveKind = "reduce_scatter" if scattered else "all_reduce"
        return Comm(kind, self.name, "gradients", self.gradient_bytes * parameters)

    def gather(self, parameters: float) -> Comm:
        """The gather of updated parameters that follows a scattered reduction, once a step."""
        return Comm("all_gather", self.name, "parameters", self.word_bytes * parameters)
