"""Sublayout: what the time inside an op reads of a run, and nothing else.

Layouts differ in much that no layer notices: other replicas, another schedule, another batch. What prices a layer is
given its `Sublayout` and no run, so that equal ones are priced once, whatever layouts they are parts of.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from parsim.axes.dp import DataAxis
from parsim.cost.constants import Constants
from parsim.cost.links import DataPaths, RunLinks
from parsim.cost.rates import Rates, both_rates_of
from parsim.cost.run_axes import InnerAxes, RunAxes
from parsim.model.dims import Dim, Sizes
from parsim.network.price import Path
from parsim.spec import ModelSpec, Run, Software
from parsim.spec.layout import Precision, RecomputeModule

__all__ = ["CutWeights", "InnerPaths", "StageLayout", "Sublayout", "stage_layout_of", "sublayout_of"]

_PAIRED = ("dualpipe", "dualpipe-v")


@dataclass(frozen=True)
class InnerPaths:
    """What the groups of the axes inside an op talk over; None for those of one rank, which owe nothing. `context` is
    that of the way in which cp brings queries and keys together.
    """

    tensor: Path | None = None
    context: Path | None = None
    expert: Path | None = None
    expert_tensor: Path | None = None


@dataclass(frozen=True)
class Sublayout:
    """One rank's share of a micro-batch, its GPU and the links of its inner groups."""

    model: ModelSpec
    software: Software
    precision: Precision
    axes: InnerAxes
    dims: tuple[Dim, ...]
    lengths: tuple[float, ...]
    """Of the dims, on one rank."""
    paths: InnerPaths
    rates: Rates
    layer_rates: Rates
    """Of the layers' matmuls."""
    constants: Constants
    microbatches_of_cast: int = 1
    """Micro-batches that share one cast of the weights."""
    hides_exchanges: bool = False
    """Whether dispatch and combine run beside compute of the same op, as another micro-batch's would."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Of what differs most: the rest is left to the comparison."""
        return hash((self.model, self.axes, self.lengths, self.paths, self.precision, self.hides_exchanges))

    @cached_property
    def sizes(self) -> Sizes:
        """Lengths on one rank."""
        return dict(zip(self.dims, self.lengths, strict=True))


class CutWeights(NamedTuple):
    """An axis that cuts parameters or gradients, and what its ranks talk over."""

    axis: DataAxis
    paths: DataPaths


@dataclass(frozen=True)
class StageLayout:
    """What the ops of a stage read beside its part: its layers' sublayout, what is recomputed, and which weights are
    gathered and scattered in every micro-batch.
    """

    inner: Sublayout
    modules: tuple[RecomputeModule, ...] | None = None
    """What is recomputed of a layer; None: all of it."""
    cut: tuple[CutWeights, ...] = ()
    microbatches_of_gather: int = 1
    """Micro-batches that share one gather."""


def stage_layout_of(run: Run, axes: RunAxes, links: RunLinks, inner: Sublayout) -> StageLayout:
    """The stages' share of a run's layout."""
    recompute = run.layout.recompute
    cut = tuple(
        CutWeights(axis, links.expert_data if axis.experts else links.data)
        for axis in axes.holders
        if (axis.sharded or axis.scattered) and axis.ranks != 1
    )
    gathered_once = cut and not run.layout.reshard_after_forward
    return StageLayout(
        inner,
        recompute.modules if recompute.mode == "selective" else None,
        cut,
        run.microbatches if gathered_once else 1,
    )


def sublayout_of(
    run: Run, axes: RunAxes, sizes: Sizes, links: RunLinks, constants: Constants, paired: bool = False
) -> Sublayout:
    """The sublayout of a run whose rank has `sizes`; `paired`: of ops that share the streams with another's."""
    (rates, layer_rates), layout = both_rates_of(run, constants), run.layout
    found = Sublayout(
        model=run.model,
        software=run.software,
        precision=layout.precision,
        axes=axes.inner,
        dims=tuple(sizes),
        lengths=tuple(sizes.values()),
        paths=_paths(run, axes, links),
        rates=rates,
        layer_rates=layer_rates,
        constants=constants,
        microbatches_of_cast=run.microbatches if layer_rates.cast else 1,
        hides_exchanges=axes.expert is not None
        and (paired or (run.software.ep_overlap and layout.schedule not in _PAIRED)),
    )
    return _only(found)


@lru_cache(maxsize=512)
def _only(layout: Sublayout) -> Sublayout:
    """The first that was equal: one object for all that share it."""
    return layout


def _paths(run: Run, axes: RunAxes, links: RunLinks) -> InnerPaths:
    ways = {"ring": "context_ring", "a2a": "context_exchange", "allgather": "context"}
    expert, slices = axes.expert, axes.expert_tensor
    return InnerPaths(
        tensor=links.tensor if axes.tensor.degree > 1 else None,
        context=getattr(links, ways[run.layout.cp_comm]) if axes.context.degree > 1 else None,
        expert=links.expert if expert is not None and expert.degree > 1 else None,
        expert_tensor=links.expert_tensor if slices is not None and slices.degree > 1 else None,
    )
