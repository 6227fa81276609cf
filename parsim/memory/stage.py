"""A stage as the replay sees it: how much a micro-batch holds, and how high its ops reach while they run.

The blocks of ledger entries are scanned once forward and once backward. Of layers that are alike only the outermost
ones are scanned: between them everything grows or falls by the same amount, so the highest is one of the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parsim.memory.ledger.entry import Block, Entry, Unit, total

__all__ = ["NOTHING", "Reach", "StageActivations", "scan"]


class Reach(NamedTuple):
    """How high an op of the plan reaches: bytes, and the op of the ledger where it does, with what is its own."""

    size: float = 0.0
    op: str = ""
    tensor: str = ""
    own: float = 0.0

    def higher(self, size: float, entry: Entry, own: float) -> "Reach":
        """This one, or that of `entry` if it is higher."""
        return Reach(size, entry.name, entry.tensor, own) if size > self.size else self


NOTHING = Reach()


@dataclass(frozen=True)
class StageActivations:
    """Bytes of one micro-batch on one stage.

    `saved` stays from F to B (or I); `kept` from I to W. The reaches count from the moment before the op: F's on top of
    what is live, B's and I's with the stage's own saved bytes included, W's with its kept bytes included. Where
    gradients come into being in the backward, the first one makes `gradients` bytes, and reaches higher. `weights` are
    the bytes of one more version of the stage's weights.
    """

    saved: float
    kept: float
    forward: Reach
    backward: Reach
    input: Reach
    weight: Reach
    gradients: float = 0.0
    weights: float = 0.0
    first_backward: Reach = NOTHING
    first_weight: Reach = NOTHING
    saved_by_op: Mapping[str, float] = field(default_factory=dict, compare=False)
    moved: float = 0.0
    """Bytes on the host from F to B (or I); none of them are in `saved`."""
    window: float = 0.0
    """Of these what may still be on the device beside the next op, and again beside the one before the backward: the
    last layer's."""

    @property
    def numbers(self) -> tuple[float, ...]:
        """What the profile of a schedule is multiplied with, in the order of profile.NUMBERS."""
        reaches = (self.forward, self.backward, self.input, self.weight, self.first_backward, self.first_weight)
        return (self.saved, self.kept, *(reach.size for reach in reaches), self.gradients, self.weights)


def scan(blocks: Sequence[Block]) -> StageActivations:
    """A stage made of `blocks` (embedding, layers, head) in forward order."""
    saved, forward = _forward(blocks)
    walk = _backward(blocks, saved)
    weight, first_weight = _weights(blocks, walk.kept)
    return StageActivations(
        saved,
        walk.kept,
        forward,
        walk.full,
        walk.split,
        weight,
        walk.made,
        first_backward=walk.first,
        first_weight=first_weight,
        saved_by_op=_by_op(blocks),
        moved=sum(block.count * block.moved for block in blocks),
    )


def _outermost(count: int) -> tuple[int, ...]:
    return (0, count - 1) if count > 1 else (0,)


def _forward(blocks: Sequence[Block]) -> tuple[float, Reach]:
    live, top, leaving = 0.0, NOTHING, 0.0  # of the layer before: on its way to the host
    for block in blocks:
        each = sum(unit.saved for unit in block.units)
        for at in _outermost(block.count):
            base = live + at * each + (block.moved if at else leaving)
            for unit in block.units:
                inside = base + (unit.input or 0.0)
                for entry in unit.entries:
                    inside += entry.saved
                    top = top.higher(inside + entry.forward, entry, entry.saved + entry.forward)
                base += unit.saved + unit.moved
        live, leaving = live + block.count * each, block.moved
    return live, top


@dataclass
class _Walk:
    """Where the backward stands: bytes live, kept for W, made of gradients; and the peaks so far."""

    live: float
    kept: float = 0.0
    made: float = 0.0
    full: Reach = NOTHING
    split: Reach = NOTHING
    first: Reach = NOTHING
    coming: float = 0.0
    """Of the next layer: on its way from the host."""

    def through(self, unit: Unit) -> None:
        """One unit's ops in reverse."""
        if unit.input is not None:
            self.live += total(unit.entries)  # recomputed now, all of it
        for entry in reversed(unit.entries):
            own = entry.saved + entry.backward
            top = self.live + self.coming + entry.backward
            self.full = self.full.higher(top, entry, own)
            self.split = self.split.higher(top + self.kept, entry, own)
            # A gradient that the op has just made as a tensor of its own becomes the weight's: it counts once.
            self.first = self.first.higher(top + self.made, entry, own)
            self.live -= entry.saved
            self.kept += entry.kept
            self.made += entry.gradient
        self.live -= unit.input or 0.0

    def skip(self, units: Sequence[Unit], times: int) -> None:
        """The same units `times` more, without looking for peaks."""
        self.live -= times * sum(unit.saved for unit in units)
        self.kept += times * sum(entry.kept for unit in units for entry in unit.entries)
        self.made += times * sum(entry.gradient for unit in units for entry in unit.entries)


def _backward(blocks: Sequence[Block], saved: float) -> _Walk:
    walk = _Walk(saved)
    for number, block in reversed(list(enumerate(blocks))):
        inner = block.count - len(_outermost(block.count))
        for at in reversed(_outermost(block.count)):
            walk.live += block.moved  # there again
            walk.coming = block.moved if at else blocks[number - 1].moved if number else 0.0
            for unit in reversed(block.units):
                walk.through(unit)
            walk.skip(block.units, inner)
            inner = 0
    return walk


def _weights(blocks: Sequence[Block], kept: float) -> tuple[Reach, Reach]:
    """Peaks of W, which frees what I kept op by op: without and with gradients that come into being."""
    live, made, top, first = kept, 0.0, NOTHING, NOTHING
    for block in reversed(blocks):
        inner = block.count - len(_outermost(block.count))
        entries = [entry for unit in reversed(block.units) for entry in reversed(unit.entries)]
        for _ in _outermost(block.count):
            for entry in entries:
                own = entry.kept + entry.weight
                top = top.higher(live + entry.weight, entry, own)
                first = first.higher(live + made + max(entry.weight, entry.gradient), entry, own)
                live -= entry.kept
                made += entry.gradient
            live -= inner * sum(entry.kept for entry in entries)
            made += inner * sum(entry.gradient for entry in entries)
            inner = 0
    return top, first


def _by_op(blocks: Sequence[Block]) -> dict[str, float]:
    """Saved bytes by the name of the op, the most first; of units that are recomputed whole their inputs."""
    found: dict[str, float] = {}
    for name, size in _saved(blocks):
        found[name] = found.get(name, 0.0) + size
    return dict(sorted(((name, size) for name, size in found.items() if size), key=lambda item: -item[1]))


def _saved(blocks: Sequence[Block]) -> Iterator[tuple[str, float]]:
    for block in blocks:
        for unit in block.units:
            if unit.input is not None:
                yield "inputs of what is recomputed", block.count * unit.saved
                continue
            for entry in unit.entries:
                yield entry.name, block.count * (entry.saved - entry.moved)
