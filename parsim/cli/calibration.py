"""A user's own log of nccl-tests, read for a cluster: what it corrects, what it measured, what is to be said of it.

Where a log names no collective or no rank count, those that the command asks for are tried. A table belongs to the
setting that it was measured with: one of a forced algorithm (NCCL_ALGO) says nothing of NCCL's own choice.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parsim.errors import SpecError
from parsim.files import read_text
from parsim.network.calibration import Calibrations, Measurement
from parsim.network.estimate import KINDS
from parsim.network.importers.nccl_tests import MeasuredTable, read_log
from parsim.network.reach import Reach, reach_of_size
from parsim.spec import ClusterSpec

__all__ = ["Log", "read_calibration"]

_ALGORITHMS = {"ring": "ring", "tree": "tree", "nvls": "nvls", "nvlstree": "nvls_tree", "collnet": "collnet"}
_MODEL = re.compile(r"(?<![A-Z0-9])(?:G?[ABHVP]\d{2,3}|L\d{1,2}S?|MI\d{3}[A-Z]?|T4)(?!\d)")


@dataclass(frozen=True)
class Log:
    """What a log says of one cluster."""

    correction: Calibrations
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()

    def points(self, kind: str, reach: Reach) -> list[tuple[float, float]]:
        """Bytes and seconds of this collective on this very group, by rising size: the geometric mean of its rows."""
        found: dict[float, list[float]] = defaultdict(list)
        for row in self.measurements:
            if (row.kind, row.ranks, row.domains) == (kind, reach.ranks, reach.domains):
                found[row.size_bytes].append(math.log(row.seconds))
        return [(size, math.exp(sum(logs) / len(logs))) for size, logs in sorted(found.items())]

    def seconds(self, kind: str, size_bytes: float, reach: Reach) -> float | None:
        """What one of these points took; None where it was not measured."""
        return dict(self.points(kind, reach)).get(size_bytes)


def read_calibration(
    path: Path,
    cluster: ClusterSpec,
    *,
    kind: str | None = None,
    ranks: int | None = None,
    algorithm: str | None = None,
    protocol: str | None = None,
) -> Log:
    """The log in a file as a correction for a cluster. `kind` and `ranks` are what it may be silent about.

    ParsimError of one line that names the file: no such file, no table, GPUs or rank counts that the cluster cannot
    have, nothing measured with this algorithm.
    """
    text = read_text(path, "calibration file")
    try:
        return _log(_tables(text, kind, ranks), cluster, algorithm, protocol)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _tables(text: str, kind: str | None, ranks: int | None) -> tuple[MeasuredTable, ...]:
    first: SpecError | None = None
    for said in ({}, {"kind": kind}, {"ranks": ranks}, {"kind": kind, "ranks": ranks}):
        try:
            return read_log(text, **said)
        except SpecError as error:
            first = first or error
    assert first is not None
    raise first


def _log(tables: Sequence[MeasuredTable], cluster: ClusterSpec, algorithm: str | None, protocol: str | None) -> Log:
    notes: dict[str, None] = {}
    left: dict[str, int] = defaultdict(int)
    found: list[tuple[Measurement, Reach]] = []
    for table in tables:
        _check_gpu(table, cluster)
        forced = _forced(table)
        if table.ranks < 2:
            left["one rank sends nothing"] += 1
        elif table.kind not in KINDS:
            left[f"no model of {table.kind}"] += 1
        elif forced != algorithm:
            had = f"NCCL_ALGO={table.algorithm}" if forced else "NCCL's own choice"
            left[f"measured with {had}" + (f", ask with --algorithm {forced}" if forced else "")] += 1
        else:
            reach = _reach(table, cluster)
            found.extend(_rows(table, reach))
            notes.update(dict.fromkeys(f"log: {note}" for note in table.notes))
    reasons = [f"{n} of {len(tables)} tables left out: {reason}" for reason, n in left.items()]
    if not found:
        raise SpecError("nothing to calibrate with: " + "; ".join(reasons))
    correction = Calibrations.of(found, algorithm=algorithm, protocol=protocol)
    return Log(correction, tuple(row for row, _ in found), (*(f"log: {reason}" for reason in reasons), *notes))


def _rows(table: MeasuredTable, reach: Reach) -> Iterator[tuple[Measurement, Reach]]:
    for row in table.rows:
        yield Measurement(table.kind, row.size_bytes, row.seconds, reach.ranks, reach.domains), reach


def _forced(table: MeasuredTable) -> str | None:
    return _ALGORITHMS.get((table.algorithm or "").lower().replace("_", "").replace("collnetdirect", "collnet"))


def _check_gpu(table: MeasuredTable, cluster: ClusterSpec) -> None:
    """A log that names another GPU than the cluster has is of another cluster."""
    measured, has = _MODEL.search((table.gpu or "").upper()), _MODEL.search(cluster.node.gpu.name.upper())
    if measured and has and measured[0] != has[0]:
        raise SpecError(f"{table.source}: measured on {table.gpu}, but {cluster.name} has {cluster.node.gpu.name}")


def _reach(table: MeasuredTable, cluster: ClusterSpec) -> Reach:
    """What the ranks of a table had. A log that takes a whole NVLink domain for a node is understood."""
    node, ranks = cluster.node, table.ranks
    if cluster.fabric.kind == "loopback":  # every process is a node of its own
        return reach_of_size(cluster, ranks)
    whole = -(-ranks // node.gpus)
    nodes = table.nodes or whole
    if node.gpus < ranks / nodes <= node.nvlink_domain:
        nodes = whole
    if ranks % nodes or ranks // nodes > node.gpus:
        raise SpecError(
            f"{table.source}: {ranks} ranks on {nodes} nodes, but a node of {cluster.name} has {node.gpus} GPUs"
        )
    try:
        return reach_of_size(cluster, nodes, ranks // nodes)
    except SpecError as error:
        raise SpecError(f"{table.source}: {ranks} ranks: {error}") from None
