"""A place: the cluster that a user names, be it bundled, a cluster file, or a topology that another program wrote.

A topology file becomes a cluster of nodes alike. What it does not say is taken from the cluster named with `--like`;
without one, NVLinks that it is silent about are none, NICs are as fast as their PCIe link, and the fabric is the one
that the NICs' names speak of. `notes` say so.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from parsim.errors import SpecError
from parsim.files import read_text
from parsim.network.importers.astra import AstraDimension, read_astra
from parsim.network.importers.imported import ImportedNode, node_values
from parsim.network.importers.nccl_xml import read_nccl_xml
from parsim.network.importers.recognise import FORMATS, format_of
from parsim.network.importers.smi_topology import read_smi_topology
from parsim.spec import ClusterSpec, NodeSpec, catalogue, evidence_of, load_cluster, load_gpu
from parsim.spec.cluster import FabricKind, FabricSpec
from parsim.spec.evidence import Evidence

__all__ = ["Place", "place_of"]

_GPU_OF = {80: "a100-80g-sxm", 90: "h100-80g-sxm", 100: "b200-180g-sxm", 103: "b300-288g-sxm"}
_FABRIC_OF: tuple[tuple[str, FabricKind], ...] = (
    ("mlx", "ib"),
    ("ib", "ib"),
    ("rdmap", "efa"),
    ("efa", "efa"),
    ("cxi", "slingshot"),
    ("hsn", "slingshot"),
    ("eth", "tcp"),
    ("en", "tcp"),
)
_SUFFIXES = (".yaml", ".yml", ".json", ".xml", ".txt", ".log")
_COUNTED_PCIE = 0.76  # NCCL counts on 12 of the 15.75 GB/s of generation 3 x16, as Reach does
_USUAL_SM = 80  # as NCCL takes a GPU that it does not know
_GUESSED = Evidence(grade="assumed", source="a topology file does not say")


@dataclass(frozen=True)
class Place:
    """A cluster, and what a reader should know of where its numbers come from."""

    cluster: ClusterSpec
    notes: tuple[str, ...] = ()


def place_of(name: str, like: str | None = None) -> Place:
    """What the user named. SpecError: no such cluster or file, a file that is neither a cluster nor a topology."""
    is_file = name not in catalogue.names("clusters") and os.path.isfile(name)
    if is_file:
        text = read_text(Path(name), "cluster")
        try:
            if (found := _imported(text, Path(name).stem, like)) is not None:
                return found
        except SpecError as error:
            raise type(error)(f"{name}: {error}") from None
    elif "/" in name or name.endswith(_SUFFIXES):
        raise SpecError(f"{name}: no such cluster or topology file")
    if like is not None:
        raise SpecError(f"--like {like}: {name} is no topology file, it says everything itself")
    cluster = load_cluster(Path(name) if is_file else name)
    return Place(cluster, tuple(_assumed(cluster)))


def _imported(text: str, name: str, like: str | None) -> Place | None:
    """None for what may be a cluster file."""
    base = None if like is None else load_cluster(like)
    found = format_of(text)
    if found == "nccl-xml":
        return _of_node(read_nccl_xml(text), name, base)
    if found == "smi":
        sm = None if base is None else base.node.gpu.compute_capability
        rate = None if base is None else base.node.nic_bytes_per_s
        return _of_node(read_smi_topology(text, sm=sm, nic_bytes_per_s=rate), name, base)
    if found == "astra":
        return _of_dimensions(read_astra(text), name, base)
    if found is not None:
        raise SpecError(
            f"{FORMATS[found][0]} is no topology of a node; NCCL's XML, nvidia-smi topo -m, ASTRA-sim's are"
        )
    return None


def _of_node(imported: ImportedNode, name: str, base: ClusterSpec | None) -> Place:
    """Nodes like the one that a file describes, any number of them, on a fabric that does not block."""
    told, notes = node_values(imported), list(imported.notes)
    if not told.gpus:
        raise SpecError("the topology has no GPU")
    links, domain = told.nvlink_nominal_bytes_per_s, told.nvlink_domain
    if links is None:
        links, domain = (0.0, 1) if base is None else (base.node.gpu.nvlink_bytes_per_s, told.gpus)
        notes.append("no NVLink is assumed, --like CLUSTER says otherwise" if base is None else _taken("NVLink", base))
    elif links and domain is not None and domain < told.gpus:
        links = 0.0
        notes.append(f"NVLink joins {domain} of {told.gpus} GPUs only: rings of the node go over PCIe")
    rate = told.nic_bytes_per_s
    if rate is None and told.nics:
        rate = min(nic.pcie_bytes_per_s for nic in imported.nics) if base is None else base.node.nic_bytes_per_s
        slow = f"NICs are assumed to be as fast as their PCIe link, {rate / 1e9:g} GB/s"
        notes.append(slow if base is None else _taken("NIC", base))
    sm = told.sm or (base.node.gpu.compute_capability if base is not None else _USUAL_SM)
    if told.sm is None:
        notes.append(f"compute capability {sm} is assumed")
    kind = base.fabric.kind if base is not None else _fabric_of(nic.name for nic in imported.nics)
    if base is None and told.nics:
        notes.append(f"the fabric is assumed to be {kind}")
    return Place(_cluster(name, told.gpus, sm, links, told.pcie_bytes_per_s, told.nics, rate, kind, base), tuple(notes))


def _of_dimensions(dimensions: Sequence[AstraDimension], name: str, base: ClusterSpec | None) -> Place:
    """ASTRA-sim's dimensions: the first is the NVLink domain, the rest the fabric, with one NIC for each GPU."""
    first, *rest = dimensions
    links = first.bytes_per_s * (first.gpus - 1 if first.shape == "FullyConnected" else 1)
    rate = min((one.bytes_per_s for one in rest), default=0.0)
    sm = 90 if base is None else base.node.gpu.compute_capability
    kind: FabricKind = "ib" if base is None else base.fabric.kind
    made = _cluster(name, first.gpus, sm, links, None, first.gpus if rest else 0, rate, kind, base)
    nodes = prod(one.gpus for one in rest)
    notes = ["the first dimension is taken to be NVLink, the others one fabric with a NIC for each GPU"]
    if base is None:
        notes.append(f"compute capability {sm} and {kind} are assumed")
    return Place(made.model_copy(update={"nodes": nodes}), tuple(notes))


def _cluster(
    name: str,
    gpus: int,
    sm: int | None,
    nvlink_bytes_per_s: float,
    pcie_bytes_per_s: float | None,
    nics: int,
    nic_bytes_per_s: float | None,
    kind: FabricKind,
    base: ClusterSpec | None,
) -> ClusterSpec:
    nearest = min(_GPU_OF, key=lambda known: abs(known - (sm or _USUAL_SM)))
    gpu = load_gpu(_GPU_OF[nearest]) if base is None else base.node.gpu
    changes: dict[str, object] = {"compute_capability": sm, "nvlink_bytes_per_s": nvlink_bytes_per_s}
    if base is None:
        changes["name"] = f"compute capability {sm}"
    if pcie_bytes_per_s is not None:
        changes["host_link_bytes_per_s"] = pcie_bytes_per_s / _COUNTED_PCIE
    usual = (load_cluster("dgx-h100") if base is None else base).node
    node = NodeSpec.model_construct(
        name=name,
        gpu=gpu.model_copy(update=changes),
        gpus=gpus,
        nvlink_domain=gpus if nvlink_bytes_per_s else 1,
        nics=max(nics, 1),  # no NIC is one that carries nothing
        nic_bytes_per_s=nic_bytes_per_s or 0.0,
        nic_latency_s=usual.nic_latency_s,
        nvlink_latency_s=usual.nvlink_latency_s,
        evidence={},
    )
    fabric = FabricSpec(kind=kind, topology="single", rails=max(nics, 1), evidence={"all": _GUESSED})
    return ClusterSpec.model_construct(name=name, node=node, nodes=None, fabric=fabric, evidence={})


def _fabric_of(names: Iterable[str]) -> FabricKind:
    for name in names:
        for start, kind in _FABRIC_OF:
            if name.startswith(start):
                return kind
    return "ib"


def _taken(what: str, base: ClusterSpec) -> str:
    return f"{what} rates as on {base.name}"


def _assumed(cluster: ClusterSpec) -> Iterable[str]:
    """Fields that matter to collectives and that nobody published."""
    node = cluster.node
    fields = (
        ("nvlink_bytes_per_s", node.gpu.evidence),
        ("compute_capability", node.gpu.evidence),
        ("nvlink_domain", node.evidence),
        ("nics", node.evidence),
        ("nic_bytes_per_s", node.evidence),
        ("fabric.kind", cluster.evidence),
    )
    named = [field for field, known in fields if (found := evidence_of(field, known)) and found.grade == "assumed"]
    if named:
        yield f"the catalogue assumes {', '.join(named)}"
