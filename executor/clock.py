"""Clock: how far a rank's clock is from rank 0's, found by the fastest of many round trips.

A message and its answer take the same way at the fastest; so the answer was written half-way. The error is half of the
fastest round trip at most; a median of round trips would err by what the machine happened to do meanwhile.
"""

import time
from typing import NamedTuple

import torch
import torch.distributed as dist

__all__ = ["Alignment", "measure_offset"]

PINGS = 200


class Alignment(NamedTuple):
    """A rank's clock against rank 0's, before and after a run: `offset_s` is what it shows more."""

    before_s: float
    before_offset_s: float
    after_s: float
    after_offset_s: float
    error_s: float

    def to_rank_0(self, t_s: float) -> float:
        """A time of this rank's clock on rank 0's clock; between the two measurements clocks drift evenly."""
        span = self.after_s - self.before_s
        share = (t_s - self.before_s) / span if span > 0 else 0.0
        return t_s - (self.before_offset_s + share * (self.after_offset_s - self.before_offset_s))


def measure_offset(group: dist.ProcessGroup, rank: int, ranks: int, pings: int = PINGS) -> tuple[float, float, float]:
    """(time here, offset to rank 0, error) in seconds; all ranks of a CPU group call it together."""
    ping = torch.zeros(1, dtype=torch.float64)
    if rank:
        for _ in range(pings):
            group.recv([ping], 0, 0).wait()
            ping.fill_(time.perf_counter())
            group.send([ping], 0, 0).wait()
        found = torch.zeros(2, dtype=torch.float64)
        group.recv([found], 0, 1).wait()
        return time.perf_counter(), float(found[0]), float(found[1])
    for peer in range(1, ranks):
        best = (float("inf"), 0.0)
        for _ in range(pings):
            began = time.perf_counter()
            group.send([ping], peer, 0).wait()
            group.recv([ping], peer, 0).wait()
            ended = time.perf_counter()
            best = min(best, (ended - began, float(ping) - (began + ended) / 2))
        group.send([torch.tensor([best[1], best[0] / 2], dtype=torch.float64)], peer, 1).wait()
    return time.perf_counter(), 0.0, 0.0
