"""What NCCL's search found: the file of NCCL_GRAPH_DUMP_FILE, channel speeds that NCCL's own estimate starts from.

    <graphs version="1">
      <graph id="0" pattern="4" crossnic="0" nchannels="12" speedintra="20" speedinter="20" latencyinter="0"
             typeintra="NVL" typeinter="PIX" samechannels="1">
        <channel> <net dev="0"/> <gpu dev="0"/> ... <net dev="0"/> </channel>

Speeds are GB/s of one channel (1e9), here bytes/s; `bus_bytes_per_s` = nchannels * speedintra is the bus bandwidth of
the algorithm inside a node. A file from a run on one node has no inter speeds of its own.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

from parsim.errors import SpecError
from parsim.network.importers.xml_reader import Element, read_xml

__all__ = ["ChannelStep", "SearchedGraph", "is_nccl_graph", "read_nccl_graphs"]

_ALGORITHMS = {0: "ring", 1: "tree", 2: "collnet_chain", 3: "nvls", 4: "collnet_direct", 5: "nvls_tree"}
_PATTERNS = {1: "balanced_tree", 2: "split_tree", 3: "tree", 4: "ring", 5: "nvls", 6: "collnet_direct"}
_PATHS = {"LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "P2C", "PXN", "PHB", "SYS", "NET", "DIS"}
_MOST_CHANNELS = 1024


class ChannelStep(NamedTuple):
    """A device on a channel's way: `gpu` or `net`, and its `dev` (newer files: its rank or id)."""

    kind: str
    device: int


@dataclass(frozen=True)
class SearchedGraph:
    """A graph of one algorithm: channels, what each carries, and the worst kind of path it uses.

    `channels` are those written out; with `same_channels` NCCL uses each twice, so they may be half of `nchannels`.
    """

    id: int
    algorithm: str
    pattern: str
    nchannels: int
    speed_intra_bytes_per_s: float
    speed_inter_bytes_per_s: float
    latency_inter_s: float
    type_intra: str
    type_inter: str
    cross_nic: int
    same_channels: bool
    channels: tuple[tuple[ChannelStep, ...], ...]

    @property
    def bus_bytes_per_s(self) -> float:
        """Bus bandwidth inside a node, bytes/s."""
        return self.nchannels * self.speed_intra_bytes_per_s

    @property
    def inter_bytes_per_s(self) -> float:
        """Bandwidth between nodes, bytes/s."""
        return self.nchannels * self.speed_inter_bytes_per_s


def is_nccl_graph(text: str) -> bool:
    """Whether a text is such a file, by its root element."""
    return re.search(r"<graphs[\s>/]", text[:65536]) is not None


def read_nccl_graphs(text: str) -> tuple[SearchedGraph, ...]:
    """Every graph of a file, in order.

    Raises SpecError: not XML (with line and column), no graph, an id twice, a missing or senseless attribute.
    """
    root = read_xml(text, "graphs")
    graphs = tuple(_graph(child) for child in root.named("graph"))
    if not graphs:
        raise SpecError("no graph: <graphs> holds no <graph>")
    seen: set[int] = set()
    for graph in graphs:
        if graph.id in seen:
            raise SpecError(f"graph id {graph.id} stands twice")
        seen.add(graph.id)
    return graphs


def _graph(graph: Element) -> SearchedGraph:
    index, pattern = graph.integer("id", least=0), graph.integer("pattern", least=0)
    channels = graph.integer("nchannels", least=0)
    if channels > _MOST_CHANNELS:
        raise SpecError(f"line {graph.line}: nchannels {channels}; at most {_MOST_CHANNELS} can be")
    written = tuple(_channel(channel) for channel in graph.named("channel"))
    if len(written) > channels:
        raise SpecError(f"line {graph.line}: {len(written)} <channel> of nchannels {channels}")
    return SearchedGraph(
        id=index,
        algorithm=_ALGORITHMS.get(index, f"graph{index}"),
        pattern=_PATTERNS.get(pattern, f"pattern{pattern}"),
        nchannels=channels,
        speed_intra_bytes_per_s=graph.number("speedintra") * 1e9,
        speed_inter_bytes_per_s=graph.number("speedinter", 0.0) * 1e9,
        latency_inter_s=graph.number("latencyinter", 0.0) * 1e-6,
        type_intra=_path(graph, "typeintra"),
        type_inter=_path(graph, "typeinter"),
        cross_nic=graph.integer("crossnic", 0, least=0),
        same_channels=graph.integer("samechannels", 0, least=0) != 0,
        channels=written,
    )


def _path(graph: Element, name: str) -> str:
    value = graph.text(name).strip()
    if value not in _PATHS:
        raise SpecError(f"line {graph.line}: {name} {value[:20]!r} is not one of {', '.join(sorted(_PATHS))}")
    return value


def _channel(channel: Element) -> tuple[ChannelStep, ...]:
    steps = []
    for step in channel.children:
        if step.tag not in ("gpu", "net"):
            continue
        name = next((each for each in ("dev", "rank", "id") if each in step.attributes), "dev")
        value = step.text(name)
        # Newer files name a network card by an id in hexadecimal, with its node before a dash.
        match = re.search(r"([0-9a-fA-F]{1,15})\Z", value) if name == "id" else None
        steps.append(ChannelStep(step.tag, int(match[1], 16) if match else step.integer(name)))
    return tuple(steps)
