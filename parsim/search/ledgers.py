"""Ledgers: what a part holds of a micro-batch, as the memory ledger has it, for many sizes without asking for each.

Each of the ledger's numbers is the largest of sums that grow evenly with the layers of a part, and evenly with the
sequences of a micro-batch. Such a maximum is convex in either: if it lies on one line at three sizes, it does so
between the outer ones. So three sizes tell those between them where they are in line; else the ledger is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

import numpy as np

from parsim.memory import scan
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
    _blocks: dict[object, tuple[Block, ...]] = field(default_factory=dict, init=False, repr=False)

    def numbers(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> Floats:
        """StageActivations.numbers of a part, with its first `again` layers recomputed."""
        count, most = layers[part], self.search.batch.global_batch_size
        whole = again in (0, count) and self.evenly
        if not whole or count < _FEW_LAYERS or most < 4 or sequences > most:
            return self._ask(sequences, layers, part, again)

        @cache
        def by_layers(size: int) -> Floats:
            """For the part's number of layers, from three numbers of layers."""
            return _between(
                lambda n: self._ask(size, _resized(layers, part, n), part, n if again else 0),
                (_FEW_LAYERS, _FEW_LAYERS + 1, max(self.search.model.layers, 4)),
                count,
            )

        return _between(by_layers, (_FEW_SEQUENCES, _FEW_SEQUENCES + 1, most), sequences)

    def _ask(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> Floats:
        key = sequences, layers, part, again
        if key not in self._asked:
            self._asked[key] = np.array(self._scanned(*key))
        return self._asked[key]

    def _scanned(self, sequences: int, layers: tuple[int, ...], part: int, again: int) -> tuple[float, ...]:
        """Layers that are alike repeat one block, which is made once for any number of them."""
        count, run = layers[part], self._run(sequences)
        if count > 0 and again in (0, count) and self.evenly:
            one, two = (self._made(sequences, layers, part, n, again > 0) for n in (1, 2))
            repeats = [b.count - a.count for a, b in zip(one, two, strict=False)]
            if len(one) == len(two) and sorted(repeats) == [0] * (len(one) - 1) + [1]:
                grown = zip(one, repeats, strict=True)
                return scan(tuple(replace(b, count=b.count + more * (count - 1)) for b, more in grown)).numbers
        return Parts(run, layers).activations(part, again).numbers

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


def _between(ask: Callable[[int], Floats], at: tuple[int, int, int], asked: int) -> Floats:
    """What `ask` says of a size, from what it says of three around it where they lie on one line."""
    low, middle, high = at
    if asked in at:
        return ask(asked)
    first, second, last = ask(low), ask(middle), ask(high)
    slope = (last - first) / (high - low)
    if (np.abs(first + slope * (middle - low) - second) > _IN_LINE * np.abs(last)).any():
        return ask(asked)
    return first + slope * (asked - low)


@lru_cache(maxsize=65_536)
def ledger_of(
    search: Search, mesh: Mesh, cut: bool, recompute: RecomputeSpec, precision: str, zero: int, buffers: bool
) -> Ledger:
    """The ledger of a mesh and switches; with gradient `buffers` nothing in it depends on the number of replicas."""
    evenly = buffers and search.model.moe is None
    switches: dict[str, object] = {
        "tp_comm": "sequence_parallel" if cut else "all_reduce",
        "recompute": recompute,
        "precision": precision,
        "zero": zero,
    }
    return Ledger(search, mesh, switches, evenly)
