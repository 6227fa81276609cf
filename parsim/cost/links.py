"""The links of a run: what each of its groups of ranks talks over, at effective rates."""

from typing import NamedTuple

from parsim.axes.mesh import groups
from parsim.cost.constants import Constants
from parsim.network.price import Latency, Links, Path, collective_seconds, path_between, spread
from parsim.spec import NodeSpec, Run

__all__ = ["RunLinks", "links_of"]


class RunLinks(NamedTuple):
    """Paths of tensor-parallel and data-parallel groups (the slowest group of each), and what they are made of."""

    links: Links
    tensor: Path
    data: tuple[Path, Latency]

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
    latency = Latency(0.0, node.nvlink_latency_s, node.nic_latency_s)
    return RunLinks(links, _slowest(groups(mesh, "tp"), links), (_slowest(groups(mesh, "cp", "dp"), links), latency))


def _inside(node: NodeSpec) -> float:
    """Rate between two GPUs of a node: over the host where there is no NVLink."""
    return node.gpu.nvlink_bytes_per_s or node.gpu.host_link_bytes_per_s


def _slowest(all_groups: tuple[tuple[int, ...], ...], links: Links) -> Path:
    """Groups of one axis are alike but for where domains end; the slowest sets the pace of all."""
    paths = {path_between(group, links) for group in all_groups}
    return min(paths, key=lambda path: (path.bytes_per_s, -path.domains))
