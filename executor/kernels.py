"""Kernels: the matmuls and the attention of a run's layers, timed alone on one device, as rows of a layer table.

Each is played a few times before and then `repetitions` times; its seconds are the median. A matmul's gradients are
matmuls of other shapes, so that a list of all shapes holds both; attention's backward is autograd's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch.nn import functional

from executor.device import Device

__all__ = ["DTYPES", "measure_kernels"]

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_WARMUP = 2


def measure_kernels(rows: Iterable[Mapping[str, Any]], device: Device, repetitions: int = 9) -> list[dict[str, Any]]:
    """The rows (of `parsim.cost.layer_table`, without seconds) that can be played here, each with its seconds.

    Left out are other kernels than matmuls and attention, grouped matmuls, lengths that are no whole numbers,
    attention with a window or a context of its own, and types that torch does not multiply.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if device.torch_device.type == "cpu":
        torch.set_num_threads(1)  # as a rank has it
    try:
        found = []
        for row in rows:
            if _is_playable(row):
                torch.set_float32_matmul_precision("high" if row["dtype"] == "tf32" else "highest")
                work = _matmul(row, device) if row["name"] == "matmul" else _attention(row, device)
                found.append({**row, "seconds": median(_times(work, device, repetitions))})
        return found
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _is_playable(row: Mapping[str, Any]) -> bool:
    known = {"matmul", "attention"}
    other = {"experts", "window", "context", "value_dim"} & row.keys()
    whole = all(isinstance(value, int) for key, value in row.items() if key not in ("name", "dtype", "which"))
    return row["name"] in known and row["dtype"] in DTYPES and whole and not other


def _times(work: Callable[[], object], device: Device, repetitions: int) -> list[float]:
    """Seconds of each repetition."""
    for _ in range(_WARMUP):
        work()
    device.synchronize()
    marks = [device.mark()]
    for _ in range(repetitions):
        work()
        marks.append(device.mark())
    seconds: Sequence[float] = device.seconds(marks)
    return [after - before for before, after in pairwise(seconds)]


def _matmul(row: Mapping[str, Any], device: Device) -> Callable[[], object]:
    left = _random((row["rows"], row["inner"]), row, device)
    right = _random((row["inner"], row["cols"]), row, device)
    return lambda: torch.mm(left, right)


def _attention(row: Mapping[str, Any], device: Device) -> Callable[[], object]:
    """Causal attention as the executor's layers have it: each of a group's queries sees the same key and value."""
    backward = row["which"] == "B"
    heads, pairs = row["heads"], row["kv_heads"]
    shapes = [(row["batch"], count, row["seq"], row["head_dim"]) for count in (heads, pairs, pairs)]
    query, key, value = (_random(shape, row, device).requires_grad_(backward) for shape in shapes)

    def forward() -> torch.Tensor:
        groups = heads // pairs
        keys, values = (one if groups == 1 else one.repeat_interleave(groups, 1) for one in (key, value))
        return functional.scaled_dot_product_attention(query, keys, values, is_causal=True)

    if not backward:
        return forward
    mixed = forward()
    gradient = torch.ones_like(mixed)
    return lambda: torch.autograd.grad(mixed, (query, key, value), gradient, retain_graph=True)


def _random(shape: Sequence[int], row: Mapping[str, Any], device: Device) -> torch.Tensor:
    return torch.randn(tuple(shape), device=device.torch_device).to(DTYPES[row["dtype"]])
