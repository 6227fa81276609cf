"""Rates: how fast one GPU of a run is, read from its file once."""

from dataclasses import dataclass, replace

from parsim.cost.constants import Constants
from parsim.errors import LayoutError
from parsim.spec import Run

__all__ = ["Rates", "layer_rates_of", "rates_of"]

_SHARED = {"flash3": "cudnn", "fp16": "bf16"}  # one efficiency for both


@dataclass(frozen=True)
class Rates:
    """`peak` and `hbm` are datasheet rates, shares are of them; `attention` is 0 where unfused attention runs.

    `cast`: operands are cast before they are multiplied; `scaling` is what a matmul's scales cost beyond one for a
    tensor. `deterministic` is what a flash backward takes over the usual one.
    """

    peak_flops_per_s: float
    matmul: float
    attention: float
    hbm_bytes_per_s: float
    hbm: float
    sms: int
    launch_s: float
    word_bytes: int = 2
    cast: bool = False
    scaling: float = 1.0
    deterministic: float = 1.0

    @property
    def memory_bytes_per_s(self) -> float:
        """What elementwise kernels reach."""
        return self.hbm_bytes_per_s * self.hbm


def rates_of(run: Run, constants: Constants) -> Rates:
    """The rates of a run's GPU outside the layers' matmuls: for its precision, or 16 bit where that is fp8 or fp4.

    Efficiencies are of sustained runs, and a short benchmark that its file calls not throttled is faster on GPUs with
    fp8 (Ampere never throttled). Raises LayoutError where the GPU's file has no rate or no efficiency for them.
    """
    gpu, precision = run.cluster.node.gpu, "bf16" if _narrow(run) else run.layout.precision
    blackwell = "fp4" in gpu.flops_per_s
    deterministic = constants.deterministic_blackwell if blackwell else constants.deterministic_backward
    share = _matmul_share(run, precision, constants)
    return Rates(
        peak_flops_per_s=gpu.peak_flops_per_s(precision),
        matmul=share,
        attention=_attention_share(run),
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        hbm=gpu.efficiency.hbm,
        sms=gpu.sm_count,
        launch_s=gpu.launch_s,
        word_bytes=run.layout.word_bytes,
        deterministic=deterministic if run.software.deterministic_attention else 1.0,
    )


def layer_rates_of(run: Run, constants: Constants) -> Rates:
    """The rates of the layers' matmuls, which alone run in fp8 or fp4. Raises as `rates_of`."""
    rates, precision = rates_of(run, constants), run.layout.precision
    if not _narrow(run):
        return rates
    dtype = "fp4" if precision == "nvfp4" else "fp8"
    scaling = {
        "fp8-rowwise": constants.rowwise,
        "fp8-blockwise": constants.blockwise,
        "fp8-fine-grained": constants.blockwise,
    }
    return replace(
        rates,
        peak_flops_per_s=run.cluster.node.gpu.peak_flops_per_s(precision),
        matmul=_matmul_share(run, dtype, constants),
        cast=True,
        scaling=scaling.get(precision, 1.0),
    )


def _narrow(run: Run) -> bool:
    return "fp8" in run.layout.precision or "fp4" in run.layout.precision


def _matmul_share(run: Run, dtype: str, constants: Constants) -> float:
    gpu = run.cluster.node.gpu
    shares = {str(name): share for name, share in gpu.efficiency.matmul.items()}
    share = shares.get(_SHARED.get(dtype, dtype))
    if share is None:
        known = ", ".join(shares) or "no precision"
        raise LayoutError(
            f"layout.precision {run.layout.precision}: no matmul efficiency for it on {gpu.name}; {known} would do"
        )
    return share if run.software.throttled or "fp8" not in gpu.flops_per_s else share / constants.unthrottled


def _attention_share(run: Run) -> float:
    gpu, kernel = run.cluster.node.gpu, str(run.software.attention)
    if kernel == "unfused":
        return 0.0
    shares = {str(name): share for name, share in gpu.efficiency.attention.items()}
    if kernel == "unfused_sinks":  # a flash kernel's work, and the sinks' beside it
        return next(iter(shares.values()))
    found = shares.get(kernel, shares.get(_SHARED.get(kernel, "")))
    if found is None:
        known = ", ".join([*sorted(shares), "unfused"])
        raise LayoutError(f"software.attention {kernel}: no efficiency for it on {gpu.name}; {known} would do")
    return found
