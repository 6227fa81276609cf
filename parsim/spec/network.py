"""NetworkOverrides: what a run says about its cluster's links, in the words of published measurements."""

from typing import Any, Literal

from parsim.spec.base import Count, Spec
from parsim.spec.cluster import ClusterSpec, FabricKind
from parsim.spec.evidence import Evidence
from parsim.spec.quantity import Gbps

__all__ = ["NetworkOverrides"]

_STATED = Evidence(grade="assumed", source="stated by the run file")


class NetworkOverrides(Spec):
    """Overrides of the cluster's node and fabric; None leaves the catalogue's value."""

    nic_gbps_per_gpu: Gbps | None = None
    """Gb/s in one direction and per GPU: the node's NICs together over its GPUs."""
    nics_per_node: Count | None = None
    """Where it differs from the GPUs of the node."""
    nvlink_domain: Count | None = None
    gpus_per_node: Count | None = None
    fabric: FabricKind | Literal["unknown"] | None = None

    def applied_to(self, cluster: ClusterSpec) -> ClusterSpec:
        """The cluster with these overrides; applying them again changes nothing."""
        node, values = cluster.node, dict[str, Any]()
        gpus = self.gpus_per_node or node.gpus
        if self.gpus_per_node:
            values["gpus"] = gpus
            if node.nvlink_domain == node.gpus:
                values["nvlink_domain"] = gpus
        if self.nvlink_domain:
            values["nvlink_domain"] = self.nvlink_domain
        if self.nic_gbps_per_gpu:
            nics = self.nics_per_node or gpus
            values |= {"nics": nics, "nic_bytes_per_s": self.nic_gbps_per_gpu * 1e9 / 8 * gpus / nics}
        elif self.nics_per_node:
            values["nics"] = self.nics_per_node
        if not values and self.fabric in (None, "unknown"):
            return cluster
        evidence = type(node).model_validate(
            {**node.model_dump(), **values, "evidence": {**node.evidence, **dict.fromkeys(values, _STATED)}}
        )
        updated: dict[str, Any] = {"node": evidence}
        if self.fabric not in (None, "unknown"):
            updated["fabric"] = cluster.fabric.model_copy(update={"kind": self.fabric})
        return cluster.model_copy(update=updated)
