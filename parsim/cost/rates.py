"""Rates: how fast one GPU of a run is, read from its file once."""

from dataclasses import dataclass

from parsim.cost.constants import Constants
from parsim.errors import LayoutError
from parsim.spec import Run

__all__ = ["Rates", "rates_of"]

_SHARED = {"flash3": "cudnn", "fp16": "bf16"}  # one efficiency for both


@dataclass(frozen=True)
class Rates:
    """`peak` and `hbm` are datasheet rates, shares are of them; `attention` is 0 where unfused attention runs."""

    peak_flops_per_s: float
    matmul: float
    attention: float
    hbm_bytes_per_s: float
    hbm: float
    sms: int
    launch_s: float
    word_bytes: int = 2

    @property
    def memory_bytes_per_s(self) -> float:
        """What elementwise kernels reach."""
        return self.hbm_bytes_per_s * self.hbm


def rates_of(run: Run, constants: Constants) -> Rates:
    """The rates of a run's GPU for its precision, attention kernel and clock: efficiencies are of sustained runs, and a
    short benchmark that its file calls not throttled is faster on GPUs with fp8 (Ampere never throttled).

    Raises LayoutError where the GPU's file has no rate or no efficiency for them.
    """
    gpu, precision, kernel = run.cluster.node.gpu, run.layout.precision, run.software.attention
    dtype = _SHARED.get(precision, precision)
    share = next((share for name, share in gpu.efficiency.matmul.items() if name == dtype), None)
    if share is None:
        known = ", ".join(gpu.efficiency.matmul) or "no precision"
        raise LayoutError(f"layout.precision {precision}: no matmul efficiency for it on {gpu.name}; {known} would do")
    attention = 0.0
    if kernel != "unfused":
        shares = {str(name): share for name, share in gpu.efficiency.attention.items()}
        found = shares.get(str(kernel), shares.get(_SHARED.get(str(kernel), "")))
        if found is None:
            known = ", ".join([*sorted(gpu.efficiency.attention), "unfused"])
            raise LayoutError(f"software.attention {kernel}: no efficiency for it on {gpu.name}; {known} would do")
        attention = found
    return Rates(
        peak_flops_per_s=gpu.peak_flops_per_s(precision),
        matmul=share if run.software.throttled or "fp8" not in gpu.flops_per_s else share / constants.unthrottled,
        attention=attention,
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        hbm=gpu.efficiency.hbm,
        sms=gpu.sm_count,
        launch_s=gpu.launch_s,
        word_bytes=run.layout.word_bytes,
    )
