"""Data parallelism: replicas that each take a share of the batch, plain (DDP), with cut states (ZeRO), or FSDP.

The reduction rule: dp cuts batch, W contracts it, so every weight gradient owes a reduction over the ranks that
hold the same weights (dp, and cp, which cuts seq). Plain data parallelism and ZeRO-1 pay it once a step, outside
the ops. With cut parameters (ZeRO-3, FSDP) every layer is gathered in F and again in the backward, and its
gradient scattered, in every micro-batch; with cut gradients alone (ZeRO-2) they are scattered in every micro-batch
too, for a rank has no room for the rest. Where parameters are cut inside sets of ranks (hybrid sharding) each rank's
share of a gradient is then reduced across the sets.

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
    `scattered`: gradients are cut. Gathers carry the words that are computed with, whatever the masters are kept in.

    `ranks` hold the same weights (cp's share them too; None: as many as `degree`), in `sets` that each hold all shards.
    `experts`: whether it is the experts' own (True), which fewer ranks share, or everyone else's (False).
    """

    degree: int
    sharded: bool = False
    regather: bool = True
    gradient_bytes: int = 4
    word_bytes: int = 2
    name: str = "dp"
    scattered: bool = False
    ranks: int | None = None
    sets: int = 1
    experts: bool | None = None

    @property
    def cuts(self) -> frozenset[Dim]:
        return frozenset({Dim.ROUTED if self.experts else Dim.BATCH})

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        """Gathers and scatters of one layer's parameters; nothing unless they, or their gradients, are cut."""
        parameters = matmul_parameters(work, sizes, self.experts)
        ranks = self.degree if self.ranks is None else self.ranks
        if ranks == 1 or not (self.sharded or self.scattered) or not parameters:
            return ()
        first, shards = work[0].name, ranks // self.sets
        if which == "W":
            size = self.gradient_bytes * parameters
            scatter = (Comm("reduce_scatter", self.name, first, size),) if shards > 1 else ()
            return scatter if self.sets == 1 else (*scatter, Comm("all_reduce", self.name, first, size / shards))
        if not self.sharded or shards == 1 or (which == "I" and not self.regather):
            return ()
        return (Comm("all_gather", self.name, first, self.word_bytes * parameters, before=True),)

    def reduction(self, parameters: float, scattered: bool) -> Comm:
        """The gradient reduction of a stage, once a step: scattered where each rank updates its share alone."""
        kind: CollectiveKind = "reduce_scatter" if scattered else "all_reduce"
        return Comm(kind, self.name, "gradients", self.gradient_bytes * parameters)

    def gather(self, parameters: float) -> Comm:
        """The gather of updated parameters that follows a scattered reduction, once a step."""
        return Comm("all_gather", self.name, "parameters", self.word_bytes * parameters)
