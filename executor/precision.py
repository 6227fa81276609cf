"""Precision: the types that a run's numbers have, by what its layout and software say."""

import torch

from parsim.errors import LayoutError
from parsim.spec import Run

__all__ = ["activation_dtype", "autocast_dtype", "gradient_dtype", "master_dtype", "parameter_dtype"]

_DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def parameter_dtype(run: Run) -> torch.dtype:
    """Type of the weights: bf16 runs keep them in `software.params_dtype`. LayoutError for fp16 and fp8."""
    precision = run.layout.precision
    if precision not in _DTYPES:
        raise LayoutError(f"layout.precision {precision}: the executor plays {', '.join(_DTYPES)}")
    return _DTYPES[run.software.params_dtype] if precision == "bf16" else _DTYPES[precision]


def activation_dtype(run: Run) -> torch.dtype:
    """Type of what stages hand to each other: that of the weights (autocast keeps the residual stream in it)."""
    return parameter_dtype(run)


def autocast_dtype(run: Run) -> torch.dtype | None:
    """bf16 where matmuls compute in it with fp32 weights; else None."""
    return torch.bfloat16 if run.layout.precision == "bf16" and parameter_dtype(run) is torch.float32 else None


def gradient_dtype(run: Run) -> torch.dtype:
    """Type in which gradients are summed and reduced: `software.gradient_dtype`, never narrower than the weights."""
    wanted, weights = _DTYPES[run.software.gradient_dtype], parameter_dtype(run)
    return weights if weights.itemsize > wanted.itemsize else wanted


def master_dtype(run: Run) -> torch.dtype:
    """Type in which the optimizer steps: fp32 copies of bf16 weights if `software.master_weights` says so."""
    weights = parameter_dtype(run)
    return torch.float32 if run.software.master_weights == "fp32" and weights.itemsize < 4 else weights
