"""Rates: how fast one GPU of a run is, read from its file once."""

from dataclasses import dataclass, replace
from functools import lru_cache

from parsim.cost.constants import Constants
from parsim.errors import LayoutError
from parsim.spec import GpuSpec, Run, Software
from parsim.spec.layout import Precision

__all__ = ["Rates", "both_rates_of", "layer_rates_of", "rates_of"]

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
    return both_rates_of(run, constants)[0]


def layer_rates_of(run: Run, constants: Constants) -> Rates:
    """The rates of the layers' matmuls, which alone run in fp8 or fp4. Raises as `rates_of`."""
    return both_rates_of(run, constants)[1]


def both_rates_of(run: Run, constants: Constants) -> tuple[Rates, Rates]:
    """The rates outside the layers' matmuls, and theirs. Raises as `rates_of`."""
    layout = run.layout
    return _both_rates(run.cluster.node.gpu, run.software, layout.precision, layout.word_bytes, constants)


@lru_cache(maxsize=1024)
def _both_rates(
    gpu: GpuSpec, software: Software, precision: Precision, word_bytes: int, constants: Constants
) -> tuple[Rates, Rates]:
    narrow = "fp8" in precision or "fp4" in precision
    wide: Precision = "bf16" if narrow else precision
    blackwell = "fp4" in gpu.flops_per_s
    deterministic = constants.deterministic_blackwell if blackwell else constants.deterministic_backward
    rates = Rates(
        peak_flops_per_s=gpu.peak_flops_per_s(wide),
        matmul=_matmul_share(gpu, software, precision, wide, constants),
        attention=_attention_share(gpu, software),
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        hbm=gpu.efficiency.hbm,
        sms=gpu.sm_count,
        launch_s=gpu.launch_s,
        word_bytes=word_bytes,
        deterministic=deterministic if software.deterministic_attention else 1.0,
    )
    if not narrow:
        return rates, rates
    scaling = {
        "fp8-rowwise": constants.rowwise,
        "fp8-blockwise": constants.blockwise,
        "fp8-fine-grained": constants.blockwise,
    }
    return rates, replace(
        rates,
        peak_flops_per_s=gpu.peak_flops_per_s(precision),
        matmul=_matmul_share(gpu, software, precision, "fp4" if precision == "nvfp4" else "fp8", constants),
        cast=True,
        scaling=scaling.get(precision, 1.0),
    )


def _matmul_share(gpu: GpuSpec, software: Software, precision: Precision, dtype: str, constants: Constants) -> float:
    shares = {str(name): share for name, share in gpu.efficiency.matmul.items()}
    share = shares.get(_SHARED.get(dtype, dtype))
    if share is None:
        known = ", ".join(shares) or "no precision"
        raise LayoutError(f"layout.precision {precision}: no matmul efficiency for it on {gpu.name}; {known} would do")
    return share if software.throttled or "fp8" not in gpu.flops_per_s else share / constants.unthrottled


def _attention_share(gpu: GpuSpec, software: Software) -> float:
    kernel = str(software.attention)
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
