"""Parameters: what a fit may move. The constants of the roofline, and the efficiencies in the GPUs' files.

Each parameter is a factor on one number or on several that move together: all GPU types of a generation that have no
published runs of their own share those of the one that has, and so do the 16-bit types of one GPU. `Setting` is the
numbers with their factors, and what turns a run into one at these numbers.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from parsim.cost.constants import ASSUMED, FITTED, Constants
from parsim.spec import GpuSpec, Run, catalogue, load_gpu

__all__ = ["Parameter", "Setting", "owners", "parameters", "touches"]

# Facts of kernels, conventions, and what only ever appears in a product with another constant.
_HELD = ASSUMED | {
    "alternate_matmuls",
    "alternate_tensor_parallel",
    "bucket_elements",
    "flash_backward_flops",
    "host_sharpness",
    "loss_forward_share",
    "optimizer_bytes",
    "wave_limit",
}
_SHARES = ("contention", "nvlink", "nic", "overlapped", "async", "regather", "window", "graphs")
_LIKE = {
    "a100-40g-sxm": "a100-80g-sxm",
    "a800-80g-sxm": "a100-80g-sxm",
    "h200-141g-sxm": "h100-80g-sxm",
    "h800-80g-sxm": "h100-80g-sxm",
}
_SIXTEEN_BIT = ("fp32", "tf32", "bf16", "fp16")
_NOT_FITTED = ("local-cpu", "mi300x")  # no published run on anything like them
_MOST = 0.98  # of a data sheet's peak


class Parameter(NamedTuple):
    """A factor: where its number stands ("constants.step_s", "h100-80g-sxm.attention.cudnn", "gpus.hbm"), the value
    there now, and the largest factor that makes sense."""

    name: str
    value: float
    most: float

    @property
    def owner(self) -> str:
        """constants, gpus (all of them), or one GPU type."""
        return self.name.partition(".")[0]


def parameters(gpus: Iterable[str]) -> tuple[Parameter, ...]:
    """All factors that runs on these GPU types can tell something about."""
    found = []
    for item in fields(Constants):
        value = float(getattr(FITTED, item.name))
        if item.type in (float, "float") and value > 0 and item.name not in _HELD:
            is_share = value < 1 and any(word in item.name for word in _SHARES)
            found.append(Parameter(f"constants.{item.name}", value, (1.0 if is_share else 10 * value) / value))
    types = {_LIKE.get(name, name) for name in gpus}
    for gpu in map(load_gpu, sorted(types)):
        efficiency = gpu.efficiency
        for dtype, share in efficiency.matmul.items():
            if dtype not in _SIXTEEN_BIT or dtype == "bf16":
                found.append(Parameter(f"{gpu.name}.matmul.{dtype}", share, _MOST / share))
        for kernel, share in efficiency.attention.items():
            if kernel != "flash3" or "cudnn" not in efficiency.attention:
                found.append(Parameter(f"{gpu.name}.attention.{kernel}", share, _MOST / share))
        for link in ("nvlink", "nic"):
            share = getattr(efficiency, link)
            found.append(Parameter(f"{gpu.name}.{link}", share, _MOST / share))
    one = load_gpu("h100-80g-sxm")
    found.append(Parameter("gpus.hbm", one.efficiency.hbm, _MOST / one.efficiency.hbm))
    found.append(Parameter("gpus.launch_s", one.launch_s, 10.0))
    return tuple(found)


@dataclass(frozen=True)
class Setting:
    """Factors by the name of their parameter; those not named are 1."""

    factors: Mapping[str, float]

    @cached_property
    def constants(self) -> Constants:
        """The constants with their factors."""
        owned = {name.partition(".")[2]: f for name, f in self.factors.items() if name.startswith("constants.")}
        return replace(FITTED, **{name: getattr(FITTED, name) * factor for name, factor in owned.items()})

    def at(self, run: Run) -> Run:
        """The run on a cluster with these factors."""
        cluster = run.cluster
        node = cluster.node.model_copy(update={"gpu": self.gpu(cluster.node.gpu)})
        return run.model_copy(update={"cluster": cluster.model_copy(update={"node": node})})

    def gpu(self, gpu: GpuSpec) -> GpuSpec:
        """The GPU with these factors."""
        type_of, efficiency = _LIKE.get(gpu.name, gpu.name), gpu.efficiency

        def factor(part: str) -> float:
            return self.factors.get(f"{type_of}.{part}", 1.0)

        updated: dict[str, object] = {
            "matmul": {
                dtype: share * factor(f"matmul.{'bf16' if dtype in _SIXTEEN_BIT else dtype}")
                for dtype, share in efficiency.matmul.items()
            },
            "attention": {
                kernel: share * factor(f"attention.{_kernel(kernel, efficiency.attention)}")
                for kernel, share in efficiency.attention.items()
            },
            "nvlink": efficiency.nvlink * factor("nvlink"),
            "nic": efficiency.nic * factor("nic"),
            "hbm": efficiency.hbm * self.factors.get("gpus.hbm", 1.0),
        }
        return gpu.model_copy(
            update={
                "efficiency": efficiency.model_copy(update=updated),
                "launch_s": gpu.launch_s * self.factors.get("gpus.launch_s", 1.0),
            }
        )

    def moved(self, **factors: float) -> "Setting":
        """With further factors on top."""
        return Setting({**self.factors, **{n: self.factors.get(n, 1.0) * f for n, f in factors.items()}})


def _kernel(name: str, kernels: Container[Any]) -> str:
    return "cudnn" if name == "flash3" and "cudnn" in kernels else name


def touches(parameter: Parameter, gpu: str) -> bool:
    """Whether a parameter could matter on a GPU type at all."""
    return parameter.owner in ("constants", "gpus", _LIKE.get(gpu, gpu))


def owners(parameter: Parameter) -> Iterator[tuple[Path, str]]:
    """The catalogue files, and the fields in them, whose numbers a parameter moves; none for constants."""
    owner, _, name = parameter.name.partition(".")
    if owner == "constants":
        return
    for gpu in catalogue.names("gpus"):
        if gpu in _NOT_FITTED or owner not in ("gpus", _LIKE.get(gpu, gpu)):
            continue
        path, efficiency = catalogue.path_of("gpus", gpu), load_gpu(gpu).efficiency
        room, _, kind = name.partition(".")
        if room == "launch_s":
            yield path, room
        elif room == "matmul":
            same = _SIXTEEN_BIT if kind == "bf16" else (kind,)
            yield from ((path, f"efficiency.matmul.{dtype}") for dtype in efficiency.matmul if dtype in same)
        elif room == "attention":
            kernels = efficiency.attention
            names = [kernel for kernel in kernels if _kernel(kernel, kernels) == kind]
            yield from ((path, f"efficiency.attention.{kernel}") for kernel in names)
        else:
            yield path, f"efficiency.{room}"
