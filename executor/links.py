"""Links: how long messages and collectives take between ranks, measured by these ranks.

A message's time is half a round trip, the median of many. A collective's is the slowest rank's median. Rates are those
of nccl-tests: algbw = bytes / seconds, busbw = algbw * 2 (n - 1) / n for all_reduce and (n - 1) / n for the others;
bytes are the whole buffer: what all_reduce and all_to_all hold on a rank, what all_gather ends with, what
reduce_scatter begins with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from executor.device import Device, open_device
from executor.job import Device as DeviceName
from executor.play import Context

__all__ = ["COLLECTIVES", "CollectiveTime", "LinkJob", "LinkRecord", "MessageTime", "bus_factor", "measure_links"]

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all")
_WARMUP = 5
# PyTorch 2.13 renamed them, and warns of the old names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_WORD_BYTES = 4


@dataclass(frozen=True)
class LinkJob:
    """What to measure: messages of `sizes` bytes between `pairs` of ranks, pair after pair, each `rounds` times there
    and back; and collectives of `collective_sizes` bytes among the first `collective_ranks` ranks, each
    `collective_rounds` times.
    """

    device: DeviceName
    pairs: tuple[tuple[int, int], ...] = ()
    sizes: tuple[int, ...] = ()
    rounds: int = 30
    collective_rounds: int = 15
    collective_ranks: tuple[int, ...] = ()
    collective_sizes: tuple[int, ...] = ()

    def labels(self) -> tuple[str, ...]:
        """What a rank does, one after the other, in words."""
        return (
            *(f"message of {size} bytes, rank {a} to {b}" for a, b in self.pairs for size in self.sizes),
            *(f"{kind} of {size} bytes on {n} ranks" for n, kind, size in self.collectives()),
        )

    def collectives(self) -> Iterator[tuple[int, str, int]]:
        """(ranks, kind, bytes) of every collective, in the order in which all ranks play them."""
        for ranks in self.collective_ranks:
            for kind in COLLECTIVES:
                for size in self.collective_sizes:
                    yield ranks, kind, size


class MessageTime(NamedTuple):
    """Seconds of a message one way: the median, and the 10th and 90th percentile."""

    source: int
    target: int
    bytes: int
    seconds: float
    low_s: float
    high_s: float


class CollectiveTime(NamedTuple):
    """Median seconds of a collective on one rank; `bytes` as really sent, a multiple of the ranks."""

    kind: str
    ranks: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class LinkRecord:
    """What one rank measured: messages that it sent first, collectives that it took part in."""

    rank: int
    messages: tuple[MessageTime, ...]
    collectives: tuple[CollectiveTime, ...]


def bus_factor(kind: str, ranks: int) -> float:
    """busbw over algbw, by nccl-tests' definition."""
    return (2 if kind == "all_reduce" else 1) * (ranks - 1) / ranks


def measure_links(context: Context, job: LinkJob) -> LinkRecord:
    """Measure everything that the job asks for; all ranks do so together, those that are not meant wait."""
    device = open_device(job.device, context.local_rank)
    rank, index = context.rank, 0
    messages, collectives = list[MessageTime](), list[CollectiveTime]()
    for pair in job.pairs:
        for size in job.sizes:
            context.state.enter(index)
            index += 1
            dist.barrier()
            if rank in pair:
                found = _ping(device, rank, pair, size, job.rounds)
                if rank == pair[0]:
                    messages.append(found)
    groups = {n: _first(n, context.ranks) for n in job.collective_ranks}
    for n, kind, size in job.collectives():
        context.state.enter(index)
        index += 1
        dist.barrier()
        if rank < n:
            collectives.append(_collective(device, groups[n], n, kind, size, job.collective_rounds))
    context.state.leave()
    return LinkRecord(rank, tuple(messages), tuple(collectives))


def _first(count: int, ranks: int) -> dist.ProcessGroup | None:
    """The group of the first ranks; None is the default group, of all."""
    if count == ranks:
        return None
    group: dist.ProcessGroup | None = dist.new_group(list(range(count)))
    return group


def _ping(device: Device, rank: int, pair: tuple[int, int], size: int, rounds: int) -> MessageTime:
    source, target = pair
    tensor = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)

    def there_and_back() -> None:
        if rank == source:
            dist.send(tensor, target)
            dist.recv(tensor, target)
        else:
            dist.recv(tensor, source)
            dist.send(tensor, source)

    halves = [seconds / 2 for seconds in _times(device, there_and_back, rounds)]
    return MessageTime(source, target, size, median(halves), _percentile(halves, 0.1), _percentile(halves, 0.9))


def _collective(
    device: Device, group: dist.ProcessGroup | None, ranks: int, kind: str, size: int, rounds: int
) -> CollectiveTime:
    words = -(-size // (_WORD_BYTES * ranks)) * ranks
    whole = torch.zeros(words, dtype=torch.float32, device=device.torch_device)
    other = torch.zeros_like(whole)
    part = torch.zeros(words // ranks, dtype=torch.float32, device=device.torch_device)
    plays: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "reduce_scatter": lambda: _reduce_scatter(part, whole, group=group),
        "all_gather": lambda: _all_gather(whole, part, group=group),
        "all_to_all": lambda: dist.all_to_all_single(other, whole, group=group),
    }
    return CollectiveTime(kind, ranks, words * _WORD_BYTES, median(_times(device, plays[kind], rounds)))


def _times(device: Device, play: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of each of `rounds` plays, after some that do not count."""
    marks = []
    for _ in range(_WARMUP + rounds):
        marks.append(device.mark())
        play()
    marks.append(device.mark())
    return [after - before for before, after in pairwise(device.seconds(marks))][_WARMUP:]


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]
