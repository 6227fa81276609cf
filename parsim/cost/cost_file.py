"""The cost file's checks: what its JSON values must be, and whether its run is the one that is to be priced."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from parsim.errors import SpecError
from parsim.spec import Run
from parsim.spec.evidence import Grade

__all__ = ["SCHEMA_VERSION", "check_head", "check_same_run", "non_negative", "number_list"]

SCHEMA_VERSION = "1.0"

_SAME = (
    ("model", "layers"),
    ("model", "hidden"),
    ("model", "heads"),
    ("model", "kv_heads"),
    ("model", "ffn"),
    ("model", "vocab"),
    ("model", "moe"),
    ("model", "mla"),
    ("model", "mtp_layers"),
    ("model", "sliding_window"),
    ("batch", "sequence_length"),
    ("layout", "micro_batch_size"),
    ("layout", "precision"),
    ("layout", "split"),
    ("layout", "recompute"),
    ("layout", "zero"),
    ("layout", "mesh", "tp"),
    ("layout", "mesh", "cp"),
    ("layout", "mesh", "dp"),
    ("layout", "ep"),
    ("layout", "expert_tp"),
    ("layout", "cp_comm"),
)
"""What an op's seconds depend on besides its stage."""


def check_head(document: Mapping[str, Any]) -> None:
    """SpecError unless version and evidence are known ones."""
    version = document.get("schema_version")
    major = SCHEMA_VERSION.partition(".")[0]
    if not isinstance(version, str) or version.partition(".")[0] != major:
        raise SpecError(f"schema_version {str(version)[:40]!r}: this parsim reads {major}.x")
    grade = document.get("evidence", "calibrated")
    if grade not in get_args(Grade):
        raise SpecError(f"cost: evidence {str(grade)[:40]!r} is not one of {', '.join(get_args(Grade))}")


def non_negative(name: str, value: object) -> float:
    """The finite number, not negative, that the field `name` holds; SpecError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= 1e300 or math.isnan(value):
        raise SpecError(f"cost: {name} {str(value)[:40]!r} is not a finite number")
    if value < 0:
        raise SpecError(f"cost: {name} {value:g} is negative; a time or a size is not")
    return float(value)


def number_list(name: str, row: object) -> tuple[float | None, ...]:
    """The numbers by stage of the field `name`; null where nothing was measured. SpecError for anything else."""
    if not isinstance(row, list) or not row:
        raise SpecError(f"cost: {name} must be a list of seconds by stage")
    return tuple(None if value is None else non_negative(f"{name}[{stage}]", value) for stage, value in enumerate(row))


def check_same_run(measured: Mapping[str, Any], run: Run | None) -> None:
    """SpecError that names the first field by which the ops of `run` differ from those that were measured.

    `measured` is a run's document, or empty where the file does not say.
    """
    if run is None or not measured:
        return
    wanted = run.document()
    for path in _SAME:
        was, is_ = _at(measured, path), _at(wanted, path)
        if was is not _ABSENT and was != is_:
            raise SpecError(
                f"cost: was measured with {'.'.join(path)} {_said(was)}, the run has {_said(is_)}; calibrate this run"
            )


_ABSENT = object()


def _at(document: object, path: tuple[str, ...]) -> object:
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            return _ABSENT
        document = document[name]
    return document


def _said(value: object) -> str:
    return "none" if value is None else str(value)[:80]
