"""Three memories of one GPU: allocated, reserved, and what the device shows as used.

Allocated is the ledger's. Reserved adds freed blocks that the caching allocator keeps and cannot use: 1.03 to 1.09 of
allocated on 27 Megatron-core runs that report both, 1.05 on average (MooreThreads/SimuMax@4dcaae5). After PyTorch's
loss the block of the 16-bit logits is lost whole, for fp32 ones do not fit into it; 1.02 of the rest then meets what
torchtitan publishes. The device adds the CUDA context and NCCL's buffers, which stand outside the allocator: between 1
and 2 GiB. Near the limit the allocator gives cached blocks back: reserved never passes what the device has left.
"""

__all__ = ["CONTEXT_BYTES", "device_bytes", "limited_bytes", "reserved_bytes"]

CONTEXT_BYTES = 1.5 * 2**30
"""CUDA context and NCCL buffers outside the allocator (evidence: assumed)."""
_OVER_ALLOCATED = 1.05
_BESIDE_LOST_BLOCKS = 1.02


def reserved_bytes(allocated: float, lost: float = 0.0) -> float:
    """What the allocator would reserve on a GPU without limit; `lost` are freed blocks that nothing fits into."""
    return _BESIDE_LOST_BLOCKS * (allocated + lost) if lost else _OVER_ALLOCATED * allocated


def limited_bytes(allocated: float, reserved: float, capacity: float) -> float:
    """What is reserved on a GPU of `capacity` bytes: cached blocks go back before a request fails."""
    return max(allocated, min(reserved, capacity - CONTEXT_BYTES))


def device_bytes(allocated: float, reserved: float, capacity: float) -> float:
    """What such a device shows as used; more than it has where the run does not fit."""
    return limited_bytes(allocated, reserved, capacity) + CONTEXT_BYTES
