"""Groups: which ranks talk to each other, and the process groups they use for it.

A pipeline of the mesh is one `lane`: the ranks that differ in pp alone. Gradients of a part are summed over its data-
parallel ranks and over every pipeline rank that holds a copy of the part; those of tied embeddings over the holders of
the first and the last part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from parsim.axes.mesh import Coordinates, coordinates, rank_at
from parsim.plan import Placement
from parsim.spec import Mesh

__all__ = ["Groups", "holders_of_parts", "lane_of", "tied_ranks"]


def lane_of(mesh: Mesh, rank: int) -> tuple[int, ...]:
    """Global ranks of the pipeline that `rank` is in, by pipeline rank."""
    return tuple(rank_at(mesh, coordinates(mesh, rank)._replace(pp=pp)) for pp in range(mesh.pp))


def holders_of_parts(placement: Placement) -> tuple[tuple[int, ...], ...]:
    """For each part the pipeline ranks that hold a copy of it, ascending."""
    holders: list[set[int]] = [set() for _ in range(placement.parts)]
    for stage, part in enumerate(placement.part_of):
        holders[part].add(placement.rank_of[stage])
    return tuple(tuple(sorted(ranks)) for ranks in holders)


def tied_ranks(placement: Placement) -> tuple[int, ...]:
    """The pipeline ranks that hold the first or the last part: copies of a tied embedding."""
    holders = holders_of_parts(placement)
    return tuple(sorted({*holders[0], *holders[-1]}))


@dataclass
class Groups:
    """The process groups of one rank, made when they are first asked for, in the same order by all their members.

    The ranks of a group are global; asking for a group of one rank gives None: there is nobody to talk to.
    """

    mesh: Mesh
    rank: int
    _made: dict[tuple[str, tuple[int, ...]], dist.ProcessGroup] = field(default_factory=dict)

    def over_dp(self, pipeline_ranks: Iterable[int]) -> tuple[int, ...]:
        """The global ranks that hold the given pipeline ranks' weights, in all data-parallel replicas."""
        return tuple(
            sorted(rank_at(self.mesh, Coordinates(dp=dp, pp=pp)) for pp in pipeline_ranks for dp in range(self.mesh.dp))
        )

    def replicas(self) -> tuple[int, ...]:
        """The global ranks that hold the same stages as this one: its data-parallel group."""
        return self.over_dp([coordinates(self.mesh, self.rank).pp])

    def make(self, purpose: str, ranks: Sequence[int], backend: str) -> dist.ProcessGroup | None:
        """The group of `ranks` for one purpose: two purposes never share a group, so their order is their own."""
        if len(ranks) < 2 or self.rank not in ranks:
            return None
        key = (purpose, tuple(ranks))
        if key not in self._made:
            self._made[key] = dist.new_group(
                list(ranks), backend=backend, use_local_synchronization=True, group_desc=purpose
            )
        return self._made[key]
