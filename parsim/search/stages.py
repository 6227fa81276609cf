"""Stages: what the stages of a shape are made of, and which of them are alike."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

from parsim.model.layer import LayerKind
from parsim.plan import Placement
from parsim.schedules import get
from parsim.search.shape import Shape
from parsim.search.units import kinds_of
from parsim.spec import Search

__all__ = ["StageClass", "Stages", "placement_of", "stages_of"]


@dataclass(frozen=True)
class StageClass:
    """What a stage's time depends on: its layers by kind, how many of each are recomputed under each value of the
    recompute switch, and whether it has the embedding or the head.
    """

    layers: tuple[tuple[LayerKind, int], ...]
    again: tuple[tuple[tuple[LayerKind, int], ...], ...]
    first: bool
    last: bool
    offset: int = 0
    """Where its ranks begin in an NVLink domain, where domains and pipeline ranks do not hold a whole number of each
    other."""


@dataclass(frozen=True)
class Stages:
    """The stages of a shape: where they stand, and the class of each."""

    placement: Placement
    classes: tuple[StageClass, ...]
    of: tuple[int, ...]
    """The number of each stage's class."""

    def example(self, number: int) -> int:
        """The first stage of a class."""
        return self.of.index(number)

    @cached_property
    def ranks(self) -> tuple[tuple[int, ...], ...]:
        """The classes of each rank's stages, in ascending order of the stages."""
        found: list[list[int]] = [[] for _ in range(self.placement.ranks)]
        for stage, rank in enumerate(self.placement.rank_of):
            found[rank].append(self.of[stage])
        return tuple(map(tuple, found))

    @cached_property
    def rank_kinds(self) -> dict[tuple[int, ...], int]:
        """Each kind of rank, by the classes of its stages, and the first rank of it."""
        found: dict[tuple[int, ...], int] = {}
        for rank, own in enumerate(self.ranks):
            found.setdefault(tuple(sorted(own)), rank)
        return found


@lru_cache(maxsize=1024)
def placement_of(schedule: str, pp: int, stages_per_rank: int) -> Placement:
    """Where the stages of a schedule stand."""
    return get(schedule).placement(pp, stages_per_rank)


def stages_of(search: Search, shape: Shape) -> Stages:
    """The stages of a shape."""
    mesh, domain = shape.mesh, search.cluster.node.nvlink_domain
    width = mesh.gpus // mesh.pp
    whole = width % domain == 0 or domain % width == 0
    return _stages(search, shape.schedule, mesh.pp, shape.stages_per_rank, shape.layers, 0 if whole else width)


@lru_cache(maxsize=4096)
def _stages(
    search: Search, schedule: str, pp: int, stages_per_rank: int, layers: tuple[int, ...], width: int
) -> Stages:
    placement, kinds = placement_of(schedule, pp, stages_per_rank), kinds_of(search)
    number_of: dict[StageClass, int] = {}
    of = []
    for stage in range(placement.stages):
        part, mates = placement.part_of[stage], placement.stages_of(placement.rank_of[stage])
        own = kinds[sum(layers[:part]) : sum(layers[: part + 1])]
        on_rank = [layers[placement.part_of[mate]] for mate in mates]
        counts = [recompute.touched_of(on_rank)[mates.index(stage)] for recompute in search.space.recompute]
        again = [_counted(own[:count]) for count in counts]
        offset = placement.rank_of[stage] * width % search.cluster.node.nvlink_domain
        found = StageClass(_counted(own), tuple(again), part == 0, part == placement.parts - 1, offset)
        of.append(number_of.setdefault(found, len(number_of)))
    return Stages(placement, tuple(number_of), tuple(of))


def _counted(kinds: tuple[LayerKind, ...]) -> tuple[tuple[LayerKind, int], ...]:
    return tuple(sorted(Counter(kinds).items()))
