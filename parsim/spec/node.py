"""NodeSpec: a server, its GPUs and their ways out."""

from typing import Annotated

from pydantic import Field

from parsim.spec.base import ByName, Count, Name, Spec
from parsim.spec.evidence import EvidenceMap
from parsim.spec.gpu import GpuSpec
from parsim.spec.quantity import Bytes, BytesPerSecond, Seconds

__all__ = ["NodeSpec"]


class NodeSpec(Spec):
    """A node. Rates of links count one direction."""

    name: Name
    gpu: Annotated[GpuSpec, ByName()]
    gpus: Count
    """GPUs in a node."""
    nvlink_domain: Count
    """GPUs that reach each other over NVLink: those of a node, or of a rack of nodes (72 for NVL72)."""
    nics: Count
    nic_bytes_per_s: BytesPerSecond
    """One NIC, one direction."""
    nic_latency_s: Seconds
    """One hop between nodes, as a collective sees it."""
    nvlink_latency_s: Seconds
    """One hop between GPUs of an NVLink domain, as a collective sees it."""
    host_memory_bytes: Bytes | None = None
    """The node's own memory; None: not known."""
    host_memory_bytes_per_s: BytesPerSecond | None = None
    """What all of its channels read or write together; None: not known."""
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    @property
    def nic_bytes_per_s_per_gpu(self) -> float:
        """The node's network rate shared by its GPUs, bytes/s in one direction."""
        return self.nics * self.nic_bytes_per_s / self.gpus
