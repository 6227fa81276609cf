"""A stage's ops as blocks: layers, the embedding on the first part, head and loss on the last.

F plays its layers forward, B, I and W in reverse. B is I and W of each layer in turn, so that seconds(B) =
seconds(I) + seconds(W) unless gathers of cut parameters overlap both. Recomputation belongs to I, and so to B.

The host must launch every kernel: a layer takes (gpu^6 + host^6)^(1/6) per direction, of which I and W have half a
host time each, and each micro-batch pays a loop on every stage.
"""

from dataclasses import dataclass, replace

from parsim.axes.axis import Comm
from parsim.axes.dp import DataAxis
from parsim.cost.constants import Constants
from parsim.cost.layer_segments import LayerSegments
from parsim.cost.links import RunLinks
from parsim.cost.segments import Block, Collective, Kernel, play
from parsim.model.dims import Dim, Sizes
from parsim.model.layer import Pass, Work, dense_layer, embedding, head, matmul_parameters
from parsim.network.price import Latency, collective_seconds
from parsim.plan.op import Kind
from parsim.spec import Run

__all__ = ["Part", "StageSegments"]

_NOTICED_S = 1e-9
_PASSES: dict[Kind, Pass] = {Kind.F: "F", Kind.I: "I", Kind.W: "W"}


@dataclass(frozen=True)
class Part:
    """What a stage's cost depends on: its layers, how many of them are recomputed in full, and its ends."""

    layers: int
    recomputed: int = 0
    first: bool = False
    last: bool = False


class StageSegments:
    """Blocks and parameters of the parts of one run."""

    def __init__(
        self,
        run: Run,
        dp: DataAxis,
        sizes: Sizes,
        layer: LayerSegments,
        links: RunLinks,
        constants: Constants,
    ) -> None:
        self._run, self._dp, self._sizes = run, dp, sizes
        self._segments, self._links, self._constants = layer, links, constants
        self._work = dense_layer(run.model)
        self._layers = {
            (kind, again): self._layer(kind, again)
            for kind in (Kind.F, Kind.B, Kind.I, Kind.W)
            for again in (False, True)
        }

    def parameters(self, part: Part) -> float:
        """Matmul and embedding weights of a part on one rank (all of its tensor-parallel share)."""
        table = self._sizes[Dim.VOCAB] * self._sizes[Dim.HIDDEN]
        shared = part.first and part.last and self._run.model.tied_embeddings
        tables = int(part.first) + int(part.last) - int(shared)
        return part.layers * self.layer_parameters + tables * table

    @property
    def layer_parameters(self) -> float:
        """Weights of one layer on one rank."""
        return matmul_parameters(self._work, self._sizes)

    def blocks(self, part: Part, kind: Kind) -> tuple[Block, ...]:
        """The blocks of an F, B, I or W of `part`, in the order they are played."""
        constants = self._constants
        plain, again = self._layers[kind, False], self._layers[kind, True]
        loop: Block = () if kind is Kind.W else (Kernel("loop", constants.microbatch_s / 2),)
        first = self._end(embedding(), kind) if part.first else ()
        last = self._end(head(), kind) if part.last else ()
        if kind is Kind.F:
            layers = again * part.recomputed + plain * (part.layers - part.recomputed)
            ordered = (loop, *self._unhidden(part, kind), *first, *layers, *last)
        else:
            layers = plain * (part.layers - part.recomputed) + again * part.recomputed
            ordered = (loop, *last, *layers, *first, *self._unhidden(part, kind))
        return tuple(block for block in ordered if block)

    def _layer(self, kind: Kind, again: bool) -> tuple[Block, ...]:
        """One layer's blocks: I and W apart, or all in one beside the gathers of cut parameters."""
        passes: tuple[Pass, ...] = ("I", "W") if kind is Kind.B else (_PASSES[kind],)
        blocks = tuple(self._pass(which, again) for which in passes)
        gathers = tuple(self._gather(c) for which in passes for c in self._dp.comms(self._work, self._sizes, which))
        return ((*gathers, *(segment for block in blocks for segment in block)),) if gathers else blocks

    def _pass(self, which: Pass, again: bool) -> Block:
        if which == "F":
            return self._with_host(self._segments.forward(self._work), 1.0)
        if which == "W":
            return self._with_host(self._segments.weight_gradient(self._work), 0.5)
        core_again = "core_attn" in self._run.layout.recompute.modules
        gradient = self._segments.input_gradient(self._work, core_again)
        return self._with_host((*self._recomputed(again), *gradient), 0.5)

    def _recomputed(self, whole: bool) -> Block:
        """What the backward plays of the forward: a whole layer, or about half of it (every second matmul)."""
        recompute, constants = self._run.layout.recompute, self._constants
        if whole:
            return self._segments.forward(self._work)
        if "every_second_matmul" in recompute.modules:
            return self._segments.forward(self._work, constants.alternate_matmuls, constants.alternate_tensor_parallel)
        return ()

    def _with_host(self, block: Block, share: float) -> Block:
        """The block, and how much longer the host needs to launch it than the GPU to play it."""
        constants, graphs = self._constants, self._run.software.cuda_graphs
        host = 0.0 if graphs in ("full", "full_iteration") else constants.host_layer_s * share
        if isinstance(graphs, tuple):
            host *= constants.host_graphs
        gpu = play([block]).seconds
        power = constants.host_sharpness
        extra = (gpu**power + host**power) ** (1 / power) - gpu
        return (Kernel("host", extra), *block) if extra > _NOTICED_S else block

    def _end(self, work: tuple[Work, ...], kind: Kind) -> tuple[Block, ...]:
        """Embedding or head: no host time of its own, and no gathers beside it."""
        if kind is Kind.F:
            return (self._segments.forward(work),)
        gradient = (self._segments.input_gradient(work),) if kind in (Kind.B, Kind.I) else ()
        return (*gradient, self._segments.weight_gradient(work)) if kind in (Kind.B, Kind.W) else gradient

    def _gather(self, comm: Comm, hidden: bool = True) -> Collective:
        constants, tensors = self._constants, self._run.software.fsdp_unit == "tensor"
        path, latency = self._links.data.whole, self._links.data.latency
        if tensors:
            path = path._replace(bytes_per_s=path.bytes_per_s * constants.tensor_unit_rate)
            latency = Latency(*(value * constants.tensor_unit_collectives for value in latency))
        seconds = collective_seconds(comm.kind, comm.size_bytes, path, latency)
        if comm.kind == "all_gather" and not self._run.layout.reshard_after_forward:
            seconds /= self._run.microbatches  # gathered in the first micro-batch alone: its mean over all of them
        overlaps = hidden and not tensors and self._run.software.dp_overlap
        return Collective(
            comm.kind, comm.axis, comm.size_bytes, path.ranks, seconds, overlaps, constants.fsdp_contention
        )

    def _unhidden(self, part: Part, kind: Kind) -> tuple[Block, ...]:
        """What nothing hides with cut parameters: the first layer's gather and the last one's scatter, and both of
        embedding and head.
        """
        which: Pass = "F" if kind is Kind.F else "W"
        if kind is Kind.I or not self._dp.sharded:
            return ()
        ends = self.parameters(replace(part, layers=0))
        size = self._dp.word_bytes if which == "F" else self._dp.gradient_bytes
        table = Comm("all_gather" if which == "F" else "reduce_scatter", self._dp.name, "tables", size * ends)
        layer = self._dp.comms(self._work, self._sizes, which) if part.layers else ()
        comms = (*layer, table) if ends else layer
        return tuple((self._gather(comm, hidden=False),) for comm in comms if self._dp.degree > 1)
