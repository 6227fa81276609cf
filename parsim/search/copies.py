"""Copies: what moving activations to the host and back takes of a layout, for the program that plays it with them.

As cost.offload has it for a run, from the search's own prices of layers: so also beside switches that no run can say.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from parsim.cost.offload import PricedParts
from parsim.cost.segments import Played
from parsim.cost.stage import Part
from parsim.plan import Kind, Op
from parsim.search.grid import AXES, Floats
from parsim.search.shape import Shape
from parsim.search.stages import stages_of
from parsim.search.times import Times
from parsim.search.units import LOOP_S, kinds_of
from parsim.sim.program import Lag
from parsim.spec import Search

__all__ = ["PointCopies", "moved_of", "moving_stages"]

_STATED = ("recompute", "precision", "zero", "offload_activations", "offload_weights")


def moved_of(search: Search, shape: Shape, stage: int) -> int:
    """Layers of a stage that move where activations do: all but the last of the model."""
    part = stages_of(search, shape).placement.part_of[stage]
    count = shape.layers[part]
    return count - 1 if part == len(shape.layers) - 1 and count else count


def moving_stages(search: Search, shape: Shape) -> frozenset[int]:
    """Stages of which at least one layer moves."""
    placement = stages_of(search, shape).placement
    return frozenset(stage for stage in range(placement.stages) if moved_of(search, shape, stage))


class PointCopies:
    """Copies of one layout of a shape: the point `number` of its grid."""

    def __init__(self, times: Times, number: int) -> None:
        values = times.grid.at(number)
        self.times = times
        self.index = tuple(int(at) for at in np.unravel_index(number, times.grid.shape))
        stated = {name: values[name] for name in _STATED}
        stated["tp_comm"] = "sequence_parallel" if values["tp_comm"].startswith("sequence") else "all_reduce"
        usual = times.roofline(stated).copies
        assert usual is not None
        self._copies = replace(usual, stages=_Layers(times, self.index, usual.stages))
        self._known: dict[object, float] = {}

    def seconds(self, copy: Op) -> float:
        """How long an OFFLOAD or RELOAD keeps its stream."""
        ask = self._copies.out_seconds if copy.kind is Kind.OFFLOAD else self._copies.in_seconds
        return self._once(copy.stage, copy.kind, ask)

    def lag(self, lag: Lag) -> float:
        """As RooflineCost.lag_seconds."""
        copies, (copy, slot) = self._copies, lag
        if slot is None:
            return self._once(copy.stage, "window", lambda part, moved: -copies.window_seconds(part, moved))
        kind = slot.first.kind
        slot_s = _at(self.times.op(self.times.stages.of[copy.stage], kind), self.index)
        if copy.kind is Kind.OFFLOAD:
            return self._once(copy.stage, "out", lambda part, moved: copies.out_lag(part, moved, slot_s))
        return self._once(copy.stage, ("in", kind), lambda part, moved: copies.in_lag(part, moved, kind, slot_s))

    def _once(self, stage: int, what: object, ask: Callable[[Part, int], float]) -> float:
        """Stages that are alike have the same copies."""
        part = self._part(stage)
        key = self.times.stages.of[stage], part, what
        if key not in self._known:
            moved = moved_of(self.times.search, self.times.shape, stage)
            self._known[key] = ask(part, moved) if moved else 0.0
        return self._known[key]

    def _part(self, stage: int) -> Part:
        times, layers = self.times, self.times.shape.layers
        part, own = times.stages.placement.part_of[stage], times.stages.classes[times.stages.of[stage]]
        kinds = kinds_of(times.search)[sum(layers[:part]) : sum(layers[: part + 1])]
        again = own.again[self.index[AXES.index("recompute")]]
        return Part(kinds, sum(count for _, count in again), own.first, own.last)


class _Layers(PricedParts):
    """Parts at a point of the grid, put together from the search's unit prices; weights as `usual` knows them."""

    def __init__(self, times: Times, index: tuple[int, ...], usual: PricedParts) -> None:
        self._units, self._index, self._usual = times.units, index, usual

    def played(self, part: Part, kind: Kind) -> Played:
        passes = (Kind.I, Kind.W) if kind is Kind.B else (kind,)
        return Played(sum(self._seconds(part, each) for each in passes), {}, {})

    def held(self, part: Part, experts: bool) -> tuple[float, float]:
        return self._usual.held(part, experts)

    def _seconds(self, part: Part, kind: Kind) -> float:
        found = LOOP_S[kind]
        for at, layer in enumerate(part.layers):
            again = kind is Kind.I and at < part.recomputed
            found += _at(self._units.again[layer] if again else self._units.layers[layer, kind], self._index)
        for name, held in (("embedding", part.first), ("head", part.last)):
            found += _at(self._units.ends[name, kind], self._index) if held else 0.0
        return found


def _at(column: Floats, index: tuple[int, ...]) -> float:
    """An array over the grid at one of its points."""
    return float(column[tuple(min(at, size - 1) for at, size in zip(index, column.shape, strict=True))])
