"""Precision of matmuls and gradients in Megatron-LM's flags, and back."""

from typing import Any

from parsim.errors import SpecError
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings
from parsim.spec import Run

__all__ = ["PRECISION"]

_FP8 = {
    "fp8-delayed-scaling": ("hybrid", "delayed"),
    "fp8-tensorwise": ("hybrid", "tensorwise"),
    "fp8-blockwise": ("e4m3", "blockwise"),
    "mxfp8": ("e4m3", "mxfp8"),
}
_LIKE = {"fp8": "fp8-delayed-scaling", "fp8-hybrid": "fp8-delayed-scaling", "fp8-current-scaling": "fp8-tensorwise"}
_LIKE["fp8-fine-grained"] = "fp8-blockwise"
_FP32_GRADIENTS, _BF16_GRADIENTS = "--accumulate-allreduce-grads-in-fp32", "--grad-reduce-in-bf16"


def _precision(run: Run, say: Say) -> Settings:
    precision, gradients = run.layout.precision, run.software.gradient_dtype
    if precision in ("fp32", "tf32", "fp64"):
        return {}  # Megatron's default is fp32
    word = "--fp16" if precision == "fp16" else "--bf16"
    found: dict[str, Any] = {word: True}
    if precision == "nvfp4":
        found |= {"--fp4-format": "e2m1", "--fp4-recipe": "nvfp4"}
    elif precision not in ("bf16", "fp16"):
        recipe = _LIKE.get(precision, precision)
        if recipe != precision:
            say("layout.precision", f"{precision} is Megatron's recipe {_FP8[recipe][1]}")
        if recipe not in _FP8:
            say("layout.precision", f"Megatron has no recipe {precision}: bf16 is written")
        else:
            found |= dict(zip(("--fp8-format", "--fp8-recipe"), _FP8[recipe], strict=True))
    if gradients == "fp32":
        found[_FP32_GRADIENTS] = True
    elif gradients == "bf16" and word == "--bf16":
        found[_BF16_GRADIENTS] = True
    return found


def _read_precision(settings: Settings, say: Say) -> Fields:
    """Gradients are accumulated in fp32 under bf16 unless --grad-reduce-in-bf16, in fp16 under fp16 unless asked."""
    half = [flag for flag in ("--fp16", "--bf16") if settings.get(flag)]
    if len(half) > 1:
        raise SpecError("--fp16 and --bf16: only one of them may be stated")
    fp8, fp4 = settings.get("--fp8-format"), settings.get("--fp4-format")
    if (fp8 or fp4) and "--bf16" not in half:
        raise SpecError(f"{'--fp8-format' if fp8 else '--fp4-format'} needs --bf16 for what is not cast")
    if fp8 and fp4:
        raise SpecError("--fp8-format and --fp4-format: only one of them may be stated")
    if settings.get(_FP32_GRADIENTS) and settings.get(_BF16_GRADIENTS):
        raise SpecError(f"{_FP32_GRADIENTS} and {_BF16_GRADIENTS}: only one of them may be stated")
    precision = half[0].removeprefix("--") if half else "fp32"
    gradients = {"fp16": "fp16", "bf16": "fp32", "fp32": "fp32"}[precision]
    if settings.get(_FP32_GRADIENTS):
        gradients = "fp32"
    elif settings.get(_BF16_GRADIENTS):
        gradients = "bf16"
    return {
        "layout.precision": _eight_bits(fp8, settings.get("--fp8-recipe", "delayed"), say)
        if fp8
        else "nvfp4"
        if fp4
        else precision,
        "software.gradient_dtype": gradients,
    }


def _eight_bits(form: str, recipe: str, say: Say) -> str:
    if form not in ("e4m3", "hybrid"):
        raise SpecError(f"--fp8-format {form}: e4m3 or hybrid")
    known = {recipe: (precision, form) for precision, (form, recipe) in _FP8.items()}
    if recipe not in known:
        raise SpecError(f"--fp8-recipe {recipe}: one of {', '.join(known)}")
    precision, usual = known[recipe]
    if form != usual:
        say("--fp8-format", f"{form} takes as long as {usual}: parsim does not tell them apart")
    return precision


PRECISION = Entry(
    ("layout.precision", "software.gradient_dtype"),
    (
        *(Setting(n, "switch") for n in ("--fp16", "--bf16", _FP32_GRADIENTS, _BF16_GRADIENTS)),
        *(Setting(n, "text") for n in ("--fp8-format", "--fp8-recipe", "--fp4-format", "--fp4-recipe")),
    ),
    _precision,
    _read_precision,
)
