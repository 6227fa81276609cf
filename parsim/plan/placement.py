"""Placement: which rank holds which stage, which part of the model a stage is, and how activations travel.

A *part* is a contiguous slice of the layers; a *stage* one instance of a part on a pipeline rank; a *chain* the
order of stages that a micro-batch's activations follow. Everything but DualPipe has one chain, and stage s holds
part s. DualPipe has two: stage s of chain 0 and stage p+s of chain 1 both hold part s.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from parsim.errors import ScheduleError

__all__ = ["Placement", "looped", "mirrored", "straight", "vee"]


@dataclass(frozen=True)
class Placement:
    """Stages on ranks. `rank_of[stage]`, `part_of[stage]`; `chains` partition the stages.

    Raises ScheduleError unless every stage stands in exactly one chain, every rank holds a stage, and every chain
    runs through the whole model: parts 0, 1, ... in order.
    """

    chains: tuple[tuple[int, ...], ...]
    rank_of: tuple[int, ...]
    part_of: tuple[int, ...]
    before: tuple[int | None, ...] = field(init=False, repr=False, compare=False)
    after: tuple[int | None, ...] = field(init=False, repr=False, compare=False)
    chain_of: tuple[int, ...] = field(init=False, repr=False, compare=False)
    by_rank: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    """The stages of each pipeline rank, in ascending order."""

    def __post_init__(self) -> None:
        stages = range(len(self.rank_of))
        if not stages:
            raise ScheduleError("placement: needs at least one stage")
        if sorted(s for chain in self.chains for s in chain) != list(stages):
            raise ScheduleError(f"placement: the chains {self.chains} must hold each of the {len(stages)} stages once")
        if len(self.part_of) != len(stages):
            raise ScheduleError(f"placement: {len(self.part_of)} parts given for {len(stages)} stages")
        if set(self.rank_of) != set(range(len(set(self.rank_of)))):
            raise ScheduleError(f"placement: ranks {sorted(set(self.rank_of))} must be 0, 1, ... without a gap")
        parts = list(range(max(self.part_of) + 1)) if max(self.part_of) < len(stages) else None
        for chain in self.chains:
            if [self.part_of[stage] for stage in chain] != parts:
                raise ScheduleError(f"placement: chain {chain} must run through every part of the model in order")
        before: list[int | None] = [None] * len(stages)
        after: list[int | None] = [None] * len(stages)
        chain_of = [0] * len(stages)
        for index, chain in enumerate(self.chains):
            for stage in chain:
                chain_of[stage] = index
            for a, b in pairwise(chain):
                after[a], before[b] = b, a
        by_rank: list[list[int]] = [[] for _ in set(self.rank_of)]
        for stage, rank in enumerate(self.rank_of):
            by_rank[rank].append(stage)
        object.__setattr__(self, "before", tuple(before))
        object.__setattr__(self, "after", tuple(after))
        object.__setattr__(self, "chain_of", tuple(chain_of))
        object.__setattr__(self, "by_rank", tuple(map(tuple, by_rank)))

    @property
    def ranks(self) -> int:
        """Number of pipeline ranks p."""
        return len(self.by_rank)

    @property
    def stages(self) -> int:
        """Number of stages S."""
        return len(self.rank_of)

    @property
    def parts(self) -> int:
        """Number of parts the model is cut into."""
        return max(self.part_of) + 1

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages of a pipeline rank, in ascending order."""
        return self.by_rank[rank]

    def twins(self, stage: int) -> tuple[int, ...]:
        """All stages that hold the same part as `stage`, itself included; their gradients are summed."""
        return tuple(s for s, part in enumerate(self.part_of) if part == self.part_of[stage])


def _single_chain(rank_of: tuple[int, ...]) -> Placement:
    stages = tuple(range(len(rank_of)))
    return Placement((stages,), rank_of, stages)


def straight(pp: int) -> Placement:
    """One stage a rank: stage s on rank s."""
    return looped(pp, 1)


@lru_cache(maxsize=256)
def looped(pp: int, stages_per_rank: int) -> Placement:
    """Stage s on rank s mod p (Megatron's interleaving, breadth-first)."""
    return _single_chain(tuple(s % pp for s in range(pp * stages_per_rank)))


def vee(pp: int) -> Placement:
    """Two stages a rank, down and up again: stage s on rank s, then on rank 2p-1-s (ZB-V, DualPipeV)."""
    return _single_chain(tuple(s if s < pp else 2 * pp - 1 - s for s in range(2 * pp)))


def mirrored(pp: int) -> Placement:
    """Two chains over the same parts in opposite directions (DualPipe): stage p+s holds part s on rank p-1-s."""
    down, up = tuple(range(pp)), tuple(range(pp, 2 * pp))
    return Placement((down, up), down + tuple(reversed(down)), down + down)
