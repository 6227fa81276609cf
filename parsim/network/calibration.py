"""Calibration: a user's own nccl-tests results, as a correction of the model for that class of links.

For every measured kind and group, measured and estimated times are kept at each measured size. Between two of them
there are two answers, both straight lines over log2 bytes: the measured time itself, and the model times its error;
the estimate is their geometric mean, for the model knows where NCCL changes its algorithm and the log knows how far
the model is off. Beyond the measured sizes the model's error stays level. A group that was not measured takes the
error of the nearest measured one of its class: same kind before another kind, then the nearest number of domains and
of ranks.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from parsim.errors import SpecError
from parsim.network.estimate import estimate, kind_named
from parsim.network.reach import Reach

__all__ = ["Calibration", "Calibrations", "Measurement"]

_NOTHING = "nothing to calibrate with: no measured row of two ranks or more"


class Measurement(NamedTuple):
    """One row of a log: a collective of `size_bytes` (nccl-tests' size) on `ranks` over `domains` NVLink domains."""

    kind: str
    size_bytes: float
    seconds: float
    ranks: int
    domains: int


class _Line(NamedTuple):
    """Logarithms at rising log2 bytes: of the measured seconds, and of measured over estimated."""

    kind: str
    ranks: int
    domains: int
    log2_bytes: tuple[float, ...]
    log_seconds: tuple[float, ...]
    log_factor: tuple[float, ...]

    def is_of(self, kind: str, reach: Reach) -> bool:
        """Whether this very collective and group were measured."""
        return (self.kind, self.ranks, self.domains) == (kind, reach.ranks, reach.domains)


@dataclass(frozen=True)
class Calibration:
    """Corrections for one class of links, inside a domain or across."""

    fabric: str
    lines: tuple[_Line, ...]

    @staticmethod
    def of(
        measured: Iterable[Measurement], reach: Reach, *, algorithm: str | None = None, protocol: str | None = None
    ) -> "Calibration":
        """The corrections that measurements on the links of `reach` give. SpecError if nothing usable was measured."""
        places = ((row, _resized(reach, row.ranks, row.domains)) for row in measured if _usable(row))
        return _calibration(reach.kind, places, algorithm, protocol)

    def corrected(self, kind: str, size_bytes: float, reach: Reach, estimated_s: float) -> float | None:
        """Seconds of a collective of this class that the model estimates at `estimated_s`; None for another class."""
        if reach.kind != self.fabric:
            return None
        at = math.log2(size_bytes)
        line = min(self.lines, key=lambda known: _distance(known, kind, reach))
        by_model = math.log(estimated_s) + float(np.interp(at, line.log2_bytes, line.log_factor))
        if not line.is_of(kind, reach) or not line.log2_bytes[0] <= at <= line.log2_bytes[-1]:
            return math.exp(by_model)
        return math.exp((by_model + float(np.interp(at, line.log2_bytes, line.log_seconds))) / 2)


@dataclass(frozen=True)
class Calibrations:
    """Corrections for several classes of links: a log may hold a node alone and many nodes."""

    parts: tuple[Calibration, ...]

    @staticmethod
    def of(
        measured: Iterable[tuple[Measurement, Reach]], *, algorithm: str | None = None, protocol: str | None = None
    ) -> "Calibrations":
        """The corrections that measurements give, each with what its group had. SpecError as `Calibration.of`."""
        classes: dict[str, list[tuple[Measurement, Reach]]] = defaultdict(list)
        for row, reach in measured:
            if _usable(row):
                classes[reach.kind].append((row, reach))
        if not classes:
            raise SpecError(_NOTHING)
        return Calibrations(tuple(_calibration(kind, rows, algorithm, protocol) for kind, rows in classes.items()))

    def corrected(self, kind: str, size_bytes: float, reach: Reach, estimated_s: float) -> float | None:
        """As `Calibration.corrected`, by the one of this class of links."""
        found = (one.corrected(kind, size_bytes, reach, estimated_s) for one in self.parts)
        return next((seconds for seconds in found if seconds is not None), None)


def _usable(row: Measurement) -> bool:
    return row.ranks >= 2 and 0 < row.seconds < math.inf and 0 < row.size_bytes < math.inf


def _calibration(
    fabric: str, measured: Iterable[tuple[Measurement, Reach]], algorithm: str | None, protocol: str | None
) -> Calibration:
    groups: dict[tuple[str, int, int], dict[float, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row, reach in measured:
        kind = kind_named(row.kind)
        expected = estimate(kind, row.size_bytes, reach, algorithm=algorithm, protocol=protocol).seconds
        found = math.log(row.seconds), math.log(row.seconds / expected)
        groups[kind, row.ranks, row.domains][math.log2(row.size_bytes)].append(found)
    if not groups:
        raise SpecError(_NOTHING)
    return Calibration(fabric, tuple(_line(key, points) for key, points in sorted(groups.items())))


def _line(key: tuple[str, int, int], points: Mapping[float, Sequence[tuple[float, float]]]) -> _Line:
    """The means of what was measured at each size."""
    sizes = sorted(points)
    means = [np.mean(points[at], axis=0).tolist() for at in sizes]
    return _Line(*key, tuple(sizes), tuple(mean[0] for mean in means), tuple(mean[1] for mean in means))


def _distance(line: _Line, kind: str, reach: Reach) -> tuple[bool, bool, float, float]:
    """Same way of sending, same kind, nearest in domains, then in ranks."""
    pairwise = {"all_to_all", "send"}
    return (
        (line.kind in pairwise) != (kind in pairwise),
        line.kind != kind,
        abs(math.log2(line.domains / reach.domains)),
        abs(math.log2(line.ranks / reach.ranks)),
    )


def _resized(reach: Reach, ranks: int, domains: int) -> Reach:
    """The links of `reach` for another number of ranks and domains."""
    if (ranks, domains) == (reach.ranks, reach.domains):
        return reach
    if not 1 <= domains <= ranks:
        raise SpecError(f"measured {ranks} ranks on {domains} nodes: at most as many nodes as ranks")
    share = min(1.0, ranks / domains / reach.per_domain)
    return replace(reach, ranks=ranks, domains=domains, nics=max(1, round(reach.nics * share)))
