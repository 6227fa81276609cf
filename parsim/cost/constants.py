"""Constants of the roofline that belong to no GPU type: fitted together to 409 published timings of 17 publications
(A100 to GB300). They trade off against each other, so they are used, or fitted again, as a set. Evidence: fitted,
unless ASSUMED names it. What belongs to a GPU type stands in its file (`GpuSpec.efficiency`).
"""

from dataclasses import dataclass, fields
from functools import cached_property

__all__ = ["ASSUMED", "FITTED", "Constants"]


@dataclass(frozen=True)
class Constants:
    """One set of fitted constants; shares are of 1, times in seconds."""

    # A matmul: arithmetic, plus its bytes, plus a launch.
    tile_rows: int = 128  # rows of the tile that one SM computes (a fact of the kernels, not fitted)
    tile_cols: int = 256
    wave_weight: float = 0.844  # how much of the loss by unfilled waves and padded tiles shows
    wave_limit: float = 3.0  # beyond this loss a library picks smaller tiles
    unthrottled: float = 0.731  # time of matmuls on Hopper in a benchmark too short to reach the power limit
    matmul_bytes: float = 0.683  # share of operand and result bytes that shows, at the datasheet's memory rate
    cast_bytes: float = 3.0  # of an operand cast to fp8 or fp4: 2 read, 1 written (a fact, not fitted)
    cast_passes: float = 1.44  # how often they are moved, in passes over that
    cast_weights: float = 0.501  # of the cast of weights, done once a step
    rowwise: float = 2.27  # matmul time with a scale for each row over one for a tensor
    blockwise: float = 1.38  # the same with a scale for each block of 128
    grouped: float = 1.01  # matmul time of experts together over one matmul of the same tiles
    grouped_launches: int = 4  # at most, however many experts

    # Attention.
    flash_overhead_tokens: float = 579  # flash kernels slow by 1 + this / seq
    flash_backward_flops: float = 2.5  # flash backward over forward, in FLOP ...
    flash_backward_rate: float = 0.622  # ... and in rate
    head_dim_64: float = 0.783  # rate of flash kernels at head_dim 64 (1 at 128)
    unfused_rate: float = 0.62  # share of peak of the batched matmuls of unfused attention
    unfused_forward_passes: float = 4.88  # bytes moved over the score tensor's bytes, forward
    unfused_backward_passes: float = 3.63
    deterministic_backward: float = 1.41  # flash backward in a fixed order, on Ampere and Hopper
    deterministic_blackwell: float = 6.47  # the same on Blackwell; rests on two measurements
    latent_heads: float = 0.627  # rate of flash kernels at MLA's heads (192 wide, values 128)
    sinks_forward_passes: float = 1.56  # learned sinks outside a flash kernel: passes over the score tensor
    sinks_backward_passes: float = 2.31

    # Work limited by memory: reads and writes of the tensor named, in elements.
    norm_passes: float = 3.65  # norm and residual, of hidden
    rope_passes: float = 0.405  # rotary positions, of the widths of q, k and v
    activation_passes: float = 0.834  # activation, of (g+1) ffn
    dropout_passes: float = 1.16  # a mask and its product, of hidden
    elementwise_backward: float = 1.72  # over forward
    eager_gated: float = 3.87  # RMSNorm, rope and SwiGLU written as separate PyTorch operations
    eager_plain: float = 1.13  # LayerNorm and GELU the same way
    loss_bytes_per_logit: float = 37
    loss_forward_share: float = 0.4
    embedding_bytes: float = 24  # per token and hidden element of a micro-batch, both directions

    # Mixture of experts.
    permute_passes: float = 1.39  # permutation, and its reverse, of the routed tokens' hidden
    router_s: float = 3.31e-05  # scores to a map of tokens: many small kernels

    # Recomputation of modules. Assumed.
    norm_again: float = 0.5  # of a norm's time: without the residual sum
    activation_again: float = 1.0

    # Recomputation of every second matmul (torchtitan's selective op): shares of a forward that run again.
    alternate_matmuls: float = 0.5
    alternate_tensor_parallel: float = 0.5

    # The host: the slower of GPU and host sets the pace, (gpu^6 + host^6)^(1/6).
    host_layer_s: float = 0.00161  # per dense layer and direction
    host_moe_layer_s: float = 0.0042  # per layer with experts
    host_sharpness: float = 6.0
    host_graphs: float = 0.616  # with attention captured in CUDA graphs
    microbatch_s: float = 0.000713  # per micro-batch and stage: loop, zeroing, hooks

    # Tensor parallelism.
    tp_overlapped: float = 0.212  # contention of collectives that Transformer Engine overlaps with matmuls
    tp_async: float = 0.702  # the same for PyTorch's async tensor parallelism
    tp_regather: float = 0.589  # contention of the backward's extra all-gather

    # Context parallelism.
    cp_kernel: float = 0.0292  # flash kernels slow by 1 + this * (cp-1) in a ring: smaller blocks, merged results
    cp_contention: float = 0.12  # of the ring beside the core
    cp_exchange_backward: float = 1.5  # time of Ulysses' exchanges in the backward over the forward

    # Exchanges of context and expert parallelism.
    exchange_nvlink: float = 0.739  # of the data sheet's rate
    exchange_nic: float = 0.881
    exchange_s: float = 2.21e-05
    exchange_rank: float = 0.02  # a call grows by this share for each rank of ep
    ep_contention: float = 0.15  # of an exchange that other micro-batches' compute hides. Assumed.

    # Messages between stages.
    message_nic: float = 0.934  # share of the NIC that one message reaches
    message_nvlink: float = 0.703
    message_s: float = 2.2e-05

    # Data parallelism.
    bucket_elements: float = 40e6
    dp_contention: float = 0.13  # share of an overlapped reduction or gather that shows anyway
    dp_window: float = 0.798  # share of a backward or forward that can hide one
    fsdp_contention: float = 0.226
    fsdp_pipeline: float = 0.365  # share of one gather and one scatter that shows once a step inside a pipeline
    tensor_unit_collectives: int = 12  # per layer, when every tensor is gathered alone (DeepSpeed of 2021)
    tensor_unit_rate: float = 0.453

    # Copies to and from the host. Assumed.
    host_link: float = 0.85  # share of the link's rate in one direction: large copies from pinned memory
    host_memory: float = 0.8  # share of the host memory's rate that streams sustain

    # The end of a step.
    optimizer_bytes: float = 30.0  # read and written per parameter of a rank's share, by Adam with fp32 states
    optimizer_overhead: float = 1.26
    step_s: float = 0.0372
    straggler: float = 0.00733  # per doubling of the number of GPUs beyond 8: stragglers and the flush barrier

    # Contention of communication that one op leaves to another's compute (an overlapped pair). Assumed.
    pair_contention: float = 0.15

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once: prices are remembered by the constants behind them."""
        return hash(tuple(getattr(self, field.name) for field in fields(self)))


FITTED = Constants()

ASSUMED = frozenset(
    {
        "tile_rows",
        "tile_cols",
        "cast_bytes",
        "norm_again",
        "activation_again",
        "ep_contention",
        "pair_contention",
        "host_link",
        "host_memory",
    }
)
"""What was not fitted: facts of the kernels, and what no published run tells apart."""
