"""Estimate: how long a collective takes on what its group has between its ranks (level 0: no graph, no events).

NCCL's own model chooses algorithm and protocol as NCCL would; the class of links then says what that choice was
measured to take, and a user's own measurements correct it (calibration). So three grades of evidence: a class without
measurements is `assumed`, one with published ones `fitted`, one with the user's `calibrated`.

Kinds and their bytes are nccl-tests': all_reduce, reduce_scatter (its input), all_gather (its output), broadcast,
all_to_all (what a rank holds), send.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

from parsim.errors import LayoutError
from parsim.network.importers.measured import bus_factor
from parsim.network.nccl import Choice, Kind, Term, channels_used, choose, terms
from parsim.network.parts import Parts, all_to_all_parts, collective_parts, message_parts, seconds_of
from parsim.network.reach import Reach
from parsim.spec.fabric_times import FabricTimes, load_fabric_times
from parsim.spec.nccl import NcclConstants, load_nccl

__all__ = ["KINDS", "Correction", "Estimate", "bus_factor", "estimate", "kind_named", "options", "parts_of"]

KINDS = (*get_args(Kind), "all_to_all", "send")
_ALIASES = {"alltoall": "all_to_all", "sendrecv": "send", "allreduce": "all_reduce", "allgather": "all_gather"}
LARGEST_BYTES = 2.0**60


class Correction(Protocol):
    """Something measured that corrects an estimate; a frozen value, so that what it corrects can be remembered."""

    def __hash__(self) -> int: ...

    def corrected(self, kind: str, size_bytes: float, reach: Reach, estimated_s: float) -> float | None:
        """The seconds of a collective that the model estimates at `estimated_s`; None if it says nothing of such."""
        ...


@dataclass(frozen=True)
class Estimate:
    """One collective on one group. `nodes` are NVLink domains; rates are nccl-tests'."""

    kind: str
    size_bytes: float
    ranks: int
    nodes: int
    seconds: float
    algorithm: str
    protocol: str
    channels: int
    evidence: str

    @property
    def algbw_bytes_per_s(self) -> float:
        """Bytes over seconds."""
        return self.size_bytes / self.seconds if self.seconds else 0.0

    @property
    def busbw_bytes_per_s(self) -> float:
        """What the links would have to carry: algbw times nccl-tests' factor."""
        return self.algbw_bytes_per_s * bus_factor(self.kind, self.ranks)

    def document(self) -> dict[str, object]:
        """As `parsim collective --json` prints it."""
        return {
            "kind": self.kind,
            "bytes": int(self.size_bytes),
            "ranks": self.ranks,
            "nodes": self.nodes,
            "time_us": self.seconds * 1e6,
            "algbw_gbps": self.algbw_bytes_per_s / 1e9,
            "busbw_gbps": self.busbw_bytes_per_s / 1e9,
            "algorithm": self.algorithm,
            "protocol": self.protocol,
            "channels": self.channels,
            "evidence": self.evidence,
        }


def kind_named(name: str) -> str:
    """The kind that a user's word means. LayoutError lists those that there are."""
    kind = _ALIASES.get(name, name.replace("-", "_"))
    if kind not in KINDS:
        raise LayoutError(f"collective {name!r}: one of {', '.join(KINDS)}")
    return kind


def estimate(
    kind: str,
    size_bytes: float,
    reach: Reach,
    *,
    algorithm: str | None = None,
    protocol: str | None = None,
    correction: Correction | None = None,
    constants: NcclConstants | None = None,
    times: FabricTimes | None = None,
) -> Estimate:
    """The collective as NCCL would play it, or by a forced algorithm and protocol.

    LayoutError for an unknown kind, a size that is not a positive finite number of bytes below 1 EiB, or an algorithm
    that is not possible there.
    """
    kind = kind_named(kind)
    _check_size(size_bytes)
    if reach.ranks == 1:
        return Estimate(kind, size_bytes, 1, 1, 0.0, "none", "none", 0, "assumed")
    constants = constants or load_nccl()
    times = times or load_fabric_times(reach.kind)
    parts, pair, term = parts_of(
        kind, size_bytes, reach, constants, times.ll128, algorithm=algorithm, protocol=protocol
    )
    channels = channels_used(size_bytes, pair, term, constants) if pair and term else 1
    played, by = pair or (parts.way, "Simple")
    seconds, evidence = seconds_of(parts, times), str(times.evidence["all"].grade)
    corrected = correction.corrected(kind, size_bytes, reach, seconds) if correction is not None else None
    if corrected is not None:
        seconds, evidence = corrected, "calibrated"
    return Estimate(kind, size_bytes, reach.ranks, reach.domains, seconds, played, by, channels, evidence)


def options(
    kind: str,
    size_bytes: float,
    reach: Reach,
    *,
    constants: NcclConstants | None = None,
    times: FabricTimes | None = None,
) -> Iterator[Estimate]:
    """The collective by every algorithm and protocol that could play it."""
    constants = constants or load_nccl()
    times = times or load_fabric_times(reach.kind)
    if kind not in get_args(Kind) or reach.ranks == 1:
        yield estimate(kind, size_bytes, reach, constants=constants, times=times)
        return
    for algorithm, protocol in _possible(kind, size_bytes, reach, constants, times.ll128, collnet=True):
        yield estimate(
            kind, size_bytes, reach, algorithm=algorithm, protocol=protocol, constants=constants, times=times
        )


def parts_of(
    kind: str,
    size_bytes: float,
    reach: Reach,
    constants: NcclConstants,
    ll128: bool = True,
    *,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> tuple[Parts, Choice | None, Term | None]:
    """What the collective is made of, by NCCL's choice among what is left by `algorithm` and `protocol`."""
    if kind == "all_to_all":
        return all_to_all_parts(size_bytes, reach, constants), None, None
    if kind == "send":
        return message_parts(size_bytes, reach, constants), None, None
    found = _possible(kind, size_bytes, reach, constants, ll128, collnet=algorithm == "collnet")
    pair = choose(size_bytes, found, algorithm, protocol)
    term = terms(kind, size_bytes, reach, constants, collnet=pair[0] == "collnet", rounded=False)[pair]  # type: ignore[arg-type]
    return collective_parts(kind, size_bytes, reach, pair, term, constants), pair, term


def _possible(
    kind: str, size_bytes: float, reach: Reach, constants: NcclConstants, ll128: bool, *, collnet: bool
) -> Mapping[Choice, Term]:
    found = terms(kind, size_bytes, reach, constants, collnet=collnet)  # type: ignore[arg-type]
    if reach.fabric == "loopback":  # gloo: rings
        return {pair: term for pair, term in found.items() if pair == ("ring", "Simple")}
    return found if ll128 else {pair: term for pair, term in found.items() if pair[1] != "LL128"}


def _check_size(size_bytes: float) -> None:
    if not 0 < size_bytes <= LARGEST_BYTES or math.isnan(size_bytes):
        raise LayoutError(f"bytes {size_bytes:g}: more than 0 and at most 1 EiB (2^60)")
