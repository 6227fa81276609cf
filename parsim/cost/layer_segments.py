"""The segments of one layer, embedding or head in a pass: its work as kernels, what the axes owe between them."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

from parsim.axes.axis import Comm
from parsim.cost.attention import attention_flops, attention_seconds
from parsim.cost.collectives import InnerCollectives
from parsim.cost.constants import Constants
from parsim.cost.elementwise import elementwise_seconds
from parsim.cost.layer_table import LayerLookup, kernel_shape
from parsim.cost.matmul import cast_seconds, matmul_seconds
from parsim.cost.rates import Rates
from parsim.cost.run_axes import RunAxes
from parsim.cost.segments import Block, Collective, Kernel, KernelCause, Segment
from parsim.model.dims import Dim, Sizes
from parsim.model.layer import AttentionCore, Elementwise, Matmul, Pass, Work, shape
from parsim.spec import Run

__all__ = ["LayerSegments"]

_SUFFIXES: dict[Pass, str] = {"F": "", "I": "_input", "W": "_weight"}


class LayerSegments:
    """Prices the work of a run's layers on one rank. `layer_rates` are those of the layers' matmuls; what `layers`
    has measured goes before the roofline.
    """

    def __init__(
        self,
        run: Run,
        axes: RunAxes,
        sizes: Sizes,
        collectives: InnerCollectives,
        rates: Rates,
        layer_rates: Rates,
        constants: Constants,
        layers: LayerLookup | None = None,
    ) -> None:
        self._run, self._axes, self._sizes, self._collectives = run, axes, sizes, collectives
        self._rates, self._layer_rates, self._constants, self._layers = rates, layer_rates, constants, layers

    def forward(
        self, work: tuple[Work, ...], matmul_share: float = 1.0, comm_share: float = 1.0, again: bool = False
    ) -> Block:
        """The block of F, or of it once more (`again`). The shares shorten matmuls (with the attention core) and
        collectives: what a partial recomputation plays again.
        """
        segments: list[Segment] = []
        comms = self._comms(work, "F")
        for item in work:
            share = 1.0 if isinstance(item, Elementwise) else matmul_share
            segments += self._beside(item, comms, [self._kernel(item, "F", share, again)], "F", comm_share)
        return _block(segments)

    def modules_again(self, work: tuple[Work, ...]) -> Block:
        """The block of what the run's recomputed modules play again before the backward (but for the attention core,
        which goes right before its own).
        """
        shares = {item: share for item in work if (share := self._share_again(item))}
        chosen = tuple(shares)
        comms = self._comms(chosen, "F")
        segments: list[Segment] = []
        for item, share in shares.items():
            segments += self._beside(item, comms, [self._kernel(item, "F", share, again=True)], "F")
        return _block(segments)

    def input_gradient(self, work: tuple[Work, ...], core_again: bool = False) -> Block:
        """The block of I: the work in reverse; with `core_again` the attention core's forward before its backward."""
        segments: list[Segment] = []
        comms = self._comms(work, "I")
        for item in reversed(work):
            kernels = [self._kernel(item, "I")]
            if core_again and isinstance(item, AttentionCore):
                again = [self._kernel(item, "F", again=True)]
                segments += self._beside(item, self._comms(work, "F"), again, "F")
            segments += self._beside(item, comms, kernels, "I")
        return _block(segments)

    def weight_gradient(self, work: tuple[Work, ...]) -> Block:
        """The block of W: the weight gradients in reverse."""
        segments: list[Segment] = []
        comms = self._comms(work, "W")
        for item in reversed(work):
            segments += self._beside(item, comms, [self._kernel(item, "W")], "W")
        return _block(segments)

    def _comms(self, work: tuple[Work, ...], which: Pass) -> list[Comm]:
        sliced, busiest = self._axes.expert_tensor, self._axes.busiest(self._sizes)
        return [
            comm
            for axis in self._axes.inside
            for comm in axis.comms(work, busiest if axis is sliced else self._sizes, which)
        ]

    def _beside(
        self, item: Work, comms: Iterable[Comm], kernels: list[Kernel], which: Pass, share: float = 1.0
    ) -> Iterator[Segment]:
        """The kernels of a piece of work with its collectives where they belong: one that overlaps is issued first."""
        after: list[Segment] = []
        for comm in comms:
            if comm.at == item.name:
                collective = self._collectives.price(comm, which, share)
                if comm.before or collective.overlaps:
                    yield collective
                else:
                    after.append(collective)
        yield from kernels
        yield from after

    def _share_again(self, item: Work) -> float:
        """How much of a piece of work the recomputed modules play again."""
        modules, constants = self._run.layout.recompute.modules, self._constants
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

    def _kernel(self, item: Work, which: Pass, share: float = 1.0, again: bool = False) -> Kernel:
        """A piece of work in a pass, `share` of it."""
        cause: KernelCause = "memory"
        if not isinstance(item, Elementwise):
            cause = "matmul" if isinstance(item, Matmul) else "attention"
        name = f"{item.name}_again" if again else f"{item.name}{_SUFFIXES[which]}"
        flops = share * self._flops(item, which)
        return Kernel(name, share * self._seconds(item, which), "recompute" if again else cause, flops)

    def _flops(self, item: Work, which: Pass) -> float:
        if isinstance(item, Elementwise) or (isinstance(item, AttentionCore) and which == "W"):
            return 0.0
        if isinstance(item, AttentionCore):
            direction: Literal["F", "B"] = "F" if which == "F" else "B"
            return attention_flops(item, self._sizes, direction, self._rates, self._constants)
        sizes = self._axes.mean(self._sizes) if item.experts else self._region(item)
        return 2 * math.prod(shape(item, sizes, which)) * (sizes[Dim.EXPERTS] if item.experts else 1)

    def _seconds(self, item: Work, which: Pass) -> float:
        """What a piece of work takes, as it was measured or by the roofline; what takes no time was not measured."""
        predicted = self._predicted(item, which)
        if self._layers is None or not predicted:
            return predicted
        name, sizes = f"{item.name}{_SUFFIXES[which]}", self._region(item)
        measured = self._layers.seconds(name, kernel_shape(item, sizes, which, self._run))
        if measured is None or not isinstance(item, Matmul):
            return predicted if measured is None else measured
        experts = sizes[Dim.EXPERTS] if item.experts else None
        return measured + cast_seconds(self._cast(item, sizes), self._layer_rates, self._constants, experts)

    def _region(self, item: Work) -> Sizes:
        """The lengths that a piece of work has on this rank."""
        if isinstance(item, AttentionCore):
            return self._sizes
        if isinstance(item, Matmul):
            return self._axes.region(self._sizes, item.inner + item.cols, item.experts)
        return self._axes.region(self._sizes, item.width, item.experts or item.role == "embedding")

    def _predicted(self, item: Work, which: Pass) -> float:
        run, rates, constants = self._run, self._rates, self._constants
        if isinstance(item, Matmul):
            sizes = self._region(item)
            experts = sizes[Dim.EXPERTS] if item.experts else None
            kind = self._layer_rates if item.layer else rates
            return matmul_seconds(*shape(item, sizes, which), kind, constants, experts, self._cast(item, sizes))
        if isinstance(item, AttentionCore):
            if which == "W":
                return 0.0
            return attention_seconds(item, self._sizes, "F" if which == "F" else "B", run, rates, constants)
        return elementwise_seconds(item, self._region(item), which, run, rates, constants)

    def _cast(self, item: Matmul, sizes: Sizes) -> float:
        """Operand elements of a matmul (of each expert's) that are cast to fp8 or fp4 in each pass."""
        if not (item.layer and self._layer_rates.cast):
            return 0.0
        rows, inner, cols = shape(item, sizes, "F")
        return rows * inner + self._constants.cast_weights * inner * cols / self._run.microbatches


def _block(segments: Iterable[Segment]) -> Block:
    """The segments that last. Exchanges that other micro-batches' compute hides may run at any time: they go first."""
    lasting = [segment for segment in segments if segment.seconds > 0]
    free = [s for s in lasting if isinstance(s, Collective) and s.axis == "ep" and s.overlaps]
    return (*free, *(segment for segment in lasting if segment not in free)) if free else tuple(lasting)
