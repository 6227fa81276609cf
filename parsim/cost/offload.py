"""Copies to and from the host: how long they last, and how they stand beside the layers of the ops around them.

    rate = min(host link * 0.85, host memory/GPUs of the node * 0.8)            both shares assumed

Activations leave layer by layer, each behind the forward of its layer, and come back before its backward (Transformer
Engine's and Megatron-core's offload): an OFFLOAD has all of a stage's and micro-batch's bytes on the stream out, a
RELOAD on the stream in. With c_l the seconds of layer l's copy, t_l when its forward has ended and b_l when its
backward begins (both from the start of the op), a stream that is free by y and an op that starts at x,

    OFFLOAD ends at  max(y + sum c, x + max over l of (t_l + the copies from l on))
    B may start at   max over l of (end of RELOAD - the copies behind l - b_l)

so each is one input of the other with a lag: that is exact for copies that follow each other. The directions do not
slow each other. One layer's copy may be left when the next slot starts, or begin before the backward does.

Weights on the host are fetched for each forward and backward, the next layer's beside the running one: a layer takes
what is longer. Optimizer states on the host are updated there (DeepSpeed's CPUAdam, Megatron-core's hybrid optimizer):
gradients come, weights go back, bucket by bucket beside an update at the rate of the host's memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol

from parsim.cost.constants import Constants
from parsim.cost.optimizer import update_traffic_bytes
from parsim.cost.segments import Played
from parsim.cost.stage import Part
from parsim.memory.host import moved_bytes, weights_on_host
from parsim.memory.states import shards_of
from parsim.model.layer import LayerKind
from parsim.plan.op import Kind
from parsim.spec import Run

__all__ = ["HostCopies", "HostUpdate", "PricedParts", "host_bytes_per_s", "host_copies_of", "host_update"]


class PricedParts(Protocol):
    """Who prices a stage's ops and knows its weights: StagePrices, or whoever has the same by other means."""

    def played(self, part: Part, kind: Kind) -> Played:
        """An op alone."""

    def held(self, part: Part, experts: bool) -> tuple[float, float]:
        """Weights of a part on a rank, everyone's or its experts', first."""


@dataclass(frozen=True)
class HostCopies:
    """Copies of one run's stages, whose layers `stages` prices. Of a part `moved` layers, the first ones, move their
    activations.
    """

    run: Run
    bytes_per_s: float
    stages: PricedParts

    def out_seconds(self, part: Part, moved: int) -> float:
        """How long the stream out is busy with a micro-batch of a part whose first `moved` layers leave."""
        return sum(self._moved(part, moved))

    def in_seconds(self, part: Part, moved: int) -> float:
        """The same of the stream in: with weights on the host it also brings those of all layers."""
        return sum(self._coming(part, moved))

    def window_seconds(self, part: Part, moved: int) -> float:
        """How long the copy of the last layer takes: what may be left of it when the next slot starts."""
        return self._moved(part, moved)[-1] if part.layers else 0.0

    def out_lag(self, part: Part, moved: int, slot_s: float) -> float:
        """Earliest start of an OFFLOAD from the end of the slot of its forward, which lasts `slot_s`."""
        copies = self._moved(part, moved)
        ends = self._with_layers(part, Kind.F, slot_s)
        return min(max(end - sum(copies[:at]) for at, end in enumerate(ends[:moved])) - slot_s, 0.0)

    def in_lag(self, part: Part, moved: int, kind: Kind, slot_s: float) -> float:
        """Earliest start of the slot of a backward (B or I) of `slot_s` from the end of its RELOAD."""
        copies, left = self._coming(part, moved), self._with_layers(part, kind, slot_s)
        return -min(max(slot_s - here, 0.0) + sum(copies[:at]) for at, here in enumerate(left[:moved]))

    def beside(self, alone: Played, ops: Sequence[tuple[Part, Kind]]) -> Played:
        """A slot that takes `alone` beside the weights that its F, B or I fetch: a layer waits for those of the next.
        Of a pair all layers wait together.
        """
        fetching = [(part, kind) for part, kind in ops if kind is not Kind.W]
        copies = sum(sum(self._weights(part)) for part, _ in fetching)
        if not copies:
            return alone
        if len(ops) == 1:
            pairs = zip(self._weights(ops[0][0]), self._layer_seconds(*ops[0]), strict=True)
            waits = sum(max(0.0, copy - layer) for copy, layer in pairs)
        else:
            waits = max(0.0, copies - alone.seconds)
        return alone + Played(waits, {"offload": waits}, {"offload": copies - waits})

    # Inside

    def _with_layers(self, part: Part, kind: Kind, slot_s: float) -> list[float]:
        """From the start of a forward to the end of each of its layers; of a backward, from where each begins to the
        end. In a slot that lasts `slot_s`: beside another op all layers are slower alike.
        """
        layers, alone = self._layer_seconds(part, kind), self._seconds(part, kind)
        head = alone - self._seconds(replace(part, last=False), kind)
        outside = alone - head - sum(layers)  # loop, embedding, gathers
        if kind is not Kind.F:
            outside -= self._seconds(Part(()), kind)  # the loop comes first
        stretch = slot_s / alone
        return [stretch * (outside + here) for here in accumulate(layers)]

    def _moved(self, part: Part, moved: int) -> list[float]:
        """Seconds of each layer's activations, in forward order."""
        return [self.moved_seconds(kind) if at < moved else 0.0 for at, kind in enumerate(part.layers)]

    def _coming(self, part: Part, moved: int) -> list[float]:
        return [a + b for a, b in zip(self._moved(part, moved), self._weights(part), strict=True)]

    def moved_seconds(self, kind: LayerKind) -> float:
        """Of a layer's activations of one micro-batch, in one direction."""
        if kind not in self._known_moved:
            self._known_moved[kind] = moved_bytes(self.run, kind) / self.bytes_per_s
        return self._known_moved[kind]

    @cached_property
    def _known_moved(self) -> dict[LayerKind, float]:
        return {}

    def _weights(self, part: Part) -> list[float]:
        """Seconds of each layer's weights."""
        return [self.fetch_seconds(kind) for kind in part.layers]

    def fetch_seconds(self, kind: LayerKind) -> float:
        """Of a layer's weights, for one pass (its rank's shard of them under ZeRO-3)."""
        if not weights_on_host(self.run):
            return 0.0
        held = [self.stages.held(Part((kind,)), experts)[0] for experts in (False, True)]
        if self.run.layout.zero_stage == 3:
            held = [size / shards_of(self.run, expert) for size, expert in zip(held, (False, True), strict=True)]
        return sum(held) * self.run.software.parameter_bytes / self.bytes_per_s

    def _layer_seconds(self, part: Part, kind: Kind) -> list[float]:
        """What each layer lasts in a pass, in forward order: what a second one like it adds."""
        found = []
        for at, layer in enumerate(part.layers):
            again = at < part.recomputed
            one, two = (self._seconds(Part((layer,) * count, count * again), kind) for count in (1, 2))
            found.append(two - one)
        return found

    def _seconds(self, part: Part, kind: Kind) -> float:
        return self.stages.played(part, kind).seconds


def host_copies_of(run: Run, constants: Constants, stages: Callable[[], PricedParts]) -> HostCopies | None:
    """The copies of a run; None where nothing moves while its micro-batches run."""
    offload = run.layout.offload
    if offload is None or not (offload.moves_activations or offload.weights):
        return None
    return HostCopies(run, host_bytes_per_s(run, constants), stages())


def host_bytes_per_s(run: Run, constants: Constants) -> float:
    """What a GPU's copies reach in one direction while all GPUs of the node copy."""
    link = run.cluster.node.gpu.host_link_bytes_per_s * constants.host_link
    memory = _memory_bytes_per_s(run, constants)
    return link if memory is None else min(link, memory)


def _memory_bytes_per_s(run: Run, constants: Constants) -> float | None:
    """A GPU's share of what the host's memory sustains; None where the node's file does not say."""
    node = run.cluster.node
    whole = node.host_memory_bytes_per_s
    return None if whole is None else whole * constants.host_memory / min(node.gpus, run.ranks)


@dataclass(frozen=True)
class HostUpdate:
    """The end of a step on the host: seconds of the update, and what the copies beside it take longer than it does."""

    optimizer_s: float
    copies_s: float


def host_update(run: Run, updated: float, gradient_bytes: float, constants: Constants) -> HostUpdate:
    """Of a rank that updates so many parameters, with or without states on the host. Without, weights that live there
    still go back to it.
    """
    offload, rate = run.layout.offload, host_bytes_per_s(run, constants)
    weights = run.software.parameter_bytes * updated / rate
    if offload is None or not offload.optimizer:
        return HostUpdate(0.0, weights if weights_on_host(run) else 0.0)
    memory = _memory_bytes_per_s(run, constants)
    assert memory is not None, "priceable.RULES refuse a node without its memory's rate"
    update = update_traffic_bytes(run.software.optimizer, constants) * updated / memory
    gradients, back = gradient_bytes * updated / rate, 0.0 if offload.weights else weights
    return HostUpdate(update, max(0.0, max(gradients, back) - update))
