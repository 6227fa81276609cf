"""A layer table out of a trace of torch.profiler (Chrome's JSON), recorded with `record_shapes=True`.

An op of the trace names what ran ("aten::mm"), the shapes and types of its inputs and, where it was recorded on a GPU,
an id that its kernels carry too. A matmul's or an attention core's seconds are those of its kernels, on a CPU those of
the op; of several with one shape the median. Shapes are those of one rank, as the table wants them. A weight gradient
is played as (cols, tokens, inner), whose result is the transposed one of the table's (inner, tokens, cols): the same
work, so it stands for both. Attention counts where it was causal, which the trace says. Kernels limited by memory stay
the roofline's: every framework cuts them differently.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, Protocol

from parsim.cost.layer_table import LayerTable, layer_table_from_document
from parsim.errors import SpecError
from parsim.spec import catalogue, load_gpu

__all__ = ["RecordedEvents", "layer_table_from_trace"]

_DTYPES = {
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "float": "fp32",
    "double": "fp64",
    "c10::Float8_e4m3fn": "fp8",
    "c10::Float8_e5m2": "fp8",
}
_CPU = "local-cpu"


class _Attention(NamedTuple):
    """Where an op has its queries (keys and values follow), its flag of a causal mask, and its heads."""

    query: int
    causal: int
    which: str
    heads_first: bool = True  # [batch, heads, seq, dim], else [batch, seq, heads, dim]


_ATTENTION = {
    "aten::_scaled_dot_product_flash_attention": _Attention(0, 4, "F"),
    "aten::_scaled_dot_product_flash_attention_backward": _Attention(1, 11, "B"),
    "aten::_scaled_dot_product_cudnn_attention": _Attention(0, 6, "F"),
    "aten::_scaled_dot_product_cudnn_attention_backward": _Attention(1, 14, "B"),
    "aten::_scaled_dot_product_efficient_attention": _Attention(0, 6, "F"),
    "aten::_scaled_dot_product_efficient_attention_backward": _Attention(1, 11, "B"),
    "aten::_scaled_dot_product_flash_attention_for_cpu": _Attention(0, 4, "F"),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _Attention(1, 7, "B"),
    "flash_attn::_flash_attn_forward": _Attention(0, 5, "F", False),
    "flash_attn::_flash_attn_backward": _Attention(1, 11, "B", False),
}
_MATMULS = {"aten::mm": 0, "aten::addmm": 1, "aten::_scaled_mm": 0, "aten::_grouped_mm": 0}
"""Which input is the left operand; the right one follows."""

Row = tuple[tuple[str, Any], ...]


class RecordedEvents(Protocol):
    """The events of a trace, one after the other; `header` holds what stands before them, once they have begun."""

    header: Mapping[str, Any]

    def __iter__(self) -> Iterator[dict[str, Any]]: ...


def layer_table_from_trace(events: RecordedEvents) -> LayerTable:
    """The matmuls and attention cores of a trace. SpecError where it has none, or no shapes, or an unknown GPU."""
    played, on_gpu = _played(events)
    found: dict[Row, list[float]] = defaultdict(list)
    for row, launched, lasted in played:
        if seconds := on_gpu.get(launched, 0.0) if on_gpu else lasted:
            found[row].append(seconds)
    if not found:
        raise SpecError(
            "trace: it has no matmul or causal attention with input shapes; record it by "
            "torch.profiler.profile(record_shapes=True)"
        )
    for row in list(found):
        if (other := _transposed(row)) not in found:
            found[other] = found[row]
    kernels = [{**dict(row), "seconds": median(seconds)} for row, seconds in found.items()]
    gpu = _gpu_of(events.header.get("deviceProperties"), bool(on_gpu))
    return layer_table_from_document({"schema_version": "1.0", "gpu": gpu, "kernels": kernels})


def _played(events: Iterable[dict[str, Any]]) -> tuple[list[tuple[Row, Any, float]], dict[int, float]]:
    """The ops that are told apart, each with its id and its own seconds; and the kernels' seconds by that id."""
    played: list[tuple[Row, Any, float]] = []
    on_gpu: dict[int, float] = defaultdict(float)
    for event in events:
        if (lasted := _seconds(event)) <= 0:
            continue
        identity = _args(event).get("External id")
        if event.get("cat") == "kernel" and isinstance(identity, int):
            on_gpu[identity] += lasted
        elif event.get("cat") == "cpu_op" and isinstance(identity, int) and (row := _row(event)) is not None:
            played.append((row, identity, lasted))
    return played, dict(on_gpu)


def _row(event: Mapping[str, Any]) -> Row | None:
    """What an op computed, as a row of a layer table without its seconds; None for what is not told apart."""
    name, args = event.get("name"), _args(event)
    shapes, types = args.get("Input Dims"), args.get("Input type")
    if not isinstance(shapes, list) or not isinstance(types, list) or len(shapes) != len(types):
        return None
    if name in _MATMULS:
        first = _MATMULS[name]
        dtype = _dtype(types, first)
        sides = _sides([_lengths(shape) for shape in shapes[first : first + 2]])
        return None if dtype is None or sides is None else (("name", "matmul"), *sides, ("dtype", dtype))
    if name in _ATTENTION:
        op = _ATTENTION[name]
        flags, dtype = args.get("Concrete Inputs"), _dtype(types, op.query)
        if not isinstance(flags, list) or len(flags) <= op.causal or str(flags[op.causal]) != "True":
            return None
        sizes = _core([_lengths(shape) for shape in shapes[op.query : op.query + 3]], op.heads_first)
        return None if dtype is None or sizes is None else (
            ("name", "attention"), *sizes, ("dtype", dtype), ("which", op.which)
        )  # fmt: skip
    return None


def _sides(shapes: Sequence[tuple[int, ...]]) -> Row | None:
    """rows, inner, cols of [rows, inner] @ [inner, cols]; of [all rows, inner] @ [experts, inner, cols] an expert's."""
    match shapes:
        case [(rows, inner), (also, cols)] if inner == also:
            return (("rows", rows), ("inner", inner), ("cols", cols))
        case [(rows, inner), (experts, also, cols)] if inner == also:
            return (("rows", rows / experts), ("inner", inner), ("cols", cols), ("experts", experts))
    return None


def _core(shapes: Sequence[tuple[int, ...]], heads_first: bool) -> Row | None:
    if len(shapes) != 3 or any(len(shape) != 4 for shape in shapes):
        return None
    query, key, value = shapes if heads_first else [(b, h, s, d) for b, s, h, d in shapes]
    batch, heads, seq, width = query
    return (
        ("batch", batch),
        ("seq", seq),
        ("heads", heads),
        ("kv_heads", key[1]),
        ("head_dim", width),
        ("context", key[2]),
        ("value_dim", value[3]),
    )


def _transposed(row: Row) -> Row:
    """A matmul whose operands have changed places; any other row as it is."""
    sides = dict(row)
    if sides["name"] != "matmul" or "experts" in sides:
        return row
    return tuple({**sides, "rows": sides["cols"], "cols": sides["rows"]}.items())


def _dtype(types: Sequence[object], at: int) -> str | None:
    """The type of two operands, where they are alike."""
    known = {_DTYPES.get(str(name)) for name in types[at : at + 2]}
    return known.pop() if len(known) == 1 else None


def _lengths(shape: object) -> tuple[int, ...]:
    """A shape of positive lengths; () for anything else."""
    if not isinstance(shape, list) or not all(type(length) is int and length > 0 for length in shape):
        return ()
    return tuple(shape)


def _args(event: Mapping[str, Any]) -> Mapping[str, Any]:
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def _seconds(event: Mapping[str, Any]) -> float:
    """What an event lasts; 0 where it does not say."""
    micros = event.get("dur")
    return 1e-6 * float(micros) if isinstance(micros, int | float) and not isinstance(micros, bool) else 0.0


def _gpu_of(devices: object, on_gpu: bool) -> str:
    """The catalogue's name of the device that a trace was recorded on."""
    if not on_gpu:
        return _CPU
    device = devices[0] if isinstance(devices, list) and devices and isinstance(devices[0], dict) else {}
    said = str(device.get("name", "no device"))
    words = set(re.findall(r"[a-z0-9]+", said.casefold()))
    alike = [name for name in catalogue.names("gpus") if name.partition("-")[0] in words]
    if not alike:
        known = ", ".join(catalogue.names("gpus"))
        raise SpecError(f"trace: recorded on {said[:60]!r}, which is none of {known}; a layer table can name its GPU")
    held = device.get("totalGlobalMem")
    size = float(held) if isinstance(held, int) else 0.0
    return min(alike, key=lambda name: abs(load_gpu(name).memory_bytes - size))
