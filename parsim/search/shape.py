"""Shape: what decides which plan a layout plays and how large its groups are; Mesh: the degrees of its axes.

A layout of a search is a shape and a point of the switches' grid (see grid).
"""

from typing import NamedTuple

from parsim.spec.split import Split

__all__ = ["Mesh", "Shape"]


class Mesh(NamedTuple):
    """Degrees on `nodes` nodes, and the sequences of a step: the batch as dp can divide it."""

    nodes: int
    tp: int
    cp: int
    dp: int
    pp: int
    ep: int
    expert_tp: int
    sequences: int

    @property
    def gpus(self) -> int:
        return self.tp * self.cp * self.dp * self.pp

    @property
    def holders(self) -> int:
        """Ranks that hold the same weights."""
        return self.cp * self.dp


class Shape(NamedTuple):
    """A mesh, the micro-batch and what its pipeline plays: the schedule with v stages a rank, its layers on parts."""

    mesh: Mesh
    micro_batch_size: int
    schedule: str
    stages_per_rank: int
    split: Split
    layers: tuple[int, ...]
    """Layers of each part."""

    @property
    def microbatches(self) -> int:
        return self.mesh.sequences // (self.mesh.dp * self.micro_batch_size)
