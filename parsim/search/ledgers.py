"""Ledgers: what a part holds of a micro-batch, as the memory ledger has it, for many sizes without asking for each.

Each of the ledger's numbers is the largest of sums that grow evenly with the layers of a part, and evenly with the
sequences of a micro-batch. Such a maximum is convex in either: if it lies on one line at three sizes, it does so
between the outer ones. So three sizes tell those between them where they are in line; else the ledger is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from parsim.memory import scan
from parsim.memory.host import moved_layers
from parsim.memory.ledger.entry import Block
from parsim.memory.parts import Parts
from parsim.search.grid import Floats
from parsim.search.layouts import run_on
from parsim.search.shape import Mesh
from parsim.spec import RecomputeSpec, Run, Search

__all__ = ["Ledger", "ledger_of"]

_IN_LINE = 1e-12
_FEW_LAYERS, _FEW_SEQUENCES = 2, 1  # from which on numbers grow evenly


@dataclass(frozen=True, eq=False)
class Ledger:
    """The ledger of one sub-layout: all that decides what a part holds, but for its layers and the micro-batch."""

    search: Search
    mesh: Mesh
    switches: dict[str, object]
    evenly: bool
    """Whether layers are all alike and nothing else depends on the batch."""
    _runs: dict[int, Run] = field(default_factory=dict, init=False, repr=False)
    _asked: dict[object, Floats] = field(default_factory=dict, init=False, repr=False)
    _by_layers: dict[object, "_Line | None"] = field(default_factory=dict, init=False, repr=False)
    _by_sequences: dict[object, "_Line | None"] = field(default_factory=dict, init=False, repr=False)
    _blocks: dict[object, tuple[Block, ...]] = field(default_factory=dict, init=False, repr=False)

    def numbers(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> Floats:
        """StageActivations.numbers of a part, with its first `again` layers recomputed; behind them what of a
        micro-batch is on the host, and what of it may be on its way."""
        count, most = layers[part], self.search.batch.global_batch_size
        whole = again in (0, count) and self.evenly
        if not whole or count < self._few or most < 4 or sequences > most:
            return self._ask(sequences, layers, part, again)

        key = count, len(layers), part, again > 0
        if key not in self._by_sequences:
            self._by_sequences[key] = _line(
                lambda size: self._of_layers(size, layers, part, again), (_FEW_SEQUENCES, _FEW_SEQUENCES + 1, most)
            )
        line = self._by_sequences[key]
        return self._of_layers(sequences, layers, part, again) if line is None else line.at(sequences)

    def _of_layers(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> Floats:
        """For the part's number of layers, from three numbers of layers."""
        key = sequences, len(layers), part, again > 0
        if key not in self._by_layers:
            self._by_layers[key] = _line(
                lambda n: self._ask(sequences, _resized(layers, part, n), part, n if again else 0),
                (self._few, self._few + 1, max(self.search.model.layers, self._few + 2)),
            )
        line = self._by_layers[key]
        return self._ask(sequences, layers, part, again) if line is None else line.at(layers[part])

    def _ask(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> Floats:
        key = sequences, layers, part, again
        if key not in self._asked:
            self._asked[key] = np.array(self._scanned(*key))
        return self._asked[key]

    def _scanned(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> tuple[float, ...]:
        """Layers that are alike repeat one block, which is made once for any number of them."""
        count, run = layers[part], self._run(sequences)
        if count > 0 and again in (0, count) and self.evenly and not self._moves:
            one, two = (self._made(sequences, layers, part, n, again > 0) for n in (1, 2))
            repeats = [b.count - a.count for a, b in zip(one, two, strict=False)]
            if len(one) == len(two) and sorted(repeats) == [0] * (len(one) - 1) + [1]:
                grown = zip(one, repeats, strict=True)
                numbers = scan(tuple(replace(b, count=b.count + more * (count - 1)) for b, more in grown)).numbers
                return (*numbers, 0.0, 0.0)
        found = Parts(run, layers).activations(part, again, moved_layers(run, layers, (part,))[0])
        return (*found.numbers, found.moved, found.window)

    @property
    def _moves(self) -> bool:
        return bool(self.switches["offload_activations"])

    @property
    def _few(self) -> int:
        """The model's last layer stays where others move: layers grow evenly from one more on."""
        return _FEW_LAYERS + self._moves

    def _made(self, sequences: int, layers: tuple[int, ...], part: int, count: int, again: bool) -> tuple[Block, ...]:
        key = sequences, len(layers), part, count, again
        if key not in self._blocks:
            parts = Parts(self._run(sequences), _resized(layers, part, count))
            self._blocks[key] = tuple(parts.blocks(part, count if again else 0))
        return self._blocks[key]

    def _run(self, sequences: int) -> Run:
        if sequences not in self._runs:
            mesh = self.mesh._replace(sequences=self.mesh.dp * sequences) if self.evenly else self.mesh
            self._runs[sequences] = run_on(self.search, mesh, sequences, self.switches)
        return self._runs[sequences]


def _resized(layers: tuple[int, ...], part: int, count: int) -> tuple[int, ...]:
    return (*layers[:part], count, *layers[part + 1 :])


class _Line(NamedTuple):
    """Numbers that grow evenly from a size on."""

    low: int
    base: Floats
    slope: Floats

    def at(self, size: int) -> Floats:
        """The numbers of a size."""
        found: Floats = self.base + self.slope * (size - self.low)
        return found


def _line(ask: Callable[[int], Floats], at: tuple[int, int, int]) -> _Line | None:
    """The line on which what `ask` says of three sizes lies, and of all between them; None if it is on none."""
    low, middle, high = at
    first, second, last = ask(low), ask(middle), ask(high)
    slope = (last - first) / (high - low)
    bent = np.abs(first + slope * (middle - low) - second) > _IN_LINE * np.abs(last)
    return None if bent.any() else _Line(low, first, slope)


@lru_cache(maxsize=65_536)
def ledger_of(
    search: Search,
    mesh: Mesh,
    cut: bool,
    recompute: RecomputeSpec,
    precision: str,
    zero: int,
    buffers: bool,
    moves: bool,
) -> Ledger:
    """The ledger of a mesh and switches, activations on the host among them (`moves`); with gradient
    `buffers` nothing in it depends on the number of replicas."""
    evenly = buffers and search.model.moe is None
    switches: dict[str, object] = {
        "tp_comm": "sequence_parallel" if cut else "all_reduce",
        "recompute": recompute,
        "precision": precision,
        "zero": zero,
        "offload_activations": moves,
    }
    return Ledger(search, mesh, switches, evenly)
