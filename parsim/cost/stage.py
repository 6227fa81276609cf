"""A stage's ops as blocks: layers, the embedding on the first part, head, loss and MTP layers on the last.

F plays its layers forward, B, I and W in reverse. B is I and W of each layer in turn, so that seconds(B) =
seconds(I) + seconds(W) unless gathers of cut parameters overlap both. Recomputation belongs to I, and so to B.

The host must launch every kernel: a layer takes (gpu^6 + host^6)^(1/6) per direction, of which I and W have half a
host time each, and each micro-batch pays a loop on every stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from parsim.axes.axis import CollectiveKind, Comm
from parsim.cost.layer_segments import LayerSegments, layer_segments
from parsim.cost.optimizer import newton_schulz_flops
from parsim.cost.segments import Block, Collective, Kernel, Played, play
from parsim.cost.sublayout import CutWeights, StageLayout
from parsim.model.dims import Dim
from parsim.model.layer import (
    LayerKind,
    Pass,
    Work,
    embedding,
    head,
    layer_kind,
    layer_work,
    matmul_parameters,
    mtp_projection,
)
from parsim.network.price import collective_seconds
from parsim.plan.op import Kind
from parsim.plan.placement import Placement
from parsim.spec import RecomputeSpec

__all__ = ["Part", "StageSegments", "parts_of_stages", "stage_segments"]

_REMEMBERED = 512  # layouts of stages
_PASSES: dict[Kind, Pass] = {Kind.F: "F", Kind.I: "I", Kind.W: "W"}


@dataclass(frozen=True)
class Part:
    """What a stage's cost depends on: its layers in order, how many of the first are recomputed, and its ends."""

    layers: tuple[LayerKind, ...]
    recomputed: int = 0
    first: bool = False
    last: bool = False


@lru_cache(maxsize=1024)
def parts_of_stages(
    placement: Placement, kinds: tuple[LayerKind, ...], counts: tuple[int, ...], recompute: RecomputeSpec
) -> tuple[Part, ...]:
    """The part that each stage is an instance of, where part i has `counts[i]` of a model's layers."""
    before = list(accumulate(counts, initial=0))
    found: dict[int, Part] = {}
    for stages in placement.by_rank:
        on_rank = [placement.part_of[stage] for stage in stages]
        recomputed = recompute.touched_of([counts[part] for part in on_rank])
        for stage, part, again in zip(stages, on_rank, recomputed, strict=True):
            layers = kinds[before[part] : before[part + 1]]
            found[stage] = Part(layers, again, part == 0, part == placement.parts - 1)
    return tuple(found[stage] for stage in range(placement.stages))


class StageSegments:
    """Blocks and parameters of the parts of a layout whose layers `segments` prices."""

    def __init__(self, layout: StageLayout, segments: LayerSegments) -> None:
        self._layout, self._segments, inner = layout, segments, layout.inner
        self._model, self._sizes, self._constants = inner.model, inner.sizes, inner.constants
        self._mtp = layer_kind(inner.model, inner.model.layers)
        self._layers: dict[tuple[LayerKind, Kind, bool], tuple[Block, ...]] = {}
        self._weights: dict[tuple[LayerKind, bool], float] = {}

    def played(self, part: Part, kind: Kind) -> Played:
        """An op alone on an empty pair of streams."""
        return play(self.blocks(part, kind), self._segments.played)

    def parameters(self, part: Part, experts: bool = False) -> float:
        """Matmul and embedding weights of a part on one rank: its share of them; or those of its experts."""
        predicted = self._model.mtp_layers if part.last else 0
        held = sum(self._parameters(kind, experts) for kind in part.layers)
        held += predicted * self._parameters(self._mtp, experts)
        if experts:
            return held
        table = self._sizes[Dim.VOCAB] * self._sizes[Dim.HIDDEN]
        shared = part.first and part.last and self._model.tied_embeddings
        tables = int(part.first) + int(part.last) - int(shared)
        return held + predicted * matmul_parameters(mtp_projection(), self._sizes) + tables * table

    def blocks(self, part: Part, kind: Kind) -> tuple[Block, ...]:
        """The blocks of an F, B, I or W of `part`, in the order they are played."""
        constants = self._constants
        loop: Block = () if kind is Kind.W else (Kernel("loop", constants.microbatch_s / 2),)
        first = self._end(embedding(), kind) if part.first else ()
        last = self._last(kind) if part.last else ()
        layers = list(self._layers_of(part, kind))
        if kind is Kind.F:
            ordered = (loop, *self._unhidden(part, kind), *first, *layers, *last)
        else:
            ordered = (loop, *last, *layers, *first, *self._unhidden(part, kind))
        return tuple(block for block in ordered if block)

    def _parameters(self, kind: LayerKind, experts: bool) -> float:
        if (kind, experts) not in self._weights:
            work = layer_work(self._model, kind)
            self._weights[kind, experts] = matmul_parameters(work, self._sizes, experts)
        return self._weights[kind, experts]

    def orthogonalised_flops(self, part: Part, experts: bool = False) -> float:
        """FLOP that Muon takes for a part's matrices on one rank, or for those of its experts."""
        predicted = (self._mtp,) * self._model.mtp_layers if part.last else ()
        kinds = (*part.layers, *predicted)
        return sum(newton_schulz_flops(layer_work(self._model, kind), self._sizes, experts) for kind in kinds)

    def _layers_of(self, part: Part, kind: Kind) -> Iterator[Block]:
        """The blocks of a part's layers, in the order of the pass."""
        marked = [(layer, at < part.recomputed) for at, layer in enumerate(part.layers)]
        for layer, again in marked if kind is Kind.F else reversed(marked):
            key = layer, kind, again
            if key not in self._layers:
                self._layers[key] = self._layer(layer_work(self._model, layer), kind, again, layer.experts)
            yield from self._layers[key]

    def _last(self, kind: Kind) -> tuple[Block, ...]:
        """Head and loss; behind them each MTP layer with a head of its own use."""
        forward = self._end(head(), kind)
        for _ in range(self._model.mtp_layers):
            projection = self._layer(mtp_projection(), kind, False, False, host=False)
            layer = self._layer(layer_work(self._model, self._mtp), kind, False, self._mtp.experts)
            more = (*projection, *layer) if kind is Kind.F else (*layer, *projection)
            own = self._end(head(), kind)
            forward = (*forward, *more, *own) if kind is Kind.F else (*own, *more, *forward)
        return forward

    def _layer(
        self, work: tuple[Work, ...], kind: Kind, again: bool, experts: bool, host: bool = True
    ) -> tuple[Block, ...]:
        """One layer's blocks: I and W apart, or all in one beside the gathers of cut parameters."""
        passes: tuple[Pass, ...] = ("I", "W") if kind is Kind.B else (_PASSES[kind],)
        blocks = tuple(self._pass(work, which, again, experts, host) for which in passes)
        gathers = tuple(self._gathers(work, passes))
        return ((*gathers, *(segment for block in blocks for segment in block)),) if gathers else blocks

    def _pass(self, work: tuple[Work, ...], which: Pass, again: bool, experts: bool, host: bool) -> Block:
        if which == "F":
            block, share = self._segments.forward(work), 1.0
        elif which == "W":
            block, share = self._segments.weight_gradient(work), 0.5
        else:
            core = again and "core_attn" in (self._layout.modules or ())
            block = self._segments.input_gradient(work, core)
            block, share = ((*self._recomputed(work), *block) if again else block), 0.5
        return self._segments.launched(block, share, experts) if host else block

    def _recomputed(self, work: tuple[Work, ...]) -> Block:
        """What the backward plays of the forward: a whole layer, about half of it (every second matmul), or modules."""
        modules, constants = self._layout.modules, self._constants
        if modules is None:
            return self._segments.forward(work, again=True)
        if "every_second_matmul" in modules:
            shares = constants.alternate_matmuls, constants.alternate_tensor_parallel
            return self._segments.forward(work, *shares, again=True)
        return self._segments.modules_again(work, modules)

    def _end(self, work: tuple[Work, ...], kind: Kind) -> tuple[Block, ...]:
        """Embedding or head: no host time of its own, and no gathers beside it."""
        if kind is Kind.F:
            return (self._segments.forward(work),)
        gradient = (self._segments.input_gradient(work),) if kind in (Kind.B, Kind.I) else ()
        return (*gradient, self._segments.weight_gradient(work)) if kind in (Kind.B, Kind.W) else gradient

    def _gathers(self, work: tuple[Work, ...], passes: tuple[Pass, ...], hidden: bool = True) -> Iterator[Collective]:
        """Gathers and scatters of one layer's cut parameters, everyone's and the experts'."""
        for cut in self._layout.cut:
            for which in passes:
                for comm in cut.axis.comms(work, self._sizes, which):
                    yield self._gather(comm, cut, hidden)

    def _gather(self, comm: Comm, cut: CutWeights, hidden: bool = True) -> Collective:
        constants, software, (axis, paths) = self._constants, self._layout.inner.software, cut
        tensors = software.fsdp_unit == "tensor"
        path = paths.whole if axis.sets == 1 else paths.inside
        if comm.kind == "all_reduce":
            path = paths.across
        pieces = constants.tensor_unit_collectives if tensors else 1
        seconds = pieces * collective_seconds(comm.kind, comm.size_bytes / pieces, path)
        if tensors:
            seconds /= constants.tensor_unit_rate
        if comm.kind == "all_gather":
            seconds /= self._layout.microbatches_of_gather  # the mean, where only the first of them gathers
        overlaps = hidden and not tensors and software.dp_overlap
        return Collective(
            comm.kind, comm.axis, comm.size_bytes, path.ranks, seconds, overlaps, constants.fsdp_contention
        )

    def _unhidden(self, part: Part, kind: Kind) -> Iterator[Block]:
        """What nothing hides with cut parameters: the first layer's gather and the last one's scatter, and both of
        embedding and head. With cut gradients, the scatter.
        """
        which: Pass = "F" if kind is Kind.F else "W"
        cut = next((cut for cut in self._layout.cut if not cut.axis.experts), None)
        if kind is Kind.I or cut is None or not (cut.axis.sharded or which == "W"):
            return
        if part.layers:
            work = layer_work(self._model, part.layers[0])
            yield from ((collective,) for collective in self._gathers(work, (which,), hidden=False))
        data, ends = cut.axis, self.parameters(replace(part, layers=()))
        if ends:
            size = data.word_bytes if which == "F" else data.gradient_bytes
            kind_of: CollectiveKind = "all_gather" if which == "F" else "reduce_scatter"
            table = Comm(kind_of, data.name, "tables", size * ends)
            yield (self._gather(table, cut, hidden=False),)


@lru_cache(maxsize=_REMEMBERED)
def stage_segments(layout: StageLayout) -> StageSegments:
    """The prices of a layout's stages by the roofline, the same for everyone who asks."""
    return StageSegments(layout, layer_segments(layout.inner))
