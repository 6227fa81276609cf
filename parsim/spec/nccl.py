"""NcclConstants: the numbers of NCCL's own performance model, one data file for each version of them."""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from parsim.errors import SpecError
from parsim.spec import catalogue
from parsim.spec.base import Count, Name, Spec, StrictMapping
from parsim.spec.problem import validated

__all__ = ["NcclAlgorithm", "NcclConstants", "NcclGeneration", "load_nccl"]

NcclAlgorithm = Literal["tree", "ring", "nvls", "nvls_tree", "collnet"]
NcclLink = Literal["nvlink", "pcie", "net"]

_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_ByProtocol = tuple[_Number, _Number, _Number]
"""LL, LL128, Simple."""
_ByNodes = tuple[_Number, _Number, _Number]
"""One node, two nodes, more."""
_Speeds = Annotated[tuple[_Number, ...], Field(min_length=1)]


class NcclGeneration(Spec):
    """What differs by compute capability; bandwidths in GB/s (1e9 bytes/s)."""

    nvlink_per_link: _Number
    """What NCCL counts on per NVLink, one direction."""
    nvlink_nominal_per_link: _Number
    """What the data sheet says per NVLink, one direction: gives the number of links from a GPU's rate."""
    nvls_efficiency: Annotated[float, Field(ge=0, le=1)]
    """0: no in-switch reduction."""
    speeds_intra: _Speeds
    speeds_inter: _Speeds
    ll_max: _ByNodes
    ring_ll128_per_channel: _ByNodes
    tree_ll128_per_channel: _ByNodes
    tree_per_channel: _ByNodes
    nvls_tree_per_channel: _ByNodes


class NcclConstants(Spec):
    """One version of NCCL's constants; latencies in us, as NCCL writes them."""

    version: Name
    base_latency_us: StrictMapping[NcclAlgorithm, _ByProtocol]
    step_latency_us: StrictMapping[NcclLink, StrictMapping[NcclAlgorithm, _ByProtocol]]
    net_overhead_us: StrictMapping[Literal["intel", "amd"], _Number]
    ring_plateau: _Number
    ring_plateau_bytes: _Number
    tree_correction: tuple[tuple[_Number, ...], tuple[_Number, ...], tuple[_Number, ...]]
    threads: tuple[Count, Count, Count]
    thread_threshold_bytes: tuple[Count, Count, Count]
    max_channels: Count
    generations: StrictMapping[int, NcclGeneration]
    source: Name

    def __hash__(self) -> int:
        return hash(self.version)

    def generation(self, compute_capability: int) -> NcclGeneration:
        """The newest generation that is not newer than a GPU's compute capability (90 for sm_90)."""
        known = [number for number in self.generations if number <= compute_capability] or [min(self.generations)]
        return self.generations[max(known)]


@cache
def load_nccl(version: str = "2.30") -> NcclConstants:
    """A bundled version of the constants. SpecError names those that are there."""
    if version not in catalogue.names("nccl"):
        raise SpecError(f"NCCL {version}: parsim has the constants of {', '.join(catalogue.names('nccl'))}")
    return validated(NcclConstants, dict(catalogue.document("nccl", version)), f"nccl {version}")
