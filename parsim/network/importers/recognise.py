"""Which kind of file a text is, by what it contains; and the network of any of them that describes one."""

from collections.abc import Callable

from parsim.errors import SpecError
from parsim.network.graph import Network
from parsim.network.importers.astra import astra_network, is_astra, read_astra
from parsim.network.importers.htsim import htsim_network, is_htsim, read_htsim
from parsim.network.importers.imported import ImportedNode
from parsim.network.importers.imported_network import network
from parsim.network.importers.nccl_graph import is_nccl_graph
from parsim.network.importers.nccl_tests import is_log
from parsim.network.importers.nccl_xml import is_nccl_xml, read_nccl_xml
from parsim.network.importers.smi_topology import is_smi_topology, read_smi_topology

__all__ = ["FORMATS", "format_of", "imported_node", "network_of"]

FORMATS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "nccl-xml": ("NCCL topology XML", is_nccl_xml),
    "nccl-graph": ("NCCL graph XML", is_nccl_graph),
    "smi": ("nvidia-smi topo -m", is_smi_topology),
    "htsim": ("htsim fat tree", is_htsim),
    "astra": ("ASTRA-sim network", is_astra),
    "nccl-tests": ("nccl-tests log", is_log),
}
"""By short name: what people call it, and whether a text is one; the first that says so is it."""


def format_of(text: str) -> str | None:
    """The short name of the kind of file that a text is; None: none of them."""
    return next((name for name, (_, recognises) in FORMATS.items() if recognises(text)), None)


def imported_node(text: str, *, sm: int | None = None) -> ImportedNode | None:
    """The node of a file that describes one (NCCL topology XML, nvidia-smi topo -m); None for other kinds.

    `sm` is the compute capability, which a table of nvidia-smi would have guessed from the NVLinks.
    """
    match format_of(text):
        case "nccl-xml":
            return read_nccl_xml(text)
        case "smi":
            return read_smi_topology(text, sm=sm)
        case _:
            return None


def network_of(text: str, *, name: str = "imported", nodes: int | None = None) -> Network:
    """The network that a file describes; `nodes` joins several of a file that describes one node.

    Raises SpecError: a file that describes none, `nodes` for one that says its own number.
    """
    kind = format_of(text)
    node = imported_node(text)
    if node is not None:
        return network(node, nodes=nodes or 1, name=name)
    if kind not in ("astra", "htsim"):
        known = ", ".join(FORMATS[each][0] for each in ("nccl-xml", "smi", "astra", "htsim"))
        found = "of no known kind" if kind is None else f"of kind {FORMATS[kind][0]}, which describes no links"
        raise SpecError(f"{name} is {found}; a topology is {known}")
    if nodes is not None:
        raise SpecError(f"nodes {nodes}: {name} says itself how many GPUs it has; leave it out")
    return astra_network(read_astra(text), name) if kind == "astra" else htsim_network(read_htsim(text), name)
