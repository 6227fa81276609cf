"""Memory: the most that a rank of a shape holds, over the grid.

The ledger's numbers (memory.Parts, memory.holding_of), once for each kind of stage and of rank, times the rows of a
schedule (filling): equal to the replay of the plan, in microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import NamedTuple

import numpy as np

from parsim.errors import LayoutError
from parsim.memory import Holding
from parsim.memory.parts import Parts
from parsim.memory.presets import habits_of
from parsim.memory.profile import NUMBERS
from parsim.memory.run_memory import holding_of
from parsim.search.filling import Filling, filling
from parsim.search.grid import AXES, Floats, grid_of
from parsim.search.layouts import run_on
from parsim.search.ledgers import ledger_of
from parsim.search.shape import Mesh, Shape
from parsim.search.stages import Stages, stages_of
from parsim.search.units import unit_key
from parsim.spec import Search

__all__ = ["RankPeak", "held_floor", "peaks"]

_ACTIVE = ("recompute", "tp_comm", "precision", "offload_activations", "zero")
_HELD = ("tp_comm", "precision", "zero", "offload_weights", "offload_optimizer")
_KEPT_NUMBERS = ("saved", "kept", "F", "B", "I", "W", "first B", "first W")


@dataclass(frozen=True)
class RankPeak:
    """Peak bytes of all ranks of one kind, over the grid, and the most they keep in the node's memory; `rank` is the
    first of them."""

    rank: int
    bytes: Floats
    host: Floats


def peaks(search: Search, shape: Shape) -> tuple[RankPeak, ...]:
    """The peaks of a shape's kinds of ranks."""
    stages, mesh = stages_of(search, shape), shape.mesh
    buffers = habits_of(search.software).gradients == "buffer"
    rows = filling(shape.schedule, mesh.pp, shape.microbatches, shape.stages_per_rank, stages.ranks, buffers)
    numbers = [_numbers_of(search, shape, stages, number) for number in range(len(stages.classes))]
    alone = [numbers for numbers, _ in numbers]
    everything = np.concatenate(np.broadcast_arrays(*alone), -1) if len(alone) > 1 else alone[0]
    moves = True in grid_of(search, mesh).of("offload_activations")
    found = []
    for kind, rank in stages.rank_kinds.items():
        own, host = _held_of(search, shape, stages, rank), np.zeros((1,) * len(AXES))
        if moves:
            away = [numbers[number][1] for number in kind]
            coming = 2 * reduce(np.maximum, (window for _, window in away))  # one leaves, one comes
            own = own._replace(total=own.total + coming)
            host = _waiting(rows[kind], [size for _, (size, _) in numbers])
        found.append(RankPeak(rank, _peak(rows[kind], everything, own, kind), own.host + host))
    return tuple(found)


def _waiting(rows: Filling, moved: Sequence[Floats]) -> Floats:
    """The most of activations that wait on the host at once: of each class `moved` for a micro-batch."""
    found = []
    for number, size in enumerate(moved):
        live = rows.made[:, [number * len(NUMBERS) + NUMBERS.index(name) for name in ("saved", "F")]].sum(axis=1)
        found.append(size[..., None] * live)
    most: Floats = np.max(reduce(np.add, found), axis=-1)
    return most


def held_floor(search: Search, shape: Shape) -> Floats:
    """What the fullest rank holds before anything is played: less than its peak."""
    stages = stages_of(search, shape)
    held = [_held_of(search, shape, stages, rank).total for rank in stages.rank_kinds.values()]
    found: Floats = np.maximum.reduce(held)
    return found


def _peak(rows: Filling, numbers: Floats, held: "_Held", kind: tuple[int, ...]) -> Floats:
    """As memory.profile.RankProfile.peak_bytes."""
    used = rows.made if held.gradients == "buffer" else rows.fresh
    top: Floats = np.max(numbers @ used.T, axis=-1)
    width = len(NUMBERS)
    made = sum(numbers[..., number * width + NUMBERS.index("gradients")] for number in kind)
    if held.gradients == "lazy":
        top = np.maximum(top, np.max(numbers @ rows.made.T, axis=-1) + made)
    return held.total + np.maximum(top, made + held.update - held.passes)


# What stages hold of a micro-batch


class _Active(NamedTuple):
    """Of a class of stages, over the grid: its numbers, [grid..., numbers]; what of a micro-batch waits on the host,
    and what of that may be on its way."""

    numbers: Floats
    host: tuple[Floats, Floats]


class _Part(NamedTuple):
    """A part as the ledger knows it: all parts, and which one it is; and its layers recomputed, by recompute switch."""

    layers: tuple[int, ...]
    number: int
    again: tuple[int, ...]


def _ends(layers: int, first: bool, last: bool) -> tuple[tuple[int, ...], int]:
    """So many layers as one part of a model, with or without its ends: all parts, and which one it is."""
    before, behind = (() if first else (0,)), (() if last else (0,))
    return (*before, layers, *behind), len(before)


def _numbers_of(search: Search, shape: Shape, stages: Stages, number: int) -> "_Active":
    """The numbers of a class of stages."""
    stage = stages.classes[number]
    layers, part = shape.layers, stages.placement.part_of[stages.example(number)]
    if search.model.moe is None:  # layers are alike: it does not matter which ones a part has
        layers, part = _ends(layers[part], stage.first, stage.last)
    again = tuple(
        sum(count for _, count in counts) if recompute.mode == "full" else 0
        for recompute, counts in zip(search.space.recompute, stage.again, strict=True)
    )
    # Gradients that come into being in the backward are as large as ZeRO and the replicas leave them.
    made = habits_of(search.software).gradients != "buffer"
    mesh = shape.mesh if made else unit_key(search, shape.mesh, shape.micro_batch_size).mesh
    return _numbers(search, mesh, shape.micro_batch_size, _Part(layers, part, again), shape.mesh.tp > 1)


@lru_cache(maxsize=65_536)
def _numbers(search: Search, mesh: Mesh, micro_batch_size: int, part: _Part, cuts: bool) -> "_Active":
    grid = grid_of(search, mesh)
    buffers = habits_of(search.software).gradients == "buffer"
    shape, points = grid.over(*(_ACTIVE[:-1] if buffers else _ACTIVE))
    found = np.empty((*shape, len(NUMBERS) + 2))
    more = _kept_inputs(search, mesh, micro_batch_size) * part.layers[part.number]
    for index, switches in points:
        comm, recompute, moves = switches["tp_comm"], switches["recompute"], switches["offload_activations"]
        again = part.again[grid.of("recompute").index(recompute)]
        cut = cuts and comm.startswith("sequence")
        # What the ledger needs of the mesh does not depend on the batch where its gradients have buffers.
        known = mesh._replace(sequences=mesh.dp) if buffers and search.model.moe is None else mesh
        precision, zero = switches["precision"], switches.get("zero", 0)
        ledger = ledger_of(search, known, cut, recompute, precision, zero, buffers, moves)
        if moves and recompute.mode == "full":
            found[index] = 0.0  # no layout: there is nothing to move
            continue
        try:
            found[index] = ledger.numbers(micro_batch_size, part.layers, part.number, again)
        except LayoutError:  # legality refuses it: recomputed layers have nothing to move
            if not moves:
                raise
            found[index] = 0.0
        if comm == "sequence_parallel_kept" and cuts:
            found[index] += more
    return _Active(found[..., :-2], (found[..., -2], found[..., -1]))


def _kept_inputs(search: Search, mesh: Mesh, micro_batch_size: int) -> Floats:
    """What a layer holds more where the inputs of its two column-parallel matmuls stay gathered from F to W."""
    tokens = micro_batch_size * search.batch.sequence_length / mesh.cp
    more = 2 * 2 * tokens * search.model.hidden * (1 - 1 / mesh.tp)
    return np.array([*(more if name in _KEPT_NUMBERS else 0.0 for name in NUMBERS), 0.0, 0.0])


# What lies on ranks all the time


class _Held(NamedTuple):
    """Bytes of a rank over the grid: all the time, of these not in the optimizer step, and temporary there; and when
    gradients are there (presets.Habits)."""

    total: Floats
    passes: Floats
    update: Floats
    gradients: str
    host: Floats
    """Bytes in the node's memory instead."""


def _held_of(search: Search, shape: Shape, stages: Stages, rank: int) -> _Held:
    """Of a shape's rank. Of receive buffers it has one for each sequence of a micro-batch; nothing else here depends on
    the micro-batch."""
    every = habits_of(search.software).receives == "every"
    layers, size, last = shape.layers, shape.micro_batch_size, len(shape.layers) - 1
    own = tuple(stages.placement.part_of[stage] for stage in stages.placement.stages_of(rank))
    if search.model.moe is None and not every:
        layers, part = _ends(sum(layers[part] for part in own), 0 in own, last in own)
        own = (part,)
    held, receive = _held(search, shape.mesh, size if every else 1, layers, own)
    return held if every else held._replace(total=held.total + (size - 1) * receive)


@lru_cache(maxsize=65_536)
def _held(
    search: Search, mesh: Mesh, micro_batch_size: int, layers: tuple[int, ...], own: tuple[int, ...]
) -> tuple[_Held, Floats]:
    """What lies on a rank that holds the parts `own`, and of that the receive buffers."""
    shape, points = grid_of(search, mesh).over(*_HELD)
    total, passes, update, receive, host = (np.zeros(shape) for _ in range(5))
    gradients = ""
    known: dict[tuple[object, ...], Holding] = {}
    for index, switches in points:
        cut = switches["tp_comm"].startswith("sequence")
        key = cut, *(switches[name] for name in _HELD[1:])
        if key not in known:
            comm = "sequence_parallel" if cut else "all_reduce"
            run = run_on(search, mesh, micro_batch_size, {**switches, "tp_comm": comm})
            known[key] = holding_of(Parts(run, layers), 0, own, {})
        holding = known[key]
        total[index] = sum(item.size for item in holding.items)
        receive[index] = sum(item.size for item in holding.items if item.name == "receive buffers")
        passes[index], update[index] = holding.passes_bytes, holding.update_bytes
        host[index] = sum(holding.host.values())
        gradients = holding.gradients
    return _Held(total, passes, update, gradients, host), receive
