"""Sharded runs in the words of PyTorch's FSDP, which torchtitan and accelerate share: shards and replicas of dp."""

from parsim.exchange.table import Say
from parsim.spec import Run

__all__ = ["keeps_gathered", "shard_degree"]


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
