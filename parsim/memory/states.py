"""What a rank holds all through the step: parameters, gradients, optimizer states and the framework's buffers.

Bytes per parameter of mixed-precision Adam (1910.02054): 2 weight, 2 or 4 gradient, 4 master, 4 + 4 moments. ZeRO
divides by the D ranks that share one set of states: stage 1 the optimizer, 2 also gradients, 3 also weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parsim.errors import LayoutError
from parsim.memory.ledger import tokens_of
from parsim.model.weights import Weight, parameters_of_rank
from parsim.spec import Run

__all__ = ["BytesPerParameter", "bytes_per_parameter", "framework_buffers", "state_bytes"]

_MOMENTS = {"adam": 2, "lamb": 2, "sgd": 0, "momentum": 1}  # numbers kept per parameter: fp32, in fp64 runs fp64
_PYTORCH_PIPELINING = frozenset({"torchtitan"})
_GEMM_WORKSPACE = 64 * 2**20  # cuBLAS and Transformer Engine; measured on Megatron-core runs


@dataclass(frozen=True)
class BytesPerParameter:
    """Bytes per parameter a rank holds, ZeRO already applied."""

    parameters: float
    gradients: float
    optimizer: float


def bytes_per_parameter(run: Run) -> BytesPerParameter:
    """What the run's software and ZeRO stage cost per parameter of this rank (before ZeRO: 18 by default)."""
    software, layout = run.software, run.layout
    if software.optimizer not in _MOMENTS:
        raise LayoutError(
            f"software.optimizer {software.optimizer!r}: its states are not modelled; {', '.join(_MOMENTS)} would do"
        )
    moment_bytes = 8 if layout.precision == "fp64" else 4
    shards = layout.zero_group or layout.mesh.dp * layout.mesh.cp
    zero = layout.zero_stage
    return BytesPerParameter(
        parameters=software.parameter_bytes / (shards if zero >= 3 else 1),
        gradients=software.gradient_bytes / (shards if zero >= 2 else 1),
        optimizer=(software.master_bytes + moment_bytes * _MOMENTS[software.optimizer]) / (shards if zero >= 1 else 1),
    )


def state_bytes(run: Run, weights: Sequence[Weight]) -> dict[str, float]:
    """Bytes by category of the states of these weights on one tensor-parallel rank."""
    dense, expert = parameters_of_rank(weights, tp=run.layout.mesh.tp)
    count, each = dense + expert, bytes_per_parameter(run)
    return {
        "parameters": count * each.parameters,
        "gradients": count * each.gradients,
        "optimizer": count * each.optimizer,
    }


def framework_buffers(
    run: Run, linears: Sequence[tuple[float, float]], layers: int, receives: int
) -> Mapping[str, float]:
    """Buffers that live all through the step, by category; the stages of the rank receive from `receives` neighbours.

    - `reserve`: GEMM workspaces, and the dummy gradients Transformer Engine returns when the matmul adds the weight
      gradient into the buffer: one 16-bit tensor for each distinct linear shape (out, in) on the rank.
    - `communication`: receive buffers of the pipeline for activations and gradients: one of each in Megatron; in
      PyTorch's pipelining one for every micro-batch and neighbour, so none for activations on the first stage.
    """
    at = tokens_of(run)
    hidden = at.column * run.model.hidden / at.sp
    buffers = run.microbatches * receives if run.software.framework in _PYTORCH_PIPELINING else 2
    communication = buffers * hidden if run.layout.mesh.pp > 1 else 0.0
    reserve = 0.0
    if run.software.framework == "megatron-core":
        reserve += _GEMM_WORKSPACE
        if run.software.fused_weight_gradient and layers:
            reserve += sum(2 * rows * columns for rows, columns in set(linears))
    return {"communication": communication, "reserve": reserve}
