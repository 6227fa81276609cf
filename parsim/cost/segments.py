"""Segments: what happens inside an op, and the player of two streams that turns them into time.

An op is a sequence of blocks; nothing of a block starts before the block before it has ended. Inside a block,
kernels follow each other on the compute stream, collectives go to the communication stream. A collective that
overlaps starts when the kernels before it have ended and lets those behind it run; any other stands in line: it
starts when the kernels before it have ended, goes before collectives that overlap, and what is behind it waits. One
that joins overlaps with the next kernel alone: what follows that kernel waits for both.

A kernel and a collective that run at the same time slow each other: both run at 1/(1+c), so that a collective of x
seconds beside y seconds of kernels takes max(x, y) + c * min(x, y). c is the collective's `contention`, 0 to 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from parsim.axes.axis import CollectiveKind

__all__ = [
    "Block",
    "Collective",
    "Kernel",
    "KernelCause",
    "Played",
    "Running",
    "Segment",
    "TwoStreams",
    "play",
    "play_pair",
]

KernelCause = Literal["matmul", "attention", "memory", "host", "recompute"]
"""What a kernel's time is for: arithmetic, traffic of memory, launches, or the forward played once more."""


class Kernel(NamedTuple):
    """Work on the compute stream, and the FLOP that it performs (matmuls and attention)."""

    name: str
    seconds: float
    cause: KernelCause = "host"
    flops: float = 0.0


class Collective(NamedTuple):
    """Communication of `size_bytes` among `group` ranks of an axis, `seconds` long when nothing slows it."""

    kind: CollectiveKind
    axis: str
    size_bytes: float
    group: int
    seconds: float
    overlaps: bool = False
    contention: float = 0.0
    joins: bool = False


Segment = Kernel | Collective
Block = tuple[Segment, ...]


@dataclass(frozen=True)
class Played:
    """A duration, and the part of it by axis in which communication kept compute from its full speed:
    seconds = time of all kernels + sum of exposed. `hidden` is what of the communication ran beside kernels, in its
    seconds at full speed: without contention the two are all of it.
    """

    seconds: float
    exposed: Mapping[str, float]
    hidden: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Played") -> "Played":
        seconds = self.seconds + other.seconds
        return Played(seconds, _sum(self.exposed, other.exposed), _sum(self.hidden, other.hidden))


def _sum(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {axis: first.get(axis, 0.0) + second.get(axis, 0.0) for axis in {**first, **second}}


def play(blocks: Sequence[Block], known: dict[Block, Played] | None = None) -> Played:
    """An op alone on an empty pair of streams. What is `known` of single blocks is used, and added to."""
    known = {} if known is None else known
    here: dict[int, Played] = {}  # by identity, which is quicker to compare; all blocks live as long as this
    seconds = 0.0
    exposed: dict[str, float] = {}
    hidden: dict[str, float] = {}
    for block in blocks:
        played = here.get(id(block))
        if played is None:
            played = known.get(block)
            if played is None:
                played = known[block] = _in_turn(block) or _play([block])
            here[id(block)] = played
        seconds += played.seconds
        for axis, value in played.exposed.items():
            exposed[axis] = exposed.get(axis, 0.0) + value
        for axis, value in played.hidden.items():
            hidden[axis] = hidden.get(axis, 0.0) + value
    return Played(seconds, exposed, hidden)


def _in_turn(block: Block) -> Played | None:
    """A block in which nothing overlaps, one segment after the other; None for another."""
    seconds = 0.0
    exposed: dict[str, float] = {}
    for segment in block:
        if isinstance(segment, Collective):
            if segment.overlaps:
                return None
            exposed[segment.axis] = exposed.get(segment.axis, 0.0) + segment.seconds
        seconds += segment.seconds
    return Played(seconds, exposed)


def play_pair(first: Sequence[Block], second: Sequence[Block]) -> Played:
    """Two ops together on one pair of streams; each stream serves who asked first, then `first` before `second`.

    Never shorter than the longer of the two alone, never longer than one after the other: if taking turns turns out
    worse (two ops that both overlap already), they are played one after the other.
    """
    together = _play(first, second)
    apart = play(first) + play(second)
    return together if together.seconds <= apart.seconds else apart


class _Reader:
    """How far the player is in one op."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._segments = [(segment, index) for index, block in enumerate(blocks) for segment in block]
        self._next = 0
        self._block = 0
        self._running = 0  # segments handed out and not ended
        self._held = False  # a kernel or a collective in line is out: nothing that follows may start
        self._joining = 0  # collectives out that the kernel behind the next one waits for
        self._joined = False  # that next kernel has been handed out

    def take(self) -> Segment | None:
        """The next segment if it may go to its stream now."""
        if self._held or self._next == len(self._segments):
            return None
        segment, block = self._segments[self._next]
        if block != self._block and self._running:
            return None
        if self._joining and self._joined:
            return None
        self._next, self._block = self._next + 1, block
        self._running += 1
        self._held = _in_line(segment)
        if _joins(segment):
            self._joining, self._joined = self._joining + 1, False
        elif isinstance(segment, Kernel):
            self._joined = True
        return segment

    def ended(self, segment: Segment) -> None:
        self._running -= 1
        if _in_line(segment):
            self._held = False
        if _joins(segment):
            self._joining -= 1


class Running:
    """A segment in a stream's queue, and its seconds left at full speed."""

    __slots__ = ("left", "reader", "segment")

    def __init__(self, segment: Segment, reader: _Reader) -> None:
        self.segment = segment
        self.reader = reader
        self.left = segment.seconds


class TwoStreams:
    """The compute and the communication stream of one op or of two overlapped ones: which segments run at the moment.

    Whoever plays them lets the time pass: here at the speed of an op on links of its own, in `sim.contention` at what
    other traffic leaves.
    """

    def __init__(self, ops: Sequence[Sequence[Block]]) -> None:
        self._readers = [_Reader(blocks) for blocks in ops]
        self._compute: list[Running] = []
        self._communication: list[Running] = []

    def heads(self) -> tuple[Running | None, Running | None]:
        """The kernel and the collective that run now; neither: all is over."""
        compute, communication = self._compute, self._communication
        for reader in self._readers:
            while (segment := reader.take()) is not None:
                running = Running(segment, reader)
                if isinstance(segment, Kernel):
                    compute.append(running)
                elif _goes_last(segment):
                    communication.append(running)
                else:
                    communication.insert(sum(not _goes_last(r.segment) for r in communication), running)
        return compute[0] if compute else None, communication[0] if communication else None

    def end(self, running: Running) -> None:
        """A head has ended."""
        queue = self._compute if isinstance(running.segment, Kernel) else self._communication
        queue.remove(running)
        running.reader.ended(running.segment)


def _in_line(segment: Segment) -> bool:
    return isinstance(segment, Kernel) or not segment.overlaps


def _joins(segment: Segment) -> bool:
    return isinstance(segment, Collective) and segment.joins


def _goes_last(segment: Segment) -> bool:
    """Whether a collective stands behind those in line: one that overlaps with all that follows."""
    return not _in_line(segment) and not _joins(segment)


def _play(*ops: Sequence[Block]) -> Played:
    now = 0.0
    exposed: dict[str, float] = {}
    hidden: dict[str, float] = {}
    streams = TwoStreams(ops)
    while True:
        compute, communication = streams.heads()
        heads = [head for head in (compute, communication) if head]
        if not heads:
            return Played(now, exposed, hidden)
        lasting = min(head.left for head in heads)
        slow = 1.0
        if communication:
            beside = communication.segment
            assert isinstance(beside, Collective)
            slow += beside.contention if compute else 0.0
            shown = lasting * (slow - 1.0) if compute else lasting
            exposed[beside.axis] = exposed.get(beside.axis, 0.0) + shown
            if compute:
                hidden[beside.axis] = hidden.get(beside.axis, 0.0) + lasting
        now += lasting * slow
        for head in heads:
            head.left -= lasting
            if head.left <= 0.0:
                streams.end(head)
