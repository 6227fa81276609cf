"""What torchtitan and accelerate share: PyTorch's FSDP, with shards and replicas of dp, and its context parallelism."""

from parsim.exchange.table import Entry, Say, worded
from parsim.spec import Run

__all__ = ["ROTATIONS", "keeps_gathered", "rotation", "shard_degree"]

ROTATIONS = {"ring": "alltoall", "allgather": "allgather"}  # keys and values go round by all-to-alls
"""The word of each way in which keys and values come to the ranks of cp."""


def shard_degree(run: Run, say: Say) -> int:
    """How many ranks of a sharded run's dp share a copy of the parameters: FSDP also shards over all of cp."""
    mesh = run.layout.mesh
    ranks = run.layout.zero_group or mesh.dp * mesh.cp
    if ranks % mesh.cp:
        say("layout.zero_group", f"FSDP shards over whole groups of cp {mesh.cp}: over all ranks is written")
        return mesh.dp
    return ranks // mesh.cp


def keeps_gathered(run: Run) -> bool:
    """Whether parameters that a forward has gathered stay for its backward, which is as near as FSDP gets to ZeRO 1 or
    2.
    """
    return run.layout.zero_stage < 3 or not run.layout.reshard_after_forward


def rotation(name: str) -> Entry:
    """`layout.cp_comm` as a setting of this name."""
    return worded("layout.cp_comm", name, ROTATIONS, "allgather")
