"""Reach: what the ranks of a group have between them, as NCCL's search sees it.

NCCL calls an NVLink domain a node: a server of 8 GPUs, or a whole rack of 72. All rates count one direction.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from parsim.errors import LayoutError
from parsim.network.tiers import Flows, crossing, exchange
from parsim.spec import ClusterSpec, NodeSpec

__all__ = ["Host", "Reach", "merged_nics", "reach_of_size", "reach_on"]

Host = Literal["intel", "amd"]
_TO_NCCL_PCIE = 0.76  # what NCCL counts on of a PCIe link: 12 of 15.75 GB/s for generation 3 x16


@dataclass(frozen=True)
class Reach:
    """`ranks` spread evenly over `domains` NVLink domains.

    `nvlink_bytes_per_s` of one GPU by its data sheet (0: none, then `pcie_bytes_per_s`); in each domain the group may
    use `nics` NICs of `nic_bytes_per_s`, of which the fabric lets `share` through (tiers that block, groups that run
    at the same time).
    """

    ranks: int
    domains: int
    nvlink_bytes_per_s: float
    nics: int
    nic_bytes_per_s: float
    fabric: str
    compute_capability: int | None = None
    pcie_bytes_per_s: float = 0.0
    share: float = 1.0
    exchange_share: float = 1.0
    """The same where every rank sends to every other."""
    host: Host = "intel"
    nic_is_close: bool = True
    """Whether every GPU has a NIC on its own PCIe switch."""
    searched: tuple[tuple[str, int, float, float], ...] = ()
    """What NCCL's own search found, where its graph file is known: algorithm (ring, tree, nvls), channels, and bytes/s
    of one channel inside a node and across; it goes before the rules of `nccl.search`.
    """

    def __post_init__(self) -> None:
        if not 1 <= self.domains <= self.ranks:
            raise LayoutError(f"a group of {self.ranks} ranks cannot stand on {self.domains} NVLink domains")
        for name in ("nvlink_bytes_per_s", "nic_bytes_per_s", "pcie_bytes_per_s", "share", "exchange_share"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise LayoutError(f"{name} {value}: a finite rate, not negative")
        if self.ranks > self.domains and not self.inside_bytes_per_s:
            raise LayoutError("the group shares a node that has no link between its GPUs")
        if self.domains > 1 and not self.across_bytes_per_s:
            raise LayoutError(f"the group is on {self.domains} nodes that have no NIC")

    @property
    def per_domain(self) -> float:
        """Ranks in a domain (a mean where they are uneven)."""
        return self.ranks / self.domains

    @property
    def inside_bytes_per_s(self) -> float:
        """What one GPU can send inside its domain, by data sheet: NVLink, else PCIe."""
        return self.nvlink_bytes_per_s or self.pcie_bytes_per_s * _TO_NCCL_PCIE

    @property
    def across_bytes_per_s(self) -> float:
        """What the group can send out of one domain: its NICs, as far as the fabric lets them."""
        return self.nics * self.nic_bytes_per_s * self.share

    @property
    def kind(self) -> str:
        """The class of measurements that it belongs to: the fabric across domains; inside one `nvlink3` (Ampere),
        `nvlink4` (Hopper), `nvlink5` (Blackwell), `xgmi` (AMD) or `pcie`.
        """
        if self.domains > 1 or self.fabric == "loopback":
            return self.fabric
        if not self.nvlink_bytes_per_s:
            return "pcie"
        if self.compute_capability is None:
            return "xgmi"
        return f"nvlink{min(max(self.compute_capability // 10 - 5, 2), 5)}"


def merged_nics(node: NodeSpec) -> tuple[int, float]:
    """NICs of a node and the rate of one: several NICs of a GPU act as one (NCCL merges ports, EFA its rails)."""
    merged = min(node.nics, node.gpus)
    return merged, node.nics * node.nic_bytes_per_s / merged


def reach_of_size(cluster: ClusterSpec, nodes: int, ranks_per_node: int | None = None) -> Reach:
    """The first `ranks_per_node` GPUs of each of `nodes` nodes, alone on the cluster (what nccl-tests measures).

    Raises LayoutError for more nodes or GPUs than there are.
    """
    node = cluster.node
    per_node = node.gpus if ranks_per_node is None else ranks_per_node
    if not 1 <= per_node <= node.gpus:
        raise LayoutError(f"ranks per node {per_node}: {node.name} has {node.gpus} GPUs")
    if nodes < 1 or (cluster.nodes is not None and nodes > cluster.nodes and cluster.fabric.kind != "loopback"):
        most = "any number" if cluster.nodes is None else f"1 to {cluster.nodes}"
        raise LayoutError(f"nodes {nodes}: {cluster.name} has {most} of them")
    per_domain = max(node.nvlink_domain // node.gpus, 1)
    domains = -(-nodes // per_domain)
    nodes_in_domain = -(-nodes // domains)
    nics, rate = merged_nics(node)
    usable = max(1, nics * nodes_in_domain * per_node // node.gpus)
    across = domains > 1
    return reach_on(
        cluster,
        ranks=nodes * per_node,
        domains=domains,
        nics=usable,
        share=_ring_share(cluster, nodes, nodes_in_domain, usable * rate) if across else 1.0,
        exchange_share=exchange(cluster, nodes).share if across else 1.0,
    )


def reach_on(
    cluster: ClusterSpec, *, ranks: int, domains: int, nics: int, share: float, exchange_share: float
) -> Reach:
    """What a group has of a cluster's links: see `Reach`. Several NICs of a GPU count as one."""
    node = cluster.node
    number, rate = merged_nics(node)
    return Reach(
        ranks=ranks,
        domains=domains,
        nvlink_bytes_per_s=node.gpu.nvlink_bytes_per_s,
        nics=nics,
        nic_bytes_per_s=rate,
        fabric=cluster.fabric.kind,
        compute_capability=node.gpu.compute_capability,
        pcie_bytes_per_s=node.gpu.host_link_bytes_per_s,
        share=share,
        exchange_share=exchange_share,
        nic_is_close=number * 2 >= node.gpus,
    )


def _ring_share(cluster: ClusterSpec, nodes: int, step: int, bytes_per_s: float) -> float:
    """What the fabric leaves of one ring through these nodes, a domain of `step` nodes after the other."""
    first = np.arange(0, nodes, step)
    return crossing(cluster, Flows((first - 1) % nodes, first, bytes_per_s)).share if len(first) > 1 else 1.0
