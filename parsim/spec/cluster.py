"""ClusterSpec: nodes and the fabric between them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from parsim.errors import SpecError
from parsim.spec.base import ByName, Count, Name, Spec
from parsim.spec.evidence import EvidenceMap
from parsim.spec.node import NodeSpec
from parsim.spec.quantity import BytesPerSecond, Seconds

__all__ = ["ClusterSpec", "Dragonfly", "FabricKind", "FabricSpec", "Tier", "Torus"]

FabricKind = Literal["ib", "roce", "efa", "nvlink", "slingshot", "tcpx", "tcp", "loopback"]


class Tier(Spec):
    """A level of switches: groups of nodes that reach each other below it."""

    name: Name
    nodes: Count
    """Nodes in one group; the last tier's group holds the whole cluster."""
    oversubscription: Annotated[float, Field(strict=True, ge=1, le=1000, allow_inf_nan=False)] = 1.0
    """Bandwidth into the tier over bandwidth out of it towards the next one; 1 does not block."""


class Dragonfly(Spec):
    """Groups of routers: every two routers of a group are linked, and so are every two groups."""

    nodes_per_router: Count
    routers_per_group: Count
    global_links_per_router: Count
    """Links of a router to other groups; a group's are dealt out evenly over all other groups."""
    link_bytes_per_s: BytesPerSecond
    """One link between two routers, one direction."""

    @property
    def most_nodes(self) -> int:
        """Nodes at which each group has one link left for every other group."""
        groups = self.routers_per_group * self.global_links_per_router + 1
        return groups * self.routers_per_group * self.nodes_per_router


class Torus(Spec):
    """A router at each node, linked to its two neighbours in every dimension, the last to the first."""

    dimensions: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)]
    """Routers in each, innermost first; the last grows or shrinks with the number of nodes."""
    link_bytes_per_s: BytesPerSecond
    """One link between two routers, one direction."""


class FabricSpec(Spec):
    """The network between nodes."""

    kind: FabricKind
    topology: Literal["rail_optimised", "fat_tree", "multi_plane", "single", "dragonfly", "torus"]
    """rail_optimised: GPU k of every node on the same leaf switch; multi_plane: a network of its own for each NIC."""
    rails: Count
    tiers: tuple[Tier, ...] = ()
    """From the leaves up; none: nothing in the fabric blocks."""
    dragonfly: Dragonfly | None = None
    torus: Torus | None = None
    switch_latency_s: Seconds | None = None
    """From one switch to the next, with the cable; None: what is usual for the kind."""
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="after")
    def _parts_fit_topology(self) -> Self:
        for name in ("dragonfly", "torus"):
            if (self.topology == name) != (getattr(self, name) is not None):
                have = "needs" if self.topology == name else "has no"
                raise ValueError(f"topology {self.topology} {have} `{name}: {{...}}`")
        if self.tiers and self.topology in ("dragonfly", "torus"):
            raise ValueError(f"topology {self.topology} has no tiers; [] would do")
        for below, above in zip(self.tiers, self.tiers[1:], strict=False):
            if above.nodes % below.nodes:
                fitting = -(-above.nodes // below.nodes) * below.nodes
                raise ValueError(
                    f"tier {above.name} of {above.nodes} nodes is no multiple of tier {below.name} "
                    f"of {below.nodes}; {fitting} would do"
                )
        return self

    @property
    def most_nodes(self) -> int | None:
        """Nodes that a dragonfly has links for; None where the topology sets no bound."""
        return self.dragonfly.most_nodes if self.dragonfly else None


class ClusterSpec(Spec):
    """A cluster of equal nodes."""

    name: Name
    node: Annotated[NodeSpec, ByName()]
    nodes: Count | None = None
    """None: elastic, as many as a mesh asks for. In a Run this is always a number."""
    fabric: FabricSpec
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="after")
    def _fabric_holds_nodes(self) -> Self:
        most = self.fabric.most_nodes
        if self.nodes is not None and most is not None and self.nodes > most:
            raise ValueError(f"nodes {self.nodes}: the dragonfly's global links reach {most} nodes; {most} would do")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of the cluster. SpecError if it is elastic."""
        if self.nodes is None:
            raise SpecError(f"cluster {self.name} is elastic: say how many nodes, for example nodes: 4")
        return self.nodes * self.node.gpus
