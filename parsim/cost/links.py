"""The links of a run: what each of its groups of ranks talks over, at effective rates.

All groups of an axis talk at once, so across nodes a group has what the cluster's fabric then leaves it. All of it
follows from the cluster and from how the ranks are grouped, so runs that share these share one `RunLinks`, which
remembers what it was asked.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from parsim.axes.mesh import expert_groups, group_of
from parsim.cost.constants import Constants
from parsim.network.estimate import Correction
from parsim.network.groups import AxisGroups, axis_groups, groups_at_once, members_of
from parsim.network.price import Links, Path, collective_seconds, path_between, spread
from parsim.network.tiers import Flows, crossing
from parsim.spec import ClusterSpec, Mesh, NodeSpec, Run

__all__ = ["DataPaths", "Grouping", "Message", "RunLinks", "links_of"]


class DataPaths(NamedTuple):
    """What the ranks that hold the same weights talk over: all of them; those that share one set of optimizer states
    (`inside`); and those that hold the same share of different sets (`across`).
    """

    whole: Path
    inside: Path
    across: Path


class Message(NamedTuple):
    """What a message between two pipeline ranks goes over, and what it costs beside its bytes."""

    path: Path
    call_s: float


@dataclass(frozen=True)
class Grouping:
    """How ranks are grouped: the mesh, the experts' view of it, and how many ranks share a set of shards."""

    mesh: Mesh
    ep: int = 1
    expert_tp: int = 1
    zero_group: int | None = None

    @property
    def width(self) -> int:
        """Ranks of a pipeline rank."""
        return self.mesh.size // self.mesh.pp


@dataclass(frozen=True)
class RunLinks:
    """Paths of a run's groups (the slowest group of each axis), and what they are made of."""

    cluster: ClusterSpec
    grouping: Grouping
    constants: Constants
    links: Links
    exchange: Links
    """Effective rates of all-to-alls."""
    correction: Correction | None = None
    _messages: dict[tuple[int, int], Message] = field(default_factory=dict, init=False, repr=False, compare=False)
    _data_paths: dict[tuple[int, ...], DataPaths] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def tensor(self) -> Path:
        """Of tensor-parallel groups."""
        mesh = self._mesh
        path = _slowest(mesh, self.links, range(0, mesh.size, mesh.tp), "tp")
        return self._shared(path, axis_groups(self.cluster, mesh, "tp"))

    @cached_property
    def context(self) -> Path:
        """Of context-parallel groups, for gathers."""
        mesh = self._mesh
        width = mesh.tp * mesh.cp
        bases = [first + index for first in range(0, mesh.size, width) for index in range(mesh.tp)]
        path = _slowest(mesh, self.links, bases, "cp")
        return self._shared(path, axis_groups(self.cluster, mesh, "cp"))

    @cached_property
    def context_ring(self) -> Path:
        """Of context-parallel groups whose ranks hand on to their neighbours: each has its own NIC, and no other."""
        path, share = self.context, axis_groups(self.cluster, self._mesh, "cp").fabric_share
        if path.domains == 1:
            return path
        return path._replace(bytes_per_s=min(path.bytes_per_s, self.links.nic_bytes_per_s * share))

    @cached_property
    def context_exchange(self) -> Path:
        """Of context-parallel groups, for all-to-alls."""
        return self._exchanging(self.context, axis_groups(self.cluster, self._mesh, "cp"))

    @cached_property
    def expert(self) -> Path:
        """Of the groups that dispatch tokens to each other's experts."""
        return self._exchanging(self._expert_path("ep"), self._expert_groups("ep"))

    @cached_property
    def expert_tensor(self) -> Path:
        """Of the ranks that each have a slice of the same experts."""
        return self._expert_path("expert_tp")

    @cached_property
    def expert_data(self) -> DataPaths:
        """Of the groups that hold the same experts, on one pipeline rank."""
        return self.expert_data_paths((0,))

    def expert_data_paths(self, pipeline_ranks: tuple[int, ...]) -> DataPaths:
        """As `data_paths`, of the ranks that hold the same experts; they share one set of optimizer states."""
        group = self._experts("expert_dp")[0]
        ranks = [rank * self.grouping.width + r for rank in pipeline_ranks for r in group]
        path = self._shared(path_between(ranks, self.links), self._expert_holders)
        alone = path_between(ranks[:1], self.links)
        return DataPaths(path, path, alone)

    @cached_property
    def data(self) -> DataPaths:
        """Of the groups that share weights, one part on one pipeline rank."""
        mesh = self._mesh
        width = self.grouping.width
        bases = [stage * width + index for stage in range(mesh.pp) for index in range(mesh.tp)]
        slowest = _slowest(mesh, self.links, bases, "cp", "dp")
        return self.data_paths((0,))._replace(whole=self._shared(slowest, self._holders[0]))

    def data_paths(self, pipeline_ranks: tuple[int, ...]) -> DataPaths:
        """The paths of one data-parallel group, over all `pipeline_ranks` that hold the same part (two in DualPipe)."""
        alike = self.place_of(pipeline_ranks)
        if alike not in self._data_paths:
            ranks = [first + r for first in alike for r in group_of(self._mesh, 0, "cp", "dp")]
            share = self._set_size(len(ranks))
            whole, inside, across = (
                self._shared(path_between(part, self.links), held)
                for part, held in zip((ranks, ranks[:share], ranks[::share]), self._holders, strict=True)
            )
            self._data_paths[alike] = DataPaths(whole, inside, across)
        return self._data_paths[alike]

    def place_of(self, pipeline_ranks: tuple[int, ...]) -> tuple[int, ...]:
        """The first rank of each pipeline rank, less whole NVLink domains before them: where that is alike, so are the
        paths of their groups.
        """
        firsts = [rank * self.grouping.width for rank in pipeline_ranks]
        before = firsts[0] // self.links.domain * self.links.domain
        return tuple(first - before for first in firsts)

    def message_seconds(self, source: int, target: int, size_bytes: float) -> float:
        """Delay of a message between two pipeline ranks: the slowest pair of the ranks that send it, all at once."""
        if (source, target) not in self._messages:
            self._messages[source, target] = self._message(source, target)
        path, call_s = self._messages[source, target]
        return collective_seconds("send", size_bytes, path, call_s)

    def _message(self, source: int, target: int) -> Message:
        domain, width, node, constants = self.links.domain, self.grouping.width, self.cluster.node, self.constants
        pairs = [(source * width + i, target * width + i) for i in range(min(width, domain))]
        slowest = next((pair for pair in pairs if pair[0] // domain != pair[1] // domain), pairs[0])
        nic = node.nic_bytes_per_s_per_gpu * constants.message_nic
        senders = np.arange(source * width, (source + 1) * width)
        flows = Flows(senders // node.gpus, (senders + (target - source) * width) // node.gpus, nic)
        passed = crossing(self.cluster, flows)
        rates = Links(
            nvlink_bytes_per_s=_inside(node) * constants.message_nvlink,
            nic_bytes_per_s=nic * passed.share,
            domain=domain,
        )
        path = path_between(slowest, rates)
        if self.correction is not None:
            pair = groups_at_once(self.cluster, np.array([slowest]), ("pp",), self._mesh.size)
            path = path._replace(reach=pair.reach, correction=self.correction)
        return Message(path, constants.message_s + passed.latency_s)

    @property
    def _mesh(self) -> Mesh:
        return self.grouping.mesh

    @cached_property
    def _holders(self) -> tuple[AxisGroups, AxisGroups, AxisGroups]:
        """All groups of the ranks that hold the same weights at once, whole; and cut as optimizer states cut them."""
        cluster, members = self.cluster, members_of(self._mesh, "cp", "dp")
        share = self._set_size(members.shape[1])
        whole = axis_groups(cluster, self._mesh, "cp", "dp")
        if members.shape[1] % share:
            return whole, whole, whole
        cut = members.reshape(len(members), -1, share)
        inside = groups_at_once(cluster, cut.reshape(-1, share), ("dp",), self._mesh.size)
        across = groups_at_once(cluster, cut.transpose(0, 2, 1).reshape(-1, cut.shape[1]), ("dp",), self._mesh.size)
        return whole, inside, across

    @cached_property
    def _expert_holders(self) -> AxisGroups:
        return self._expert_groups("expert_dp")

    def _experts(self, axis: str) -> tuple[tuple[int, ...], ...]:
        return expert_groups(self._mesh, self.grouping.ep, self.grouping.expert_tp, axis)

    def _expert_groups(self, axis: str) -> AxisGroups:
        return groups_at_once(self.cluster, np.array(self._experts(axis), np.intp), (axis,), self._mesh.size)

    def _expert_path(self, axis: str) -> Path:
        different = {group[0] % self.links.domain: group for group in self._experts(axis)}
        paths = {path_between(group, self.links) for group in different.values()}
        return self._shared(min(paths, key=_speed), self._expert_groups(axis))

    def _exchanging(self, path: Path, groups: AxisGroups) -> Path:
        """The path with what one rank exchanges over: inside its domain, and across as the fabric leaves it."""
        left = groups.fabric_share * groups.reach.exchange_share / groups.reach.share
        return path._replace(
            inside_bytes_per_s=self.exchange.nvlink_bytes_per_s,
            across_bytes_per_s=self.exchange.nic_bytes_per_s * left,
        )

    def _set_size(self, ranks: int) -> int:
        return min(self.grouping.zero_group or ranks, ranks)

    def _shared(self, path: Path, groups: AxisGroups) -> Path:
        """The path at the rate that the fabric leaves; across domains the NICs, inside one nothing changes."""
        if path.domains > 1:
            across = self.links.nic_bytes_per_s * groups.in_domain * groups.fabric_share
            path = path._replace(bytes_per_s=min(path.bytes_per_s, across), crossing_s=groups.crossing_s)
        reach = groups.reach
        if (path.ranks, path.domains) != (reach.ranks, reach.domains):
            reach = replace(reach, ranks=path.ranks, domains=path.domains)
        return path._replace(reach=reach, correction=self.correction)


def links_of(run: Run, constants: Constants, correction: Correction | None = None) -> RunLinks:
    """The links of a run. LayoutError where a group needs a link that the cluster does not have."""
    layout = run.layout
    grouping = Grouping(layout.mesh, layout.ep, layout.expert_tp, layout.zero_group)
    return _links(run.cluster, grouping, constants, correction)


@lru_cache(maxsize=1024)
def _links(cluster: ClusterSpec, grouping: Grouping, constants: Constants, correction: Correction | None) -> RunLinks:
    node = cluster.node
    shares = node.gpu.efficiency
    links = Links(
        nvlink_bytes_per_s=_inside(node) * shares.nvlink,
        nic_bytes_per_s=node.nic_bytes_per_s_per_gpu * shares.nic,
        domain=spread(grouping.mesh.size, node.nvlink_domain, node.gpus),
    )
    exchange = replace(
        links,
        nvlink_bytes_per_s=_inside(node) * constants.exchange_nvlink,
        nic_bytes_per_s=node.nic_bytes_per_s_per_gpu * constants.exchange_nic,
    )
    return RunLinks(cluster, grouping, constants, links, exchange, correction)


def _inside(node: NodeSpec) -> float:
    """Rate between two GPUs of a node: over the host where there is no NVLink."""
    return node.gpu.nvlink_bytes_per_s or node.gpu.host_link_bytes_per_s


def _slowest(mesh: Mesh, links: Links, bases: Iterable[int], *axes: str) -> Path:
    """The slowest of an axis's groups, given by one rank of each: alike but for where domains end, so one group for
    each place in a domain is enough to look at.
    """
    different = {base % links.domain: base for base in bases}
    paths = {path_between(group_of(mesh, base, *axes), links) for base in different.values()}
    return min(paths, key=_speed)


def _speed(path: Path) -> tuple[float, int]:
    return path.bytes_per_s, -path.domains
