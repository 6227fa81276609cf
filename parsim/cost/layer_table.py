"""A layer table: seconds of kernels that users measured on their own GPU, which go before the roofline.

    {"schema_version": "1.0", "gpu": "h100-80g-sxm", "kernels": [
      {"name": "matmul", "rows": 4096, "inner": 8192, "cols": 10240, "dtype": "bf16", "seconds": 1.1e-3},
      {"name": "attention", "batch": 1, "seq": 4096, "heads": 64, "kv_heads": 8, "head_dim": 128, "dtype": "bf16",
       "which": "F", "seconds": 4e-4},
      {"name": "norm", "elements": 33554432, "dtype": "bf16", "which": "F", "seconds": 8e-5}]}

All lengths are those of one rank and one micro-batch. A matmul is [rows, inner] @ [inner, cols]: with T tokens, inner k
and cols n the forward is (T, k, n), its input gradient (T, n, k), its weight gradient (k, T, n); a grouped one adds
`experts`, rows are then each expert's. Attention is causal; it may add `context` (default: seq), `window`, `value_dim`
(default: head_dim). Other kernels (norm, rope, activation, dropout, embedding, loss, router, permute) go by `elements`,
rows times width (of an activation its inputs and output, of rope queries, keys and values); `which` is F or B. `dtype`
is a run's precision; outside a layer's matmuls fp8 and fp4 runs compute in bf16. Operands are cast beside a matmul: the
roofline adds the cast. A cost file of `python -m executor calibrate --kernels` is such a table too.

Only the very shape is replaced: nothing is interpolated, and a kernel that the table has not stays the roofline's.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from parsim.cost.cost_file import check_head, non_negative
from parsim.errors import SpecError
from parsim.model.dims import Dim, Sizes, length, rows_of
from parsim.model.layer import Elementwise, Matmul, Pass, Role, Work, shape
from parsim.spec import ModelSpec, Run
from parsim.spec.layout import Precision

__all__ = ["KernelShape", "LayerLookup", "LayerTable", "kernel_shape", "layer_table_from_document"]

_REQUIRED: dict[str, tuple[str, ...]] = {
    "matmul": ("rows", "inner", "cols"),
    "attention": ("batch", "seq", "heads", "kv_heads", "head_dim"),
    **{role: ("elements",) for role in get_args(Role)},
}
_OPTIONAL: dict[str, tuple[str, ...]] = {"matmul": ("experts",), "attention": ("context", "window", "value_dim")}


class KernelShape(NamedTuple):
    """What a kernel's time is looked up by: two with equal shapes take the same time. `which` is "" for matmuls."""

    name: str
    lengths: tuple[tuple[str, float], ...]
    dtype: str
    which: str = ""

    def row(self) -> dict[str, Any]:
        """The shape as a row of a table that has no seconds yet."""
        lengths = {name: int(value) if value == int(value) else value for name, value in self.lengths}
        return {"name": self.name, **lengths, "dtype": self.dtype, **({"which": self.which} if self.which else {})}


@dataclass(frozen=True)
class LayerTable:
    """Seconds by shape, measured on the GPU type `gpu`."""

    gpu: str
    seconds: Mapping[KernelShape, float]

    def check_run(self, run: Run) -> None:
        """SpecError if the run's GPU is another."""
        wanted = run.cluster.node.gpu.name
        if self.gpu.casefold() != wanted.casefold():
            raise SpecError(f"layer table: measured on {self.gpu}, the run has {wanted}; measure on that GPU")


@dataclass(frozen=True)
class LayerLookup:
    """What the kernels of one run find in a table, and a record of what they asked for."""

    table: LayerTable
    asked: dict[KernelShape, bool] = field(default_factory=dict)
    """Every shape asked for, and whether the table has it."""
    _named: dict[str, bool] = field(default_factory=dict)

    def seconds(self, name: str, wanted: KernelShape) -> float | None:
        """What the kernel called `name` takes; None where the table does not say."""
        found = self.table.seconds.get(wanted)
        self.asked[wanted] = found is not None
        self._named[name] = self._named.get(name, True) and found is not None
        return found

    @property
    def evidence(self) -> dict[str, str]:
        """The grade of every kernel whose shapes are all in the table."""
        return {f"layers.{name}": "calibrated" for name, is_found in sorted(self._named.items()) if is_found}

    @property
    def note(self) -> str:
        """How many kernels the table replaced, and which it did not."""
        found, left = sum(self.asked.values()), sorted(name for name, known in self._named.items() if not known)
        said = f"layer table: {found} of the run's {len(self.asked)} kernel shapes are measured"
        unused = len(self.table.seconds) - found
        said += f", {unused} of the table's {len(self.table.seconds)} fit none" if unused else ""
        if not left:
            return said
        more = f" and {len(left) - 6} more" if len(left) > 6 else ""
        return f"{said}; by the roofline: {', '.join(left[:6])}{more}"


def kernel_shape(item: Work, sizes: Sizes, which: Pass, model: ModelSpec, precision: Precision) -> KernelShape:
    """The shape of a piece of work in a pass, for local `sizes`."""
    plain = "bf16" if "fp8" in precision or "fp4" in precision else precision
    if isinstance(item, Matmul):
        sides = dict(zip(_REQUIRED["matmul"], shape(item, sizes, which), strict=True))
        if item.experts:
            sides["experts"] = sizes[Dim.EXPERTS]
        return _shape("matmul", sides, precision if item.layer else plain)
    direction = "F" if which == "F" else "B"
    if isinstance(item, Elementwise):
        elements = rows_of(sizes, item.experts) * length(item.width, sizes)
        return _shape(item.role, {"elements": elements}, plain, direction)
    heads = sizes[Dim.QUERY] / model.head_dim
    lengths = {
        "batch": sizes[Dim.BATCH],
        "seq": sizes[Dim.SEQ],
        "heads": heads,
        "kv_heads": heads if model.mla is not None else sizes[Dim.KV] / model.head_dim,
        "head_dim": model.head_dim,
        "context": sizes[Dim.CONTEXT],
        "window": item.window or 0.0,
        "value_dim": sizes[Dim.OUTPUT] / heads,
    }
    return _shape("attention", lengths, plain, direction)


def layer_table_from_document(document: object) -> LayerTable:
    """The table in plain JSON values. SpecError with the first thing wrong, by the row it stands in."""
    if not isinstance(document, dict):
        raise SpecError("not a layer table: the JSON must be an object")
    if "kernels" not in document:
        also = "; `python -m executor calibrate --kernels` measures them" if document.get("kind") == "cost" else ""
        raise SpecError(f'not a layer table: it has no "kernels"{also}')
    check_head(document)
    gpu, rows = document.get("gpu"), document["kernels"]
    if not isinstance(gpu, str) or not gpu.strip():
        raise SpecError('layer table: "gpu" must name the GPU type that it was measured on')
    if not isinstance(rows, list) or not rows:
        raise SpecError('layer table: "kernels" must be a list of at least one measured kernel')
    return LayerTable(gpu.strip(), _by_shape(rows))


def _by_shape(rows: Iterable[object]) -> dict[KernelShape, float]:
    found: dict[KernelShape, float] = {}
    places: dict[KernelShape, int] = {}
    for place, row in enumerate(rows):
        key, seconds = _row(f"kernels[{place}]", row)
        if key in found:
            raise SpecError(
                f"layer table: kernels[{place}] has the shape of kernels[{places[key]}] ({key.name}); "
                "keep one row of a shape, the median of its measurements"
            )
        found[key], places[key] = seconds, place
    return found


def _row(where: str, row: object) -> tuple[KernelShape, float]:
    if not isinstance(row, dict):
        raise SpecError(f"layer table: {where} must be an object")
    name = row.get("name")
    if not isinstance(name, str) or name not in _REQUIRED:
        raise SpecError(f"layer table: {where}.name {str(name)[:40]!r} is not one of {', '.join(_REQUIRED)}")
    required, optional = _REQUIRED[name], _OPTIONAL.get(name, ())
    known = ("name", *required, *optional, "dtype", *(() if name == "matmul" else ("which",)), "seconds")
    for key in row:
        if key not in known:
            raise SpecError(f"layer table: {where}.{str(key)[:40]} is not a field of {name}; it has {', '.join(known)}")
    lengths = {key: _positive(f"{where}.{key}", row.get(key)) for key in required}
    lengths |= {key: _positive(f"{where}.{key}", row[key]) for key in optional if row.get(key) is not None}
    dtype, which = row.get("dtype"), "" if name == "matmul" else str(row.get("which"))
    if dtype not in get_args(Precision):
        raise SpecError(
            f"layer table: {where}.dtype {str(dtype)[:40]!r} is not one of {', '.join(get_args(Precision))}"
        )
    if name != "matmul" and which not in ("F", "B"):
        raise SpecError(f"layer table: {where}.which {which[:40]!r} is not F (forward) or B (backward)")
    return _shape(name, lengths, str(dtype), which), _positive(f"{where}.seconds", row.get("seconds"))


def _positive(name: str, value: object) -> float:
    number = non_negative(name, value)
    if not number:
        raise SpecError(f"layer table: {name} 0: must be more than 0")
    return number


def _shape(name: str, lengths: Mapping[str, float], dtype: str, which: str = "") -> KernelShape:
    """The shape in its one form: what is not said and what says nothing (a window over all) are left out."""
    kept = {key: lengths[key] for key in (*_REQUIRED[name], *_OPTIONAL.get(name, ())) if key in lengths}
    if name == "attention":
        context = kept.get("context", kept["seq"])
        if context == kept["seq"]:
            kept.pop("context", None)
        if not 0 < kept.get("window", 0.0) < context:
            kept.pop("window", None)
        if math.isclose(kept.get("value_dim", kept["head_dim"]), kept["head_dim"]):
            kept.pop("value_dim", None)
    # Lengths that an axis cut are quotients: a digit beyond the sixth is rounding.
    return KernelShape(name, tuple((key, round(float(value), 6)) for key, value in kept.items()), dtype, which)
