"""The segments of one layer, embedding or head in a pass: its work as kernels, what the axes owe between them."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

from parsim.axes.axis import Comm
from parsim.cost.attention import attention_flops, attention_seconds
from parsim.cost.collectives import inner_collective
from parsim.cost.elementwise import elementwise_seconds
from parsim.cost.layer_table import LayerLookup, kernel_shape
from parsim.cost.matmul import cast_seconds, matmul_seconds
from parsim.cost.segments import Block, Collective, Kernel, KernelCause, Played, Segment, play
from parsim.cost.sublayout import Sublayout
from parsim.model.dims import Dim, Extent, Sizes
from parsim.model.layer import AttentionCore, Elementwise, Matmul, Pass, Work, shape, turned

__all__ = ["LayerSegments", "layer_segments"]

_SUFFIXES: dict[Pass, str] = {"F": "", "I": "_input", "W": "_weight"}
_NOTICED_S = 1e-9
_REMEMBERED = 512  # sublayouts


class _Step(NamedTuple):
    """A kernel, and the collectives that belong to its work."""

    kernel: Kernel
    comms: list[Comm] | None
    which: Pass


class LayerSegments:
    """Prices the work of a sublayout, each block and each kernel once; what `layers` has measured goes before the
    roofline.
    """

    def __init__(self, layout: Sublayout, layers: LayerLookup | None = None) -> None:
        self._layout, self._layers = layout, layers
        self.played: dict[Block, Played] = {}
        """What is known of single blocks, alone on an empty pair of streams."""
        self._blocks: dict[tuple[object, ...], Block] = {}
        self._kernels: dict[tuple[tuple[Work, ...], Pass], tuple[Kernel, ...]] = {}
        self._owed: dict[tuple[tuple[Work, ...], Pass], dict[str, list[Comm]]] = {}
        self._shapes: dict[Matmul, tuple[float, float, float]] = {}
        self._regions: dict[tuple[Extent, bool], Sizes] = {}

    def forward(
        self, work: tuple[Work, ...], matmul_share: float = 1.0, comm_share: float = 1.0, again: bool = False
    ) -> Block:
        """The block of F, or of it once more (`again`). The shares shorten matmuls (with the attention core) and
        collectives: what a partial recomputation plays again.
        """
        key = "F", work, matmul_share, comm_share, again
        return self._known(key, lambda: self._forward(work, matmul_share, again), comm_share)

    def modules_again(self, work: tuple[Work, ...], modules: tuple[str, ...]) -> Block:
        """The block of what recomputed `modules` play again before the backward (but for the attention core, which
        goes right before its own).
        """
        return self._known(("again", work, modules), lambda: self._modules_again(work, modules))

    def input_gradient(self, work: tuple[Work, ...], core_again: bool = False) -> Block:
        """The block of I: the work in reverse; with `core_again` the attention core's forward before its backward."""
        return self._known(("I", work, core_again), lambda: self._input_gradient(work, core_again))

    def weight_gradient(self, work: tuple[Work, ...]) -> Block:
        """The block of W: the weight gradients in reverse."""
        return self._known(("W", work), lambda: self._weight_gradient(work))

    def launched(self, block: Block, share: float, experts: bool) -> Block:
        """A layer's block in a pass that needs `share` of the host's time for a direction, and how much longer the host
        takes to launch it than the GPU to play it.
        """
        key = block, share, experts
        found = self._blocks.get(key)
        if found is None:
            constants, graphs = self._layout.constants, self._layout.software.cuda_graphs
            whole = constants.host_moe_layer_s if experts else constants.host_layer_s
            host = 0.0 if graphs in ("full", "full_iteration") else whole * share
            if isinstance(graphs, tuple):
                host *= constants.host_graphs
            alone = play([block], self.played)
            gpu, power = alone.seconds, constants.host_sharpness
            extra = (gpu**power + host**power) ** (1 / power) - gpu
            found = block
            if extra > _NOTICED_S:  # all of the block waits for the host: no need to play it again
                found = (Kernel("host", extra), *block)
                self.played[found] = replace(alone, seconds=extra + gpu)
            self._blocks[key] = found
        return found

    def _known(self, key: tuple[object, ...], steps: Callable[[], Iterable[_Step]], comm_share: float = 1.0) -> Block:
        found = self._blocks.get(key)
        if found is None:
            self._blocks[key] = found = self._block(steps(), comm_share)
        return found

    def _forward(self, work: tuple[Work, ...], matmul_share: float, again: bool) -> Iterator[_Step]:
        comms = self._comms(work, "F")
        for item, kernel in zip(work, self._kernels_of(work, "F"), strict=True):
            share = 1.0 if isinstance(item, Elementwise) else matmul_share
            yield _Step(_again(item, kernel, share) if again else _shortened(kernel, share), comms.get(item.name), "F")

    def _modules_again(self, work: tuple[Work, ...], modules: tuple[str, ...]) -> Iterator[_Step]:
        shares = [self._share_again(item, modules) for item in work]
        comms = self._comms(tuple(item for item, share in zip(work, shares, strict=True) if share), "F")
        for item, share, kernel in zip(work, shares, self._kernels_of(work, "F"), strict=True):
            if share:
                yield _Step(_again(item, kernel, share), comms.get(item.name), "F")

    def _input_gradient(self, work: tuple[Work, ...], core_again: bool) -> Iterator[_Step]:
        comms, kernels = self._comms(work, "I"), self._kernels_of(work, "I")
        for at in reversed(range(len(work))):
            item = work[at]
            if core_again and isinstance(item, AttentionCore):
                again = _again(item, self._kernels_of(work, "F")[at], 1.0)
                yield _Step(again, self._comms(work, "F").get(item.name), "F")
            yield _Step(kernels[at], comms.get(item.name), "I")

    def _weight_gradient(self, work: tuple[Work, ...]) -> Iterator[_Step]:
        comms = self._comms(work, "W")
        for item, kernel in zip(reversed(work), reversed(self._kernels_of(work, "W")), strict=True):
            yield _Step(kernel, comms.get(item.name), "W")

    def _comms(self, work: tuple[Work, ...], which: Pass) -> dict[str, list[Comm]]:
        """What the axes owe in a pass, by the work that it belongs to."""
        found = self._owed.get((work, which))
        if found is None:
            axes, sizes = self._layout.axes, self._layout.sizes
            self._owed[work, which] = found = {}
            for axis in axes:
                for comm in axis.comms(work, axes.busiest(sizes) if axis is axes.expert_tensor else sizes, which):
                    found.setdefault(comm.at, []).append(comm)
        return found

    def _block(self, steps: Iterable[_Step], comm_share: float) -> Block:
        """The segments that last: each kernel with its collectives where they belong (one that overlaps is issued
        first). Exchanges that other micro-batches' compute hides may run at any time: they go before all.
        """
        segments: list[Segment] = []
        for kernel, comms, which in steps:
            after: list[Segment] = []
            for comm in comms or ():
                collective = inner_collective(comm, which, self._layout, comm_share)
                if collective.seconds > 0:
                    (segments if comm.before or collective.overlaps else after).append(collective)
            if kernel.seconds > 0:
                segments.append(kernel)
            segments += after
        if not self._layout.hides_exchanges:
            return tuple(segments)
        return tuple(sorted(segments, key=lambda s: not (isinstance(s, Collective) and s.axis == "ep" and s.overlaps)))

    def _share_again(self, item: Work, modules: tuple[str, ...]) -> float:
        """How much of a piece of work recomputed `modules` play again."""
        constants = self._layout.constants
        if isinstance(item, AttentionCore):
            return 0.0
        named = {"up_projection": "mla_up_proj", "mlp": "mlp", "moe": "moe"}.get(item.module)
        if named in modules:
            return 1.0
        if isinstance(item, Matmul):
            return 0.0
        if item.role == "norm" and "layernorm" in modules:
            return constants.norm_again
        is_named = "act" in modules or ("moe_act" in modules and item.module == "moe")
        return constants.activation_again if item.role == "activation" and is_named else 0.0

    def _kernels_of(self, work: tuple[Work, ...], which: Pass) -> tuple[Kernel, ...]:
        """The kernel of every piece of work in a pass."""
        found = self._kernels.get((work, which))
        if found is None:
            self._kernels[work, which] = found = tuple(self._kernel(item, which) for item in work)
        return found

    def _kernel(self, item: Work, which: Pass) -> Kernel:
        name, seconds = f"{item.name}{_SUFFIXES[which]}", self._seconds(item, which)
        if isinstance(item, Elementwise):
            return Kernel(name, seconds, "memory")
        cause: KernelCause = "matmul" if isinstance(item, Matmul) else "attention"
        return Kernel(name, seconds, cause, self._flops(item, which))

    def _flops(self, item: Matmul | AttentionCore, which: Pass) -> float:
        if isinstance(item, AttentionCore):
            return 0.0 if which == "W" else attention_flops(item, _direction(which), self._layout)
        if not item.experts:
            return 2 * math.prod(self._shape(item))
        sizes = self._layout.axes.mean(self._layout.sizes)
        return 2 * math.prod(shape(item, sizes, which)) * sizes[Dim.EXPERTS]

    def _seconds(self, item: Work, which: Pass) -> float:
        """What a piece of work takes, as it was measured or by the roofline; what takes no time was not measured."""
        predicted, layout = self._predicted(item, which), self._layout
        if self._layers is None or not predicted:
            return predicted
        name, sizes = f"{item.name}{_SUFFIXES[which]}", self._region(item)
        measured = self._layers.seconds(name, kernel_shape(item, sizes, which, layout.model, layout.precision))
        if measured is None or not isinstance(item, Matmul):
            return predicted if measured is None else measured
        return measured + cast_seconds(self._cast(item), layout.layer_rates, layout.constants, self._experts(item))

    def _region(self, item: Work) -> Sizes:
        """The lengths that a piece of work has on this rank."""
        layout = self._layout
        if isinstance(item, AttentionCore):
            return layout.sizes
        if isinstance(item, Matmul):
            place = item.inner + item.cols, item.experts
        else:
            place = item.width, item.experts or item.role == "embedding"
        if place not in self._regions:
            self._regions[place] = layout.axes.region(layout.sizes, *place)
        return self._regions[place]

    def _predicted(self, item: Work, which: Pass) -> float:
        layout = self._layout
        if isinstance(item, Matmul):
            rates, sides = layout.layer_rates if item.layer else layout.rates, turned(self._shape(item), which)
            return matmul_seconds(*sides, rates, layout.constants, self._experts(item), self._cast(item))
        if isinstance(item, AttentionCore):
            return 0.0 if which == "W" else attention_seconds(item, _direction(which), layout)
        return elementwise_seconds(item, self._region(item), which, layout)

    def _shape(self, item: Matmul) -> tuple[float, float, float]:
        """The shape of a matmul in F."""
        if item not in self._shapes:
            self._shapes[item] = shape(item, self._region(item), "F")
        return self._shapes[item]

    def _experts(self, item: Matmul) -> float | None:
        return self._layout.sizes[Dim.EXPERTS] if item.experts else None

    def _cast(self, item: Matmul) -> float:
        """Operand elements of a matmul (of each expert's) that are cast to fp8 or fp4 in each pass."""
        layout = self._layout
        if not (item.layer and layout.layer_rates.cast):
            return 0.0
        rows, inner, cols = self._shape(item)
        return rows * inner + layout.constants.cast_weights * inner * cols / layout.microbatches_of_cast


@lru_cache(maxsize=_REMEMBERED)
def layer_segments(layout: Sublayout) -> LayerSegments:
    """The prices of a sublayout by the roofline, the same for everyone who asks."""
    return LayerSegments(layout)


def _direction(which: Pass) -> Literal["F", "B"]:
    return "F" if which == "F" else "B"


def _shortened(kernel: Kernel, share: float) -> Kernel:
    return kernel if share == 1.0 else kernel._replace(seconds=share * kernel.seconds, flops=share * kernel.flops)


def _again(item: Work, kernel: Kernel, share: float) -> Kernel:
    """`share` of a forward's kernel, played once more."""
    return Kernel(f"{item.name}_again", share * kernel.seconds, "recompute", share * kernel.flops)
