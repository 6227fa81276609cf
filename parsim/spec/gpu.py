"""GpuSpec: a GPU type as a data sheet has it, and the shares of its peaks that published runs reach."""

from typing import Literal, get_args

from pydantic import Field

from parsim.errors import LayoutError
from parsim.spec.base import Count, Name, Share, Spec, StrictMapping
from parsim.spec.evidence import EvidenceMap
from parsim.spec.quantity import Bytes, BytesPerSecond, BytesPerSecondOrNone, FlopsPerSecond, Seconds

__all__ = ["Dtype", "Efficiency", "GpuSpec"]

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "fp4"]
FlashKernel = Literal["flash2", "flash3", "cudnn"]


class Efficiency(Spec):
    """Sustained shares of the data sheet's peaks. They were fitted together: use or refit them as a set."""

    matmul: StrictMapping[Dtype, Share]
    """Of `flops_per_s[dtype]`, before tile padding and bytes are counted (cost/)."""
    attention: StrictMapping[FlashKernel, Share] = Field(min_length=1)
    """Of the 16-bit peak, by kernel; the first is the one that frameworks pick on this GPU."""
    nvlink: Share
    nic: Share
    hbm: Share = 0.74


class GpuSpec(Spec):
    """One GPU. Rates are per GPU; those of links count one direction."""

    name: Name
    memory_bytes: Bytes
    hbm_bytes_per_s: BytesPerSecond
    flops_per_s: StrictMapping[Dtype, FlopsPerSecond] = Field(min_length=1)
    """Dense peaks (no sparsity) of matmuls by the type of their operands."""
    nvlink_bytes_per_s: BytesPerSecondOrNone
    """0 if the GPU has no such link."""
    compute_capability: Count | None = None
    """NVIDIA's, times ten (90 for an H100): decides how NCCL sends. None for a GPU that has none."""
    host_link_bytes_per_s: BytesPerSecond
    sm_count: Count
    """Streaming multiprocessors (compute units): tiles of a matmul run in waves of this many."""
    launch_s: Seconds
    """Cost of one kernel that its arithmetic and bytes do not explain."""
    efficiency: Efficiency
    evidence: EvidenceMap = Field(default_factory=dict, validate_default=True)

    def peak_flops_per_s(self, precision: str) -> float:
        """The peak for a precision ("bf16", "mxfp8", "fp8-blockwise", "nvfp4", ...). LayoutError if it has none."""
        dtype = "fp4" if precision == "nvfp4" else "fp8" if "fp8" in precision else precision
        for known in get_args(Dtype):
            if known == dtype and known in self.flops_per_s:
                return self.flops_per_s[known]
        raise LayoutError(
            f"layout.precision {precision}: {self.name} multiplies {', '.join(self.flops_per_s)}; one of these would do"
        )
