"""`parsim topology`: a bundled cluster, or a file that another program wrote, as a table, a picture or JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsim.cli.output import Outputs, json_text
from parsim.errors import LayoutError, ParsimError, SpecError
from parsim.files import read_text
from parsim.network.graph import Network
from parsim.units import parse_quantity

__all__ = ["topology_command"]

SCHEMA_VERSION = "1.0"
_ELASTIC_NODES = 4


def topology_command(
    source: str,
    nodes: int | None,
    *,
    sm: int | None = None,
    nvlinks: int | None = None,
    nic: str | None = None,
    **paths: Path | None,
) -> None:
    """Find out what `source` is, print its table, write what was asked for.

    `nodes` is how many nodes of a cluster or of an imported node; `sm`, `nvlinks` and `nic` (a rate) supply what a file
    of a node does not tell: its compute capability, NVLinks of a GPU, speed of a NIC.
    """
    outputs = Outputs(**paths)
    if nodes is not None and nodes < 1:
        raise LayoutError(f"--nodes {nodes}: 1 or more")
    supplies = {
        "sm": sm,
        "nvlinks": nvlinks,
        "nic_bytes_per_s": None if nic is None else parse_quantity(nic, "bytes/s"),
    }
    given = {name: value for name, value in supplies.items() if value is not None}
    path = Path(source)
    if _is_file(source, path):
        text = read_text(path, "topology")
        try:
            document = _from_text(text, path, nodes, given)
        except ParsimError as error:
            raise type(error)(f"{path}: {error}") from None
    else:
        document = _from_cluster(source, nodes, given)
    _put(outputs, document)
    outputs.write()
    if not outputs.quiet:
        from parsim.report.topology_table import print_graphs, print_topology

        (print_graphs if "graphs" in document else print_topology)(document)


def _is_file(source: str, path: Path) -> bool:
    try:
        return (
            path.exists() or path.suffix in {".xml", ".txt", ".log", ".yml", ".yaml", ".topo", ".json"} or "/" in source
        )
    except (OSError, ValueError):
        return False


def _from_text(text: str, path: Path, nodes: int | None, given: dict[str, Any]) -> dict[str, Any]:
    from parsim.network.importers.imported_network import network, supplied
    from parsim.network.importers.nccl_graph import read_nccl_graphs
    from parsim.network.importers.recognise import FORMATS, format_of, imported_node, network_of

    kind = format_of(text)
    if kind is None and path.suffix in (".yaml", ".yml"):
        return _from_cluster(str(path), nodes, given)
    title = FORMATS[kind][0] if kind is not None else ""
    if kind == "nccl-graph":
        graphs = [asdict(graph) | {"bus_bytes_per_s": graph.bus_bytes_per_s} for graph in read_nccl_graphs(text)]
        return {"schema_version": SCHEMA_VERSION, "name": path.stem, "source": title, "graphs": graphs}
    node = imported_node(text, sm=given.get("sm"))
    if node is None:
        _refuse(given)
        return _document(network_of(text, name=path.stem, nodes=nodes), title)
    built = network(supplied(node, **given), nodes=nodes or 1, name=path.stem)
    values = _values(supplied(node, **given))
    return _document(built, f"{node.source}, {nodes or 1} {'nodes' if (nodes or 1) > 1 else 'node'}") | {"node": values}


def _values(node: Any) -> dict[str, Any]:
    from parsim.network.importers.imported import node_values

    return node_values(node)._asdict()


def _refuse(given: dict[str, Any]) -> None:
    if given:
        raise SpecError(f"{', '.join(given)}: only for a file of one node (NCCL topology XML, nvidia-smi topo -m)")


def _from_cluster(name: str, nodes: int | None, given: dict[str, Any]) -> dict[str, Any]:
    from parsim.network.build import build
    from parsim.spec.load import load_cluster

    _refuse(given)
    cluster = load_cluster(name)
    notes = []
    if cluster.nodes is None and nodes is None:
        nodes = _ELASTIC_NODES
        notes.append(f"the cluster is elastic: {nodes} nodes are shown, --nodes says how many")
    built = build(cluster, nodes)
    document = _document(built, f"{cluster.fabric.topology} fabric, {cluster.fabric.kind}")
    return document | {"notes": [*notes, *document["notes"]]}


def _document(network: Network, source: str) -> dict[str, Any]:
    return {"schema_version": SCHEMA_VERSION, "source": source, **network.document()}


def _put(outputs: Outputs, document: dict[str, Any]) -> None:
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    drawn = [name for name in ("html", "png") if outputs.wants(name)]
    if drawn and "graphs" in document:
        raise SpecError(f"--{drawn[0]}: {document['name']} lists channels, not links; draw a topology instead")
    if outputs.wants("html"):
        from parsim.report.topology_table import topology_page

        outputs.put("html", topology_page(document, facts=_facts(document)))
    if outputs.wants("png"):
        from parsim.report.png import png_bytes
        from parsim.report.topology import topology_figure

        outputs.put("png", png_bytes(topology_figure(document, title=document["name"]), height=900))


def _facts(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Headline numbers of the page."""
    devices = document["devices"]
    servers = {each["node"] for each in devices if "node" in each}
    facts = [("GPUs", str(document["gpus"]), f"in {len(servers)} nodes" if len(servers) > 1 else "in one node")]
    for kind, label, ends in (
        ("nvlink", "NVLink", "of a GPU, one direction"),
        ("nic", "network", "of a NIC, one direction"),
    ):
        rates = [link["bytes_per_s"] for link in document["links"] if link["kind"] == kind]
        if rates:
            facts.append((label, f"{max(rates) / 1e9:,.4g} GB/s", ends))
    facts.append(("devices", str(len(devices)), "GPUs, switches, hosts and NICs"))
    facts.append(("links", f"{len(document['links']) / 2:g}", "both directions together"))
    return facts
