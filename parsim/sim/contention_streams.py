"""Two streams: which kernel and which collective of a slot run at the moment, by the rules of cost.segments.

`cost.segments.play` goes from end to end by itself; here somebody else lets the time pass, because how fast a
collective is depends on what else is on its links.
"""

from collections.abc import Sequence

from parsim.cost.segments import Block, Collective, Kernel, Segment

__all__ = ["Running", "TwoStreams"]


class Running:
    """A segment in a stream's queue, and its seconds left at full speed."""

    __slots__ = ("left", "reader", "segment")

    def __init__(self, segment: Segment, reader: "_Reader") -> None:
        self.segment = segment
        self.reader = reader
        self.left = segment.seconds


class TwoStreams:
    """The compute and the communication stream of a slot of one op or of two overlapped ones."""

    def __init__(self, ops: Sequence[Sequence[Block]]) -> None:
        self._readers = [_Reader(blocks) for blocks in ops]
        self._compute: list[Running] = []
        self._communication: list[Running] = []

    def heads(self) -> tuple[Running | None, Running | None]:
        """The kernel and the collective that run now; neither: the slot is over."""
        for reader in self._readers:
            while (segment := reader.take()) is not None:
                running = Running(segment, reader)
                if isinstance(segment, Kernel):
                    self._compute.append(running)
                elif _goes_last(segment):
                    self._communication.append(running)
                else:
                    self._communication.insert(sum(not _goes_last(r.segment) for r in self._communication), running)
        compute, communication = self._compute, self._communication
        return compute[0] if compute else None, communication[0] if communication else None

    def end(self, running: Running) -> None:
        """A head has ended."""
        queue = self._compute if isinstance(running.segment, Kernel) else self._communication
        queue.remove(running)
        running.reader.ended(running.segment)


class _Reader:
    """How far an op is: as in cost.segments."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._segments = [(segment, index) for index, block in enumerate(blocks) for segment in block]
        self._next = 0
        self._block = 0
        self._running = 0
        self._held = False
        self._joining = 0
        self._joined = False

    def take(self) -> Segment | None:
        if self._held or self._next == len(self._segments):
            return None
        segment, block = self._segments[self._next]
        if (block != self._block and self._running) or (self._joining and self._joined):
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


def _in_line(segment: Segment) -> bool:
    return isinstance(segment, Kernel) or not segment.overlaps


def _joins(segment: Segment) -> bool:
    return isinstance(segment, Collective) and segment.joins


def _goes_last(segment: Segment) -> bool:
    """Whether a collective stands behind those in line: one that overlaps with all that follows."""
    return not _in_line(segment) and not _joins(segment)
