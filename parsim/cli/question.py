"""A question about a collective, as the user asked it: which one, on which group, by what log; and its answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from parsim.cli.calibration import Log, read_calibration
from parsim.cli.place import Place, place_of
from parsim.errors import LayoutError, SpecError
from parsim.files import read_text
from parsim.network.estimate import Estimate, estimate, kind_named, options
from parsim.network.importers.measured import kind_of
from parsim.network.importers.nccl_graph import read_nccl_graphs
from parsim.network.nccl import PROTOCOLS, Kind
from parsim.network.reach import Reach, reach_of_size
from parsim.spec.fabric_times import load_fabric_times
from parsim.spec.nccl import load_nccl
from parsim.units import parse_quantity

if TYPE_CHECKING:
    from parsim.report.bandwidth_plot import Bandwidths

__all__ = ["Question", "counted", "parse_sizes", "question_of"]

_ALGORITHMS = ("ring", "tree", "nvls", "nvls_tree", "collnet")
_MOST_SIZES, _MOST_NODES = 10_000, 1_000_000
_POINTS_PER_OCTAVE = 3


@dataclass(frozen=True)
class Question:
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

    def bandwidths(self, sizes: Sequence[int]) -> "Bandwidths":
        """What the plot draws: from 1 KiB to 16 GiB, or as far as the sizes reach."""
        from parsim.report.bandwidth_plot import Bandwidths

        low, high = min(*sizes, 2**10), max(*sizes, 2**34)
        steps = math.ceil(math.log2(high / low) * _POINTS_PER_OCTAVE)
        places = sorted({*sizes, *(round(low * (high / low) ** (step / steps)) for step in range(steps + 1))})
        lines: dict[tuple[str, str], list[Estimate]] = {}
        for size in places:
            for one in options(self.kind, size, self.reach):
                lines.setdefault((one.algorithm, one.protocol), []).append(one)
        reach, log = self.reach, self.log
        across = reach.domains > 1
        return Bandwidths(
            lines=tuple(lines.values()),
            chosen=[self._estimate(size, None) for size in places],
            corrected=[] if log is None else [self._estimate(size, log) for size in places],
            measured=[] if log is None else log.points(self.kind, reach),
            limit_bytes_per_s=reach.across_bytes_per_s if across else reach.inside_bytes_per_s,
            limit=f"NICs of a domain: {reach.nics} × {reach.nic_bytes_per_s / 1e9:.4g} GB/s"
            if across
            else f"links of a GPU: {reach.inside_bytes_per_s / 1e9:.4g} GB/s",
        )

    def _estimate(self, size_bytes: int, log: Log | None) -> Estimate:
        return estimate(
            self.kind,
            size_bytes,
            self.reach,
            algorithm=self.algorithm,
            protocol=self.protocol,
            correction=None if log is None else log.correction,
        )

    @property
    def title(self) -> str:
        """The collective and its group in words."""
        ranks, cluster = self.reach.ranks, self.place.cluster
        gpu = "" if cluster.node.gpu.name == cluster.name else f" ({cluster.node.gpu.name})"
        each = f"{self.nodes:,} × {counted(ranks // self.nodes, 'GPU')} of {cluster.name}{gpu}"
        return f"{self.kind} on {ranks:,} ranks: {each}"

    @property
    def links(self) -> str:
        """What the ranks have between them."""
        reach = self.reach
        inside = f"{reach.inside_bytes_per_s / 1e9:.4g} GB/s a GPU inside"
        nics = f"{counted(reach.nics, 'NIC')} of {reach.nic_bytes_per_s / 1e9:.4g} GB/s"
        across = f"{nics} across {reach.domains:,} domains"
        if reach.domains == 1:
            return f"links: {reach.kind}, {inside} " + ("one NVLink domain" if reach.nvlink_bytes_per_s else "a node")
        return f"links: {reach.kind}, {across}" + (f", {inside} each" if reach.ranks > reach.domains else "")

    @property
    def notes(self) -> list[str]:
        """Where the numbers come from."""
        if self.reach.ranks == 1:
            return ["one rank sends nothing", *self.place.notes]
        times = load_fabric_times(self.reach.kind).evidence["all"]
        chosen = f"NCCL {load_nccl().version}'s model chooses and counts"
        found = [f"{chosen}; times of {self.reach.kind} {times.grade}: {times.source}"]
        if self.reach.searched:
            listed = ", ".join(f"{name} {n} × {a / 1e9:.4g}" for name, n, a, _ in self.reach.searched)
            found.append(f"channels and their GB/s inside a node are those of NCCL's graph file: {listed}")
        if self.log is not None:
            found += [f"corrected by {len(self.log.measurements)} measured rows", *self.log.notes]
        return [*found, *self.place.notes]


def question_of(
    kind: str,
    cluster: str,
    nodes: int,
    ranks_per_node: int | None,
    algorithm: str | None,
    protocol: str | None,
    calibration: Path | None,
    like: str | None,
    graph: Path | None = None,
) -> Question:
    """What the options of the command mean. ParsimError of one line for what cannot be."""
    found = kind_named(kind_of(kind) or kind)
    algorithm = _one_of("--algorithm", algorithm, _ALGORITHMS)
    protocol = _one_of("--protocol", protocol, PROTOCOLS)
    if found not in get_args(Kind) and (algorithm or protocol):
        raise LayoutError(f"--{'algorithm' if algorithm else 'protocol'}: {found} is sends and receives, it has none")
    if not 1 <= nodes <= _MOST_NODES:
        raise LayoutError(f"--nodes {nodes}: 1 to {_MOST_NODES:,}")
    place = place_of(cluster, like)
    reach = _reach(place, nodes, ranks_per_node)
    if graph is not None:
        reach = replace(reach, searched=_searched(graph))
    log = None
    if calibration is not None:
        own = {"kind": found, "ranks": reach.ranks, "algorithm": algorithm, "protocol": protocol}
        log = read_calibration(calibration, place.cluster, **own)  # type: ignore[arg-type]
    return Question(found, place, nodes, reach, algorithm, protocol, log)


def _reach(place: Place, nodes: int, ranks_per_node: int | None) -> Reach:
    """On loopback every process is a node of its own, as many as are asked for."""
    if place.cluster.fabric.kind == "loopback" and ranks_per_node is not None and ranks_per_node > 0:
        return reach_of_size(place.cluster, nodes * ranks_per_node)
    return reach_of_size(place.cluster, nodes, ranks_per_node)


def _searched(path: Path) -> tuple[tuple[str, int, float, float], ...]:
    """What a file of NCCL_GRAPH_DUMP_FILE says that NCCL found. SpecError if it has nothing of rings and trees."""
    found = tuple(
        (graph.algorithm, graph.nchannels, graph.speed_intra_bytes_per_s, graph.speed_inter_bytes_per_s)
        for graph in read_nccl_graphs(read_text(path, "NCCL graph file"))
        if graph.algorithm in ("ring", "tree", "nvls") and graph.nchannels
    )
    if not found:
        raise SpecError(f"{path}: no ring, tree or nvls graph with channels in it")
    return found


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


def counted(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number:,} {thing}" + ("s" if number != 1 else "")


def _size(text: str) -> int:
    try:
        value = parse_quantity(text, "bytes")
    except SpecError as error:
        raise SpecError(f"--bytes {error}") from None
    if value < 1 or value != int(value):
        raise SpecError(f"--bytes {text.strip()}: a whole number of bytes, at least 1")
    return int(value)
