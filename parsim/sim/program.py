"""Program: a plan compiled once to flat arrays in level order, which both players play.

A row is a slot on a stream of a pipeline rank. Row 0 is the origin (time 0), rows 1 to n the slots; the arrays
below hold row i at index i - 1. A level holds the rows whose longest chain of predecessors is equally long, by
rank: they do not depend on each other, so a level is played by a handful of array operations,

    end[row] = max(end[prev], max over d of (end[dep[d]] + delay[edge[d]])) + seconds[duration]

Durations go by (kind, stage) or overlapped pair, not by micro-batch; delays by directed stage boundary.

Copies to and from the host have a stream each. They are layer by layer, beside the layers of the slots that they follow
and precede: one begins before what it needs has ended, and what needs it before it has ended. Such an input has a
`Lag`, a delay of zero or less.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from parsim.plan.op import Op, Slot
from parsim.plan.plan import Plan

__all__ = [
    "COLLECTIVE",
    "COMPUTE",
    "COPY_IN",
    "COPY_OUT",
    "SENDS",
    "SEND_BACKWARD",
    "SEND_FORWARD",
    "STREAM_NAMES",
    "Delayed",
    "Index",
    "Lag",
    "Program",
    "Sends",
]

Index = npt.NDArray[np.intp]

Sends = Literal["buffered", "rendezvous"]
SENDS: tuple[Sends, ...] = ("buffered", "rendezvous")
"""How a message leaves: buffered, it takes its delay while the sender goes on; rendezvous, it starts when the
producer has ended and the receiver has ended the op before the consumer, and the sender waits until it is over."""

COMPUTE, COLLECTIVE, SEND_FORWARD, SEND_BACKWARD, COPY_OUT, COPY_IN = range(6)
STREAM_NAMES = ("compute", "collective", "p2p", "p2p", "copy", "copy")
"""A timeline's names of the streams; two directions, of p2p and of copies to the host, do not wait for each other."""


class Lag(NamedTuple):
    """How a copy (an OFFLOAD or RELOAD, whatever the micro-batch) stands to a slot: to the forward that makes what it
    takes away, or to the backward that reads what it brings. Without a slot: to the next slot, or to the one before the
    backward, which need leave it no more time than a window of layers takes.
    """

    copy: Op
    slot: Slot | None


Delayed = tuple[int, int] | Lag
"""What the delay of an input goes by: a message's source and target stage, or a copy's lag."""


@dataclass(frozen=True, eq=False)
class Program:
    """A plan as arrays; n rows, nd the most inputs of a row beyond the one before it on its stream.

    - `slots[n]`, `rank[n]`, `stream[n]`: what the row is; a transfer (rendezvous alone) prints as its SEND.
    - `prev[n]`: the row before it on the stream (0 if none). In a rendezvous program, the transfer it waits for.
    - `dep[nd, n]`, `edge[nd, n]`: further inputs and their delays; (0, the zero delay) pads.
    - `duration[n]`: row of the durations, which go by `priced` slots; a transfer's go on into the delays.
    - `cuts[levels + 1]`: level l is rows cuts[l] + 1 to cuts[l + 1].
    - `last`: the last row of each stream of each rank.
    - `boundaries`, `lags`: what the delays go by: (source, target) stages, then lags; one more, the last, is zero.
    """

    plan: Plan
    sends: Sends
    slots: tuple[Slot, ...]
    rank: Index
    stream: Index
    prev: Index
    dep: Index
    edge: Index
    duration: Index
    cuts: Index
    last: Index
    priced: tuple[Slot, ...]
    boundaries: tuple[tuple[int, int], ...]
    lags: tuple[Lag, ...] = ()

    @property
    def rows(self) -> int:
        """Number of rows n."""
        return len(self.slots)

    @property
    def levels(self) -> int:
        """Number of levels: the longest chain of rows."""
        return len(self.cuts) - 1

    @property
    def delayed(self) -> tuple[Delayed, ...]:
        """What the delays go by, but for the last, which is zero."""
        return (*self.boundaries, *self.lags)

    @cached_property
    def reductions(self) -> Index:
        """Indices (row - 1) of the rows on collective streams."""
        return np.flatnonzero(self.stream == COLLECTIVE)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """The most inputs of a row of each level beyond the one before it: what the level need not read is left out."""
        if not len(self.dep):
            return (0,) * self.levels
        used = np.where(self.dep > 0, np.arange(1, len(self.dep) + 1)[:, None], 0).max(axis=0)
        return tuple(np.maximum.reduceat(used, self.cuts[:-1]).tolist())

    @cached_property
    def lines(self) -> tuple[tuple[int, int, list[int]], ...]:
        """(rank, stream, rows in order) of every stream that plays something, by rank."""
        order = np.lexsort((self.stream, self.rank))
        key = self.rank[order] * len(STREAM_NAMES) + self.stream[order]
        starts = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), self.rows]
        rows = (order + 1).tolist()
        return tuple((*divmod(int(key[a]), len(STREAM_NAMES)), rows[a:b]) for a, b in pairwise(starts))
