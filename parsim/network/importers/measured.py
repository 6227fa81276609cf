"""Measured collectives: what a benchmark printed, as tables of (size, seconds), and the checks that all sources share.

Sizes are bytes as nccl-tests counts them (the whole buffer: what a rank ends with in an all-gather, starts with in a
reduce-scatter), times are seconds. With n ranks, by nccl-tests' doc/PERFORMANCE.md:

    algbw = size / time          busbw = algbw * factor
    factor = 2(n-1)/n  all-reduce
             (n-1)/n   all-gather, reduce-scatter, all-to-all, gather, scatter, hypercube
             1         broadcast, reduce, send
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from parsim.errors import SpecError

__all__ = [
    "COLLECTIVES",
    "MeasuredRow",
    "MeasuredTable",
    "PrintedRow",
    "bus_factor",
    "kind_of",
    "measured_table",
    "ranks_from_rates",
]

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "hypercube",
    "send",
)
"""Names of what can be measured; `all_to_all` is nccl-tests' alltoall, `send` its sendrecv."""

_TWICE, _ONCE = ("all_reduce",), ("broadcast", "reduce", "send")
_SPELLINGS = {"allreduce": 0, "allgather": 1, "reducescatter": 2, "alltoall": 3, "sendrecv": 9}
_LARGEST_SIZE = 2**63 - 1
_LARGEST_RANKS = 1_000_000
_TRUSTED_BYTES_PER_S = 1e9  # below, two printed decimals say too little
_TOLERANCE = 0.05


class MeasuredRow(NamedTuple):
    """Seconds of one collective of `size_bytes`, out of place; in place where that was measured too.

    A row measured in place alone has the same seconds twice.
    """

    size_bytes: int
    seconds: float
    in_place_seconds: float | None = None


@dataclass(frozen=True)
class MeasuredTable:
    """One collective on one group of ranks. `algorithm`, `nodes` and `gpu` are None where the source is silent.

    `notes` are what a reader should know before trusting it: rows left out, rates that contradict the rank count.
    """

    kind: str
    ranks: int
    nodes: int | None
    gpu: str | None
    rows: tuple[MeasuredRow, ...]
    algorithm: str | None
    source: str
    notes: tuple[str, ...] = ()

    def bus_bytes_per_s(self, row: MeasuredRow) -> float:
        """busbw of a row, bytes/s."""
        return row.size_bytes / row.seconds * bus_factor(self.kind, self.ranks)


class PrintedRow(NamedTuple):
    """A row as a source has it: sizes and times not yet checked, rates in bytes/s with half a unit of the last digit.

    `size_bytes` is None where the source has no whole number there.
    """

    size_bytes: int | None
    seconds: float | None
    in_place_seconds: float | None = None
    algorithm_rate: float | None = None
    bus_rate: float | None = None
    rounding: float = 0.0
    seconds_rounding: float = 0.0


def kind_of(name: str) -> str | None:
    """The collective that a name means: `all_reduce_perf`, `AllReduce`, `alltoall`, `sendrecv_perf_mpi`; else None."""
    plain = name.strip().lower().rsplit("/", 1)[-1].split("_perf")[0].replace("-", "_").replace(" ", "_")
    if plain in COLLECTIVES:
        return plain
    index = _SPELLINGS.get(plain.replace("_", ""))
    return None if index is None else COLLECTIVES[index]


def bus_factor(kind: str, ranks: int) -> float:
    """busbw over algbw, by nccl-tests' definition."""
    if kind in _ONCE:
        return 1.0
    return (2 if kind in _TWICE else 1) * (ranks - 1) / ranks


def measured_table(
    printed: Sequence[PrintedRow],
    *,
    kind: str,
    ranks: int,
    source: str,
    nodes: int | None = None,
    gpu: str | None = None,
    algorithm: str | None = None,
    notes: Iterable[str] = (),
) -> MeasuredTable:
    """A checked table: rows without a usable size or time are left out with a note, rates compared with the times.

    Raises SpecError: fewer than one rank.
    """
    if not 1 <= ranks <= _LARGEST_RANKS:
        raise SpecError(f"{source}: {ranks} ranks; a collective is measured on 1 to {_LARGEST_RANKS}")
    rows: list[MeasuredRow] = []
    left: dict[str, int] = {}
    for row in printed:
        reason = _reason_to_leave(row)
        if reason is not None:
            left[reason] = left.get(reason, 0) + 1
            continue
        assert row.size_bytes is not None
        assert row.seconds is not None
        in_place = row.in_place_seconds if _usable(row.in_place_seconds) else None
        rows.append(MeasuredRow(row.size_bytes, row.seconds, in_place))
    found = [*notes, *(f"{n} row{'s' * (n > 1)} left out: {reason}" for reason, n in left.items())]
    if ranks == 1:
        found.append("one rank: nothing was sent, these times say nothing about a network")
    found.extend(_contradictions(printed, kind, ranks))
    return MeasuredTable(kind, ranks, nodes, gpu, tuple(rows), algorithm, source, tuple(found))


def _usable(seconds: float | None) -> bool:
    return seconds is not None and math.isfinite(seconds) and seconds > 0


def _reason_to_leave(row: PrintedRow) -> str | None:
    if row.size_bytes is None:
        return "no whole number as size"
    if row.size_bytes == 0:
        return "0 bytes"
    if not 0 < row.size_bytes <= _LARGEST_SIZE:
        return "a size outside 1 to 2^63 - 1 bytes"
    if row.seconds is None:
        return "no number as time"
    return None if _usable(row.seconds) else "a time that is not finite and above 0"


def _contradictions(printed: Sequence[PrintedRow], kind: str, ranks: int) -> list[str]:
    """Printed rates against those that the times give, where they are large enough to be trusted."""
    algorithm, bus = list[float](), list[float]()
    for row in printed:
        if _reason_to_leave(row) is not None:
            continue
        assert row.size_bytes is not None
        assert row.seconds is not None
        rate = row.size_bytes / row.seconds
        for values, value in ((algorithm, row.algorithm_rate), (bus, row.bus_rate)):
            if value is not None and math.isfinite(value) and value >= _TRUSTED_BYTES_PER_S:
                values.append(value / rate)
    notes = []
    if algorithm and abs((off := median(algorithm)) - 1) > _TOLERANCE:
        hint = "; perhaps the sizes are one rank's share" if abs(off / ranks - 1) < _TOLERANCE else ""
        notes.append(f"the printed algbw is {off:.3g} times size / time{hint}")
    factor = bus_factor(kind, ranks)
    measured = median(bus) if bus else factor
    if abs(measured - factor) > _TOLERANCE * factor:
        notes.append(
            f"the printed busbw is {measured:.3g} times size / time, {kind} on {ranks} ranks has {factor:.3g};"
            " perhaps a wrong rank count or collective"
        )
    return notes


def ranks_from_rates(printed: Sequence[PrintedRow], kind: str) -> tuple[int, int] | None:
    """The fewest and the most ranks that the printed rates allow; None where they say nothing.

    busbw / algbw = f gives n = 2/(2-f) for an all-reduce, 1/(1-f) for the rest. Every row gives an interval of n, for
    its figures are rounded; the answer is what most rows agree on, at least three in four.
    """
    if kind in _ONCE:
        return None
    most = 2.0 if kind in _TWICE else 1.0
    intervals = list[tuple[int, int]]()
    for row in printed:
        if row.bus_rate is None or row.rounding <= 0 or not row.bus_rate > 20 * row.rounding:
            continue
        for rate, rounding in _rates(row):
            if not (math.isfinite(rate) and rate > 20 * rounding and math.isfinite(row.bus_rate)):
                continue
            low = (row.bus_rate - row.rounding) / (rate + rounding) / most
            high = (row.bus_rate + row.rounding) / (rate - rounding) / most
            if low >= 1:
                continue
            fewest = max(math.ceil(1 / (1 - low) - 1e-9), 2) if low > 0 else 2
            largest = _LARGEST_RANKS if high >= 1 else min(math.floor(1 / (1 - high) + 1e-9), _LARGEST_RANKS)
            if fewest <= largest:
                intervals.append((fewest, largest))
    return _agreed(intervals)


def _rates(row: PrintedRow) -> list[tuple[float, float]]:
    """algbw with its rounding, as printed and as size over time: the latter has more digits where rates are small."""
    rates = []
    if row.algorithm_rate is not None:
        rates.append((row.algorithm_rate, row.rounding))
    if row.size_bytes and row.seconds is not None and _usable(row.seconds) and row.seconds > 2 * row.seconds_rounding:
        rate = row.size_bytes / row.seconds
        rates.append((rate, rate * row.seconds_rounding / (row.seconds - row.seconds_rounding)))
    return rates


def _agreed(intervals: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The stretch of whole numbers that lies in the most intervals, if those are three in four of them."""
    if not intervals:
        return None
    steps: dict[int, int] = {}
    for low, high in intervals:
        steps[low] = steps.get(low, 0) + 1
        steps[high + 1] = steps.get(high + 1, 0) - 1
    places = sorted(steps)
    depth, best, answer = 0, 0, (0, 0)
    for place, after in zip(places, [*places[1:], places[-1]], strict=True):
        depth += steps[place]
        if depth > best:
            best, answer = depth, (place, after - 1)
    return answer if best >= 0.75 * len(intervals) else None
