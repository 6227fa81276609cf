"""ClusterSpec: nodes and the fabric between them."""

from typing import Annotated, Literal

from pydantic import Field

from parsim.errors import SpecError
from parsim.spec.base import ByName, Count, Name, Spec
from parsim.spec.evidence import EvidenceMap
from parsim.spec.node import NodeSpec

__all__ = ["ClusterSpec", "FabricKind", "FabricSpec", "Tier"]

FabricKind = Literal["ib", "roce", "efa", "nvlink", "tcp", "loopback"]


class Tier(Spec):
    """A level of switches: groups of nodes that reach each other below it."""

    name: Name
    nodes: Count
    """Nodes in one group; the last tier's group holds the whole cluster."""
    oversubscription: Annotated[float, Field(strict=True, ge=1, le=1000, allow_inf_nan=False)] = 1.0
    """Bandwidth into the tier over bandwidth out of it towards the next one; 1 does not block."""


class FabricSpec(Spec):
    """The network between nodes."""

    kind: FabricKind
    topology: Literal["rail_optimised", "fat_tree", "multi_plane", "single"]
    """rail_optimised: GPU k of every node on the same leaf switch; multi_plane: a network of its own for each NIC."""
    rails: Count
    tiers: tuple[Tier, ...] = ()
    """From the leaves up; none: nothing in the fabric blocks."""
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)


class ClusterSpec(Spec):
    """A cluster of equal nodes."""

    name: Name
    node: Annotated[NodeSpec, ByName()]
    nodes: Count | None = None
    """None: elastic, as many as a mesh asks for. In a Run this is always a number."""
    fabric: FabricSpec
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    @property
    def gpus(self) -> int:
        """GPUs of the cluster. SpecError if it is elastic."""
        if self.nodes is None:
            raise SpecError(f"cluster {self.name} is elastic: say how many nodes, for example nodes: 4")
        return self.nodes * self.node.gpus
