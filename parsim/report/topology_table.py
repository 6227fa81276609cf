"""What a network consists of, in tables: devices by kind, links by kind with bandwidth and latency, what was assumed.

`print_topology` and `print_graphs` are the terminal's, `topology_page` the offline page with the picture. All read
documents: `Network.document()`, and for the graphs of NCCL's search a list of their fields.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parsim.report.columns import heading, open_console, pairs, print_table
from parsim.report.page import Section, _diagram, _document, _facts, _table
from parsim.report.topology import topology_figure
from parsim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["device_rows", "link_rows", "print_graphs", "print_topology", "topology_page"]

_KINDS = {
    "gpu": "GPU",
    "nvswitch": "NVSwitch",
    "pcie": "PCIe switch",
    "host": "host bridge",
    "nic": "NIC",
    "leaf": "leaf switch",
    "spine": "spine switch",
    "core": "core switch",
}
_LINK_COLUMNS = ("link", "between", "links", "GB/s", "latency", "all together")
_EACH_WAY = "links are counted once for both directions; GB/s (1e9) of each in one direction"


def device_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Kind and number of devices, in the order of layers."""
    counts = Counter(each["kind"] for each in document["devices"])
    order = [*(kind for kind in _KINDS if kind in counts), *sorted(kind for kind in counts if kind not in _KINDS)]
    return [[_KINDS.get(kind, kind), str(counts[kind])] for kind in order]


def link_rows(document: Mapping[str, Any]) -> list[list[str]]:
    """Kind, ends, number, rate, latency and sum of links that are alike, fastest kind first."""
    kind_of = {each["name"]: each["kind"] for each in document["devices"]}
    alike: Counter[tuple[str, str, float, float]] = Counter()
    for link in document["links"]:
        ends = " – ".join(sorted(_KINDS.get(k, k) for k in (kind_of[link["source"]], kind_of[link["target"]])))
        alike[link["kind"], ends, link["bytes_per_s"], link["latency_s"]] += 1
    fastest: dict[str, float] = {}
    for kind, _, rate, _ in alike:
        fastest[kind] = max(fastest.get(kind, 0.0), rate)
    return [
        [kind, ends, _half(count), f"{rate / 1e9:,.4g}", format_seconds(latency), _sum(count / 2 * rate)]
        for (kind, ends, rate, latency), count in sorted(
            alike.items(), key=lambda item: (-fastest[item[0][0]], item[0][0], item[0][1], -item[0][2], item[0][3])
        )
    ]


def _half(directions: int) -> str:
    """Links of two directions; a half where one has a direction of its own."""
    return f"{directions / 2:g}"


def _sum(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e12:,.4g} TB/s" if bytes_per_s >= 1e12 else f"{bytes_per_s / 1e9:,.4g} GB/s"


def print_topology(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """A network on the terminal."""
    console = console or open_console()
    heading(console, document["name"], document.get("source", ""))
    print_table(console, ["device", "number"], device_rows(document), words=1)
    print_table(console, list(_LINK_COLUMNS), link_rows(document), _EACH_WAY, words=2)
    for note in document.get("notes", ()):
        console.print(f"- {note}", markup=False)


def print_graphs(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """What NCCL's search found, on the terminal."""
    console = console or open_console()
    heading(console, document["name"], document.get("source", ""))
    rows = [
        [
            graph["algorithm"],
            graph["pattern"],
            str(graph["nchannels"]),
            f"{graph['speed_intra_bytes_per_s'] / 1e9:g}",
            f"{graph['speed_inter_bytes_per_s'] / 1e9:g}",
            graph["type_intra"],
            graph["type_inter"],
            f"{graph['bus_bytes_per_s'] / 1e9:g}",
        ]
        for graph in document["graphs"]
    ]
    columns = ["algorithm", "pattern", "channels", "intra", "inter", "path intra", "path inter", "channels * intra"]
    print_table(console, columns, rows, "GB/s (1e9) of one channel; channels * intra is the bus bandwidth", words=2)
    pairs(console, [("graphs", str(len(rows)), "speeds that NCCL's own estimate starts from")])


def topology_page(document: Mapping[str, Any], *, facts: Sequence[tuple[str, str, str]] = ()) -> str:
    """One offline page: the picture, the tables, and what was assumed."""
    plot = _diagram(topology_figure(document))
    caption = (
        "Hover over a device or the middle of a link for its bandwidth and latency; drag to move, + and - zoom. "
        "Lines are wider with more bandwidth (logarithmic); a click on the legend hides a kind."
    )
    tables = [
        Section("Devices", ("device", "number"), [[name, int(number)] for name, number in device_rows(document)]),
        Section("Links", _LINK_COLUMNS, [_cells(row) for row in link_rows(document)], _EACH_WAY.capitalize() + "."),
        Section("What is simplified or assumed", ("",), [[note] for note in document.get("notes", ())]),
    ]
    body = [
        _facts(facts),
        f"<figure>{plot}<figcaption>{caption}</figcaption></figure>",
        *(_table(table) for table in tables if table.rows),
    ]
    return _document(document["name"], document.get("source", ""), body)


def _cells(row: Sequence[str]) -> list[object]:
    """The number of links and the rate as numbers, so that they stand flush right."""
    return [row[0], row[1], float(row[2]), float(row[3].replace(",", "")), row[4], row[5]]
