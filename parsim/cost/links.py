"""The links of a run: what each of its groups of ranks talks over, at effective rates."""

from collections.abc import Iterable
from typing import NamedTuple

from parsim.axes.mesh import group_of
from parsim.cost.constants import Constants
from parsim.network.price import Latency, Links, Path, collective_seconds, path_between, spread
from parsim.spec import Mesh, NodeSpec, Run

__all__ = ["DataPaths", "RunLinks", "data_paths", "links_of"]


class DataPaths(NamedTuple):
    """What the ranks that hold the same weights talk over: all of them; those that share one set of optimizer states
    (`inside`); and those that hold the same share of different sets (`across`).
    """

    whole: Path
    inside: Path
    across: Path
    latency: Latency


class RunLinks(NamedTuple):
    """Paths of tensor-parallel and data-parallel groups (the slowest group of each), and what they are made of."""

    links: Links
    tensor: Path
    data: DataPaths

    def message_seconds(self, run: Run, source: int, target: int, size_bytes: float, constants: Constants) -> float:
        """Delay of a message between two pipeline ranks: the slowest of the pairs of ranks that send it."""
        width = run.ranks // run.layout.mesh.pp
        node, domain = run.cluster.node, self.links.domain
        pairs = [(source * width + i, target * width + i) for i in range(min(width, domain))]
        slowest = next((pair for pair in pairs if pair[0] // domain != pair[1] // domain), pairs[0])
        rates = Links(
            nvlink_bytes_per_s=_inside(node) * constants.message_nvlink,
            nic_bytes_per_s=node.nic_bytes_per_s_per_gpu * constants.message_nic,
            domain=domain,
        )
        return collective_seconds("send", size_bytes, path_between(slowest, rates), Latency(constants.message_s))


def links_of(run: Run) -> RunLinks:
    """The links of a run. LayoutError where a group needs a link that the cluster does not have."""
    node, mesh = run.cluster.node, run.layout.mesh
    shares = node.gpu.efficiency
    links = Links(
        nvlink_bytes_per_s=_inside(node) * shares.nvlink,
        nic_bytes_per_s=node.nic_bytes_per_s_per_gpu * shares.nic,
        domain=spread(run.ranks, node.nvlink_domain, node.gpus),
    )
    tensor = _slowest(mesh, links, range(0, run.ranks, mesh.tp), "tp")
    width = run.ranks // mesh.pp
    bases = [stage * width + index for stage in range(mesh.pp) for index in range(mesh.tp)]
    data = data_paths(run, links, (0,))._replace(whole=_slowest(mesh, links, bases, "cp", "dp"))
    return RunLinks(links, tensor, data)


def data_paths(run: Run, links: Links, pipeline_ranks: tuple[int, ...]) -> DataPaths:
    """The paths of one data-parallel group, over all `pipeline_ranks` that hold the same part (two in DualPipe)."""
    mesh, node = run.layout.mesh, run.cluster.node
    width = run.ranks // mesh.pp
    ranks = [rank * width + r for rank in pipeline_ranks for r in group_of(mesh, 0, "cp", "dp")]
    share = min(run.layout.zero_group or len(ranks), len(ranks))
    inside, across = path_between(ranks[:share], links), path_between(ranks[::share], links)
    latency = Latency(0.0, node.nvlink_latency_s, node.nic_latency_s)
    return DataPaths(path_between(ranks, links), inside, across, latency)


def _inside(node: NodeSpec) -> float:
    """Rate between two GPUs of a node: over the host where there is no NVLink."""
    return node.gpu.nvlink_bytes_per_s or node.gpu.host_link_bytes_per_s


def _slowest(mesh: Mesh, links: Links, bases: Iterable[int], *axes: str) -> Path:
    """The slowest of an axis's groups, given by one rank of each: alike but for where domains end, so one group for
    each place in a domain is enough to look at.
    """
    different = {base % links.domain: base for base in bases}
    paths = {path_between(group_of(mesh, base, *axes), links) for base in different.values()}
    return min(paths, key=lambda path: (path.bytes_per_s, -path.domains))
