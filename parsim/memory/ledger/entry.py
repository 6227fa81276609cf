"""Entry: one op of the ledger as data. Unit: ops in a row, perhaps recomputed together. Block: units that repeat.

All sizes are bytes of one micro-batch on one rank. What an op reads in its backward is saved from the moment it is made
until that backward is over, and stands with the op that reads it: so the input of a matmul is the matmul's, and while
it is made it is the result (`forward`) of the op before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

__all__ = ["Block", "Entry", "Unit", "dropped", "total"]


@dataclass(frozen=True)
class Entry:
    """One op: bytes `saved` until its backward, of these `kept` (or made) by the input gradient for the weight
    gradient; temporary bytes while its `forward`, `backward` or `weight` gradient alone runs, on top of what is saved.

    `tensor` names the largest of its tensors. `gradient` are the bytes of its weights' gradients, where they come into
    being in the backward; 0 where they were there before. `moved` is what of the saved bytes is on the host between
    the layer's forward and its backward.
    """

    name: str
    saved: float = 0.0
    kept: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    weight: float = 0.0
    tensor: str = "activations"
    gradient: float = 0.0
    moved: float = 0.0


@dataclass(frozen=True)
class Unit:
    """Ops in forward order. With an `input` (bytes) they save nothing but that, and are recomputed in the backward;
    `moves_input`: it is on the host in between.
    """

    entries: tuple[Entry, ...]
    input: float | None = None
    moves_input: bool = False

    @property
    def saved(self) -> float:
        """Bytes on the device from the unit's forward to its backward."""
        return (total(self.entries) if self.input is None else self.input) - self.moved

    @property
    def moved(self) -> float:
        """Bytes on the host in between."""
        if self.input is not None:
            return self.input if self.moves_input else 0.0
        return sum(entry.moved for entry in self.entries)


@dataclass(frozen=True)
class Block:
    """Units in forward order, `count` times in a row."""

    units: tuple[Unit, ...]
    count: int = 1

    @property
    def moved(self) -> float:
        """Bytes on the host of each time."""
        return sum(unit.moved for unit in self.units)


def total(entries: Iterable[Entry]) -> float:
    """Bytes that the ops save until their backward."""
    return sum(entry.saved for entry in entries)


def dropped(entries: Sequence[Entry], name: str, size: float) -> tuple[Entry, ...]:
    """The ops when `size` bytes of what op `name` saves are recomputed for its backward instead."""
    return tuple(
        replace(entry, saved=entry.saved - size, backward=entry.backward + size) if entry.name == name else entry
        for entry in entries
    )
