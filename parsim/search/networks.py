"""Networks: what an axis talks over if it is put somewhere else than the usual order of ranks puts it.

On NVLink the ranks of a group are neighbours in a domain; on the NICs each stands on a domain of its own, but for those
that share one because the axes on NVLink leave room there. Both are paths of another mesh in the usual order:
ranks that are neighbours are a tensor-parallel group, ranks w apart are data-parallel ones behind tp = w.
"""

from functools import lru_cache
from math import prod

from parsim.cost.constants import FITTED
from parsim.cost.links import DataPaths, RunLinks, links_of
from parsim.network.price import Path
from parsim.search.layouts import run_on
from parsim.search.shape import Mesh
from parsim.spec import Mesh as MeshSpec
from parsim.spec import Search

__all__ = ["data_paths", "domain_of", "fits_domain", "message_links", "tensor_path"]


@lru_cache(maxsize=4096)
def _links(search: Search, nodes: int, tp: int, dp: int, pp: int) -> RunLinks:
    """The links of a mesh that only says where ranks stand: it need be no layout of the model."""
    run = run_on(search, Mesh(nodes, 1, 1, tp * dp * pp, 1, 1, 1, tp * dp * pp), 1, {})
    layout = run.layout.model_copy(update={"mesh": MeshSpec(tp=tp, dp=dp, pp=pp)})
    return links_of(run.model_copy(update={"layout": layout}), FITTED)


def domain_of(search: Search) -> int:
    """GPUs of an NVLink domain."""
    return search.cluster.node.nvlink_domain


def tensor_path(search: Search, mesh: Mesh, network: str) -> Path:
    """What tensor-parallel groups talk over."""
    gpus, domain = mesh.gpus, domain_of(search)
    if network == "nic":
        beside = min(domain, gpus // mesh.tp)
        return _links(search, mesh.nodes, beside, mesh.tp, gpus // (beside * mesh.tp)).data.whole
    return _links(search, mesh.nodes, mesh.tp, gpus // mesh.tp, 1).tensor


def message_links(search: Search, mesh: Mesh, network: str) -> RunLinks:
    """The links whose messages from pipeline rank to pipeline rank are those of the mesh."""
    width, domain = mesh.tp * mesh.cp * mesh.dp, domain_of(search)
    if network == "nvlink":
        return _links(search, mesh.nodes, 1, 1, mesh.gpus)
    if network == "nic" and width < domain:
        return _links(search, mesh.nodes, domain, 1, mesh.gpus // domain)
    return _links(search, mesh.nodes, mesh.tp, mesh.cp * mesh.dp, mesh.pp)


def data_paths(search: Search, mesh: Mesh, networks: tuple[str, str, str]) -> DataPaths:
    """What the ranks that hold the same weights talk over, with tp, dp and pp put on these networks."""
    gpus, holders, domain = mesh.gpus, mesh.holders, domain_of(search)
    tensor, data, pipeline = networks
    if data == "nvlink":
        return _links(search, mesh.nodes, 1, holders, gpus // holders).data
    inside = (mesh.tp if tensor != "nic" else 1) * (mesh.pp if pipeline == "nvlink" else 1)
    if data == "nic" and inside == 1:
        inside = min(domain, gpus // holders)  # nothing is on NVLink: of each group a rank on each domain
    return _links(search, mesh.nodes, inside, holders, gpus // (inside * holders)).data


def fits_domain(search: Search, mesh: Mesh, networks: tuple[str, str, str]) -> bool:
    """Whether the axes on NVLink fill a domain or an even part of it, and there are several to put others across."""
    if "nic" in networks and mesh.gpus <= domain_of(search):
        return False
    degrees = zip(networks, (mesh.tp, mesh.holders, mesh.pp), strict=True)
    return domain_of(search) % prod(degree for network, degree in degrees if network == "nvlink") == 0
