"""`parsim collective`: how long a collective takes on a cluster, size by size, in nccl-tests' terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from parsim.cli.calibration import Log, read_calibration
from parsim.cli.output import Outputs, json_text
from parsim.cli.place import Place, place_of
from parsim.errors import LayoutError, SpecError
from parsim.network.estimate import Estimate, estimate, kind_named
from parsim.network.importers.measured import kind_of
from parsim.network.nccl import PROTOCOLS, Kind
from parsim.network.reach import Reach, reach_of_size
from parsim.spec.fabric_times import load_fabric_times
from parsim.spec.nccl import load_nccl
from parsim.units import format_bytes, format_seconds, parse_quantity

__all__ = ["Asked", "collective_command", "parse_sizes"]

_ALGORITHMS = ("ring", "tree", "nvls", "nvls_tree", "collnet")
_MOST_SIZES, _MOST_ROWS, _MOST_NODES = 10_000, 64, 1_000_000


@dataclass(frozen=True)
class Asked:
    """A collective as the user asked for it, and what it stands on."""

    kind: str
    place: Place
    nodes: int
    reach: Reach
    algorithm: str | None
    protocol: str | None
    log: Log | None

    def row(self, size_bytes: int) -> dict[str, Any]:
        """The row of a size: the estimate, and beside it what the user's log measured there."""
        plain = self._estimate(size_bytes, None)
        found = plain if self.log is None else self._estimate(size_bytes, self.log)
        row: dict[str, Any] = {**found.document(), "nodes": self.nodes, "domains": found.nodes}
        if self.log is not None:
            row["uncalibrated_us"] = plain.seconds * 1e6
            if (measured := self.log.seconds(self.kind, size_bytes, self.reach)) is not None:
                row["measured_us"] = measured * 1e6
                row["error"] = found.seconds / measured - 1
                row["uncalibrated_error"] = plain.seconds / measured - 1
        return {"schema_version": "1.0", **row}

    def _estimate(self, size_bytes: int, log: Log | None) -> Estimate:
        return estimate(
            self.kind,
            size_bytes,
            self.reach,
            algorithm=self.algorithm,
            protocol=self.protocol,
            correction=None if log is None else log.correction,
        )


def collective_command(
    kind: str,
    cluster: str,
    nodes: int,
    ranks_per_node: int | None,
    sizes: str,
    algorithm: str | None,
    protocol: str | None,
    calibration: Path | None,
    like: str | None,
    **paths: Path | None,
) -> None:
    """Estimate every size, print the table, write what was asked for."""
    outputs = Outputs(**paths)
    listed = parse_sizes(sizes)
    asked = _asked(kind, cluster, nodes, ranks_per_node, algorithm, protocol, calibration, like)
    rows = [asked.row(size) for size in listed]
    if outputs.wants("json"):
        outputs.put("json", json_text(rows))  # type: ignore[arg-type]
    outputs.write()
    if not outputs.quiet:
        _print(asked, rows)


def _asked(
    kind: str,
    cluster: str,
    nodes: int,
    ranks_per_node: int | None,
    algorithm: str | None,
    protocol: str | None,
    calibration: Path | None,
    like: str | None,
) -> Asked:
    found = kind_named(kind_of(kind) or kind)
    algorithm = _one_of("--algorithm", algorithm, _ALGORITHMS)
    protocol = _one_of("--protocol", protocol, PROTOCOLS)
    if found not in get_args(Kind) and (algorithm or protocol):
        raise LayoutError(f"--{'algorithm' if algorithm else 'protocol'}: {found} is sends and receives, it has none")
    if not 1 <= nodes <= _MOST_NODES:
        raise LayoutError(f"--nodes {nodes}: 1 to {_MOST_NODES:,}")
    place = place_of(cluster, like)
    reach = reach_of_size(place.cluster, nodes, ranks_per_node)
    log = None
    if calibration is not None:
        own = {"kind": found, "ranks": reach.ranks, "algorithm": algorithm, "protocol": protocol}
        log = read_calibration(calibration, place.cluster, **own)  # type: ignore[arg-type]
    return Asked(found, place, nodes, reach, algorithm, protocol, log)


def _one_of(option: str, said: str | None, known: Sequence[str]) -> str | None:
    if said is None:
        return None
    plain = {name.lower().replace("_", ""): name for name in known}
    if (name := plain.get(said.lower().replace("_", "").replace("-", ""))) is None:
        raise LayoutError(f"{option} {said!r}: one of {', '.join(known)}")
    return name


def parse_sizes(text: str) -> list[int]:
    """Sizes as `64KiB,1GiB`, and ranges of doubling sizes as `1KiB..8GiB`. SpecError: a size that is not a whole
    number of bytes above 0, an empty entry, a range that falls, more than 10,000 sizes.
    """
    sizes: list[int] = []
    for entry in text.split(","):
        low, dots, high = entry.partition("..")
        if not entry.strip() or (dots and not (low.strip() and high.strip())):
            raise SpecError(f"--bytes {text[:60]!r}: an entry is empty; write for example 64KiB,1GiB or 1KiB..8GiB")
        first = _size(low)
        last = _size(high) if dots else first
        if last < first:
            raise SpecError(f"--bytes {entry.strip()}: the range falls; write {high.strip()}..{low.strip()}")
        while first <= last:
            sizes.append(first)
            first *= 2
        if len(sizes) > _MOST_SIZES:
            raise SpecError(f"--bytes: at most {_MOST_SIZES:,} sizes")
    return sizes


def _size(text: str) -> int:
    try:
        value = parse_quantity(text, "bytes")
    except SpecError as error:
        raise SpecError(f"--bytes {error}") from None
    if value < 1 or value != int(value):
        raise SpecError(f"--bytes {text.strip()}: a whole number of bytes, at least 1")
    return int(value)


def _print(asked: Asked, rows: Sequence[dict[str, Any]]) -> None:
    from parsim.report.columns import heading, open_console, print_table

    console = open_console()
    reach, cluster = asked.reach, asked.place.cluster
    each = f"{asked.nodes} × {reach.ranks // asked.nodes} GPUs of {cluster.name} ({cluster.node.gpu.name})"
    heading(console, f"{asked.kind} on {reach.ranks} ranks: {each}", _links(asked))
    columns = ["bytes", "time", "algbw GB/s", "busbw GB/s", "algorithm", "protocol", "channels", "evidence"]
    if asked.log is not None:
        columns[4:4] = ["measured", "error", "error without log"]
    print_table(
        console,
        columns,
        [_cells(row, asked.log is not None) for row in rows[:_MOST_ROWS]],
        "algbw = bytes / time, busbw = algbw × nccl-tests' factor"
        + (f"; the first {_MOST_ROWS} of {len(rows):,} sizes, --json has all" if len(rows) > _MOST_ROWS else ""),
    )
    for note in notes(asked):
        console.print(note, style="dim", markup=False)


def _cells(row: dict[str, Any], measured: bool) -> list[str]:
    cells = [
        format_bytes(row["bytes"]),
        format_seconds(row["time_us"] * 1e-6),
        f"{row['algbw_gbps']:.4g}",
        f"{row['busbw_gbps']:.4g}",
        row["algorithm"],
        row["protocol"],
        str(row["channels"]),
        row["evidence"],
    ]
    if measured:
        has = "measured_us" in row
        cells[4:4] = [
            format_seconds(row["measured_us"] * 1e-6) if has else "-",
            _percent(row["error"]) if has else "-",
            _percent(row["uncalibrated_error"]) if has else "-",
        ]
    return cells


def _percent(share: float) -> str:
    return f"{round(share, 3) or 0.0:+.1%}"  # never -0.0%


def _links(asked: Asked) -> str:
    reach = asked.reach
    inside = f"{reach.inside_bytes_per_s / 1e9:.4g} GB/s a GPU inside"
    across = f"{reach.nics} NICs of {reach.nic_bytes_per_s / 1e9:.4g} GB/s across {reach.domains} domains"
    if reach.domains == 1:
        return (
            f"links: {reach.kind}, {inside} one NVLink domain"
            if reach.nvlink_bytes_per_s
            else f"links: {reach.kind}, {inside} a node"
        )
    return f"links: {reach.kind}, {across}" + (f", {inside} each" if reach.ranks > reach.domains else "")


def notes(asked: Asked) -> list[str]:
    """Where the numbers come from."""
    if asked.reach.ranks == 1:
        return ["one rank sends nothing", *asked.place.notes]
    times = load_fabric_times(asked.reach.kind).evidence["all"]
    chosen = f"NCCL {load_nccl().version}'s model chooses and counts"
    found = [f"{chosen}; times of {asked.reach.kind} {times.grade}: {times.source}"]
    if asked.log is not None:
        found.append(f"corrected by {len(asked.log.measurements)} measured rows")
        found.extend(asked.log.notes)
    return [*found, *asked.place.notes]
