"""Groups: the process groups of an axis on a cluster, and what each has when all of them run at once.

Rank r is GPU r mod g of node r // g. A ring runs through a group in rank order: it leaves an NVLink domain once and at
the rate of the NICs that its ranks there own. All groups of an axis play the same collective together (eight
data-parallel rings of a node share its NICs, and many rings share a leaf's way up), so the rate of one is what the
fabric leaves it (tiers).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from parsim.axes.mesh import AXES, group_of
from parsim.network.price import spread
from parsim.network.reach import Reach, merged_nics, reach_on
from parsim.network.tiers import Flows, crossing, exchange
from parsim.spec import ClusterSpec, Mesh

__all__ = ["AxisGroups", "axis_groups", "groups_at_once", "members_of"]

Integers = npt.NDArray[np.intp]
_MOST_PAIRS = 2_000_000


@dataclass(frozen=True)
class AxisGroups:
    """The groups of some axes. Where groups differ, the numbers are the slowest one's: fewest ranks in a domain, then
    most domains.
    """

    axes: tuple[str, ...]
    count: int
    """Groups."""
    ranks: int
    """Ranks in a group."""
    nodes: int
    """Servers that a group spans."""
    domains: int
    """NVLink domains that it spans."""
    in_domain: int
    """The fewest of its ranks in a domain."""
    rails: int
    """Different places in a node, and so on a rail-optimised fabric rails, that its ranks stand on."""
    blocking_tier: str | None
    """The tier of the fabric that slows the groups when all of them run at once."""
    fabric_share: float
    """What the fabric leaves of the rate of their NICs then."""
    crossing_s: float
    """Seconds of switches beyond the leaf that a step across domains passes, in the mean."""
    reach: Reach

    def document(self) -> dict[str, object]:
        """As JSON; rates in bytes/s, of one group when all run at once."""
        across = self.reach.across_bytes_per_s if self.domains > 1 else None
        return {
            "groups": self.count,
            "ranks": self.ranks,
            "nodes": self.nodes,
            "nvlink_domains": self.domains,
            "ranks_per_domain": self.in_domain,
            "rails": self.rails,
            "share_of_nics": self.reach.share if self.domains > 1 else None,
            "blocking_tier": self.blocking_tier,
            "across_bytes_per_s": across,
            "inside_bytes_per_s": self.reach.inside_bytes_per_s if self.ranks > self.domains else None,
        }


@lru_cache(maxsize=4096)
def axis_groups(cluster: ClusterSpec, mesh: Mesh, *axes: str) -> AxisGroups:
    """The groups of a mesh's axes on a cluster; remembered, for a search asks again and again.

    LayoutError where a group needs a link that the cluster has not.
    """
    return groups_at_once(cluster, members_of(mesh, *axes), axes, mesh.size)


def members_of(mesh: Mesh, *axes: str) -> Integers:
    """The ranks of every group of some axes, [groups, ranks of a group], as `axes.mesh.groups`. LayoutError for
    an unknown axis.
    """
    size = len(group_of(mesh, 0, *axes))
    ranks = np.arange(mesh.size).reshape([getattr(mesh, axis) for axis in reversed(AXES)])
    fixed, free = ([at for at, axis in enumerate(reversed(AXES)) if (axis in axes) is of] for of in (False, True))
    return ranks.transpose(fixed + free).reshape(-1, size)


def groups_at_once(
    cluster: ClusterSpec, members: Integers | Sequence[Sequence[int]], axes: tuple[str, ...], job_ranks: int
) -> AxisGroups:
    """As `axis_groups`, of groups given by their ranks, [groups, ranks of a group] in ring order."""
    node, ranks = cluster.node, np.asarray(members)
    count, size = ranks.shape
    domain = spread(job_ranks, node.nvlink_domain, node.gpus)
    at = ranks // domain
    new = np.ones(ranks.shape, bool)
    new[:, 1:] = at[:, 1:] != at[:, :-1]
    domains = new.sum(axis=1)
    fewest = np.array([np.bincount(row - row.min())[np.unique(row - row.min())].min() for row in _distinct(at)])
    slowest = int(np.lexsort((-domains[_first(at)], fewest))[0])
    group = int(_first(at)[slowest])
    held, spans = int(fewest[slowest]), int(domains[group])
    nics, rate = merged_nics(node)
    owned = nics / node.gpus * held
    usable = max(1, int(owned + 1e-9))
    own = min(1.0, owned / usable)
    found = crossing(cluster, _ring_flows(ranks, at, node.gpus, owned * rate)) if spans > 1 else None
    reach = reach_on(
        cluster,
        ranks=size,
        domains=spans,
        nics=usable,
        share=own * (found.share if found else 1.0),
        exchange_share=own * (_exchange_share(cluster, ranks, at, owned * rate, job_ranks) if spans > 1 else 1.0),
    )
    return AxisGroups(
        axes=axes,
        count=count,
        ranks=size,
        nodes=len(np.unique(ranks[group] // node.gpus)),
        domains=spans,
        in_domain=held,
        rails=len(np.unique(ranks[group] % node.gpus)),
        blocking_tier=found.tier if found else None,
        fabric_share=found.share if found else 1.0,
        crossing_s=found.mean_latency_s if found else 0.0,
        reach=reach,
    )


def _first(at: Integers) -> Integers:
    """The first of the groups that lie alike on domains: by how many ranks follow each other in each."""
    shape = (at[:, 1:] != at[:, :-1]) if at.shape[1] > 1 else np.zeros((len(at), 1), bool)
    result: Integers = np.sort(np.unique(shape, axis=0, return_index=True)[1])
    return result


def _distinct(at: Integers) -> Integers:
    result: Integers = at[_first(at)]
    return result


def _exchange_share(cluster: ClusterSpec, ranks: Integers, at: Integers, bytes_per_s: float, job_ranks: int) -> float:
    """What is left of the NICs' rate when every rank of every group sends evenly to all others of its group.

    A large group is as one over all nodes of the job.
    """
    count, size = ranks.shape
    if count * size * size > _MOST_PAIRS:
        return exchange(cluster, -(-job_ranks // cluster.node.gpus)).share
    one, other = np.nonzero(~np.eye(size, dtype=bool))
    source, target = ranks[:, one], ranks[:, other]
    apart = at[:, one] != at[:, other]
    each = bytes_per_s / max(int(apart[0].sum()) / len(np.unique(at[0])), 1)
    gpus = cluster.node.gpus
    return crossing(cluster, Flows(source[apart] // gpus, target[apart] // gpus, each)).share


def _ring_flows(ranks: Integers, at: Integers, gpus: int, bytes_per_s: float) -> Flows:
    """The step of each ring out of each domain it is in, at the rate of its NICs there."""
    following, next_at = np.roll(ranks, -1, axis=1), np.roll(at, -1, axis=1)
    leaves = at != next_at
    return Flows(ranks[leaves] // gpus, following[leaves] // gpus, bytes_per_s)
