"""Unit prices: seconds of one layer, the embedding and the head in each pass, over the grid.

A stage's op is a sequence of blocks, one for each layer and end, and takes as long as all of them (see cost.stage). So
a layer is priced once for all stages, schedules and replicas that have it. What the switches of tensor parallelism
change that no run can say is a change of the collectives in these blocks:

    scatter_gather           each all-reduce as a reduce-scatter and an all-gather of the same bytes
    sequence_parallel_kept   no gathers in the weight gradients, whose inputs are kept from the forward
    tp_network               the collectives at the price of ranks on one NVLink domain, or each on a domain of its own
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.segments import Block, Collective, Kernel, Segment, play
from parsim.model.layer import LayerKind, layer_kind
from parsim.network.price import Path, collective_seconds
from parsim.plan import Kind, Op, Slot, looped, straight
from parsim.search.grid import Floats, grid_of
from parsim.search.layouts import priced_cut, run_on
from parsim.search.networks import tensor_path
from parsim.search.shape import Mesh
from parsim.spec import RecomputeSpec, Search

__all__ = [
    "PASSES",
    "LeastUnits",
    "UnitKey",
    "Units",
    "kinds_of",
    "least_units",
    "unit_key",
    "units_of",
    "whole_stage",
]

PASSES = (Kind.F, Kind.I, Kind.W)
_INSIDE = ("tp_comm", "tp_overlap", "tp_network", "ep_overlap", "cp_comm", "precision")
LOOP_S = {Kind.F: FITTED.microbatch_s / 2, Kind.I: FITTED.microbatch_s / 2, Kind.W: 0.0}
_PLAIN = RecomputeSpec()


class UnitKey(NamedTuple):
    """What the inside of an op depends on, but for the switches."""

    mesh: Mesh
    micro_batch_size: int


def unit_key(search: Search, mesh: Mesh, micro_batch_size: int) -> UnitKey:
    """The key of a mesh and a micro-batch: of a dense model's mesh only tp and cp matter, and with operands that are
    cast once a step the number of micro-batches.
    """
    if search.model.moe is None and not any("fp8" in p or "fp4" in p for p in search.space.precision):
        gpus = mesh.gpus // (mesh.tp * mesh.cp)
        mesh = Mesh(mesh.nodes, mesh.tp, mesh.cp, gpus, 1, 1, 1, gpus * micro_batch_size)
    return UnitKey(mesh, micro_batch_size)


def kinds_of(search: Search) -> tuple[LayerKind, ...]:
    """The kind of each layer."""
    return tuple(layer_kind(search.model, number) for number in range(search.model.layers))


@dataclass(frozen=True)
class Units:
    """Seconds over the grid. `layers[kind, pass]`, `again[kind]` (I with what is recomputed before it, along the values
    of recompute), `ends["embedding" | "head", pass]`; none holds the loop of a micro-batch.
    """

    layers: dict[tuple[LayerKind, Kind], Floats]
    again: dict[LayerKind, Floats]
    ends: dict[tuple[str, Kind], Floats]


@lru_cache(maxsize=65_536)
def units_of(search: Search, key: UnitKey) -> Units:
    """The unit prices of a key. LayoutError for what cannot be priced."""
    mesh = key.mesh
    grid = grid_of(search, mesh)
    _, stages, ends = _sample(search)
    shape, points = grid.over(*_INSIDE)
    found = {(stage, kind): np.empty(shape) for stage in (*stages.values(), *ends.values()) for kind in PASSES}
    recomputes = grid.of("recompute")
    again = {kind: np.empty((len(recomputes), *shape[1:])) for kind in stages}
    costs: dict[Any, RooflineCost] = {}
    for index, switches in points:
        change = _Change.of(search, mesh, switches)
        for (stage, kind), column in found.items():
            blocks = _blocks(costs, search, key, switches, _PLAIN, stage, kind)
            column[index] = change.seconds(blocks, kind)
        for number, recompute in enumerate(recomputes):
            for layer, column in again.items():
                blocks = _blocks(costs, search, key, switches, _whole(recompute), stages[layer], Kind.I)
                column[(number, *index[1:])] = change.seconds(blocks, Kind.I)
    return Units(
        {(kind, which): found[stage, which] for kind, stage in stages.items() for which in PASSES},
        again,
        {(name, which): found[stage, which] for name, stage in ends.items() for which in PASSES},
    )


@lru_cache(maxsize=64)
def _sample(search: Search) -> tuple[tuple[int, ...], dict[LayerKind, int], dict[str, int]]:
    """Layers of the parts of a model in which a layer of each kind and both ends stand alone; and which these are."""
    kinds = kinds_of(search)
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))}
    split, stages, done = [0], dict[LayerKind, int](), 0
    for kind, number in sorted(first.items(), key=lambda item: item[1]):
        split += [number - done] if number > done else []
        stages[kind] = len(split)
        split.append(1)
        done = number + 1
    split += [len(kinds) - done, 0] if done < len(kinds) else [0]
    return tuple(split), stages, {"embedding": 0, "head": len(split) - 1}


class LeastUnits(NamedTuple):
    """Seconds of the kernels of layers and ends in each pass, the least over the switches; and, by value of recompute,
    what a layer's I plays of its forward again."""

    alone: dict[tuple[LayerKind | str, Kind], float]
    again: tuple[dict[LayerKind, float], ...]


@lru_cache(maxsize=65_536)
def least_units(search: Search, key: UnitKey) -> LeastUnits:
    """What a unit takes at least, for a fraction of the work of its prices: communication only adds to its kernels."""
    grid = grid_of(search, key.mesh)
    _, stages, ends = _sample(search)
    alone: dict[tuple[LayerKind | str, Kind], float] = {}
    again: tuple[dict[LayerKind, float], ...] = tuple({} for _ in grid.of("recompute"))
    costs: dict[Any, RooflineCost] = {}
    known = set()
    for _, switches in grid.over("tp_comm", "cp_comm", "precision")[1]:
        cut = switches["tp_comm"].startswith("sequence") and key.mesh.tp > 1
        if (cut, switches["cp_comm"], switches["precision"]) in known:
            continue
        known.add((cut, switches["cp_comm"], switches["precision"]))
        stated = {**switches, "tp_overlap": "none", "ep_overlap": False}
        units: list[tuple[LayerKind | str, int]] = [*stages.items(), *ends.items()]
        for name, stage in units:
            for kind in PASSES:
                seconds = _kernels(_blocks(costs, search, key, stated, _PLAIN, stage, kind))
                alone[name, kind] = min(seconds, alone.get((name, kind), seconds))
        for least, recompute in zip(again, grid.of("recompute"), strict=True):
            for layer, stage in stages.items():
                plain = _kernels(_blocks(costs, search, key, stated, _PLAIN, stage, Kind.I))
                seconds = _kernels(_blocks(costs, search, key, stated, _whole(recompute), stage, Kind.I)) - plain
                least[layer] = min(seconds, least.get(layer, seconds))
    return LeastUnits(alone, again)


def _kernels(blocks: Sequence[Block]) -> float:
    return sum(part.seconds for block in blocks for part in block if isinstance(part, Kernel))


def _whole(recompute: RecomputeSpec) -> RecomputeSpec:
    """The same for all layers: how many it is for is a matter of the stage."""
    return recompute.model_copy(update={"layers": None, "method": None})


def _blocks(
    costs: dict[Any, RooflineCost],
    search: Search,
    key: UnitKey,
    switches: dict[str, Any],
    recompute: RecomputeSpec,
    stage: int,
    kind: Kind,
) -> tuple[Block, ...]:
    """The blocks of a stage of one layer or end, its loop taken off."""
    stated = {name: value for name, value in switches.items() if name not in ("tp_network", "tp_comm")}
    cut = priced_cut(search, key.mesh, switches["tp_comm"])
    at = (*stated.values(), cut, recompute)
    if at not in costs:
        stated |= {"tp_comm": "sequence_parallel" if cut else "all_reduce", "recompute": recompute}
        split = _sample(search)[0]
        run = run_on(search, key.mesh, key.micro_batch_size, stated, split=split)
        costs[at] = RooflineCost(run, looped(1, len(split)))
    blocks: tuple[Block, ...] = costs[at].segments(Slot(Op(stage, kind, 0)))[0]
    return blocks if kind is Kind.W else blocks[1:]


@lru_cache(maxsize=4096)
def whole_stage(search: Search, mesh: Mesh, micro_batch_size: int) -> dict[Kind, Floats]:
    """F and B of the only stage without a pipeline, over the grid: where parameters are cut, gathers and scatters run
    beside the layers, and blocks are no longer a layer's alone. Raises as `units_of`.
    """
    grid = grid_of(search, mesh)
    shape, points = grid.over("recompute", *_INSIDE, "zero", "dp_overlap")
    found = {kind: np.empty(shape) for kind in (Kind.F, Kind.B)}
    for index, switches in points:
        cut = priced_cut(search, mesh, switches["tp_comm"])
        stated = {**switches, "tp_comm": "sequence_parallel" if cut else "all_reduce"}
        cost = RooflineCost(run_on(search, mesh, micro_batch_size, stated), straight(1))
        change = _Change.of(search, mesh, switches)
        for kind, column in found.items():
            column[index] = change.seconds(cost.segments(Slot(Op(0, kind, 0)))[0], kind)
    return found


@dataclass(frozen=True)
class _Change:
    """What the switches of tensor parallelism do to an op's collectives."""

    split: bool
    kept: bool
    usual: Path | None
    path: Path | None

    @classmethod
    def of(cls, search: Search, mesh: Mesh, switches: dict[str, Any]) -> "_Change":
        comm, network = switches["tp_comm"], switches["tp_network"]
        if mesh.tp == 1:
            return cls(False, False, None, None)
        usual = tensor_path(search, mesh, "usual")
        return cls(
            comm == "scatter_gather",
            comm == "sequence_parallel_kept",
            usual,
            tensor_path(search, mesh, network),
        )

    def seconds(self, blocks: Sequence[Block], kind: Kind) -> float:
        if self.split or self.path != self.usual or (self.kept and kind is Kind.W):
            blocks = [tuple(new for old in block for new in self._changed(old, kind)) for block in blocks]
        return play(blocks).seconds

    def _changed(self, segment: Segment, kind: Kind) -> Iterator[Segment]:
        if not isinstance(segment, Collective) or segment.axis != "tp":
            yield segment
        elif self.kept and kind is Kind.W:
            return
        elif self.split and segment.kind == "all_reduce":
            yield self._priced(segment, "reduce_scatter")
            yield self._priced(segment, "all_gather")
        else:
            yield self._priced(segment, segment.kind)

    def _priced(self, segment: Collective, kind: Any) -> Collective:
        """Another kind, on another path, at the share of its full price that the segment has."""
        assert self.usual is not None
        assert self.path is not None
        full = collective_seconds(segment.kind, segment.size_bytes, self.usual)
        price = collective_seconds(kind, segment.size_bytes, self.path)
        return segment._replace(kind=kind, seconds=segment.seconds * price / full)
