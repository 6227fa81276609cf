"""The summary: errors by kind of record, group, GPU and precision, coverage, and the largest with their reason.

The main figure is the mean over groups of the mean absolute error of step time, over core records (measured on
hardware, one record a configuration, plain models). Layers, memory and bubble rates stand apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from memory import is_capped
from records import Record
from scoring import Error, errors_of, figures, grouped, measured_of, pairs, rank_errors, reason_of

__all__ = ["summary"]

_NAMES = {"step_time_s": "step", "peak_mem_gib": "memory", "bubble_rate": "bubble"}


def summary(predictions: Mapping[str, Mapping[str, Any]], records: Sequence[Record], worst: int) -> dict[str, Any]:
    """All figures, in percent; bubble rates in percentage points."""
    errors = list(errors_of(predictions, records))
    steps = [e for e in errors if e.figure == "step_time_s"]
    core = [e for e in steps if e.record["core"]]
    layers = [e for e in errors if e.figure.startswith("layer_") and e.record["core"]]
    bubbles = [e for e in errors if e.figure == "bubble_rate"]
    memory = [e for e in errors if e.figure == "peak_mem_gib"]
    count, right = pairs(steps)
    return {
        "step": {
            "core": figures(core),
            "core dense": figures([e for e in core if not e.is_moe]),
            "core moe": figures([e for e in core if e.is_moe]),
            "core without config_gaps": figures([e for e in core if not e.record.get("config_gaps")]),
            "core with config_gaps": figures([e for e in core if e.record.get("config_gaps")]),
            "not core": figures([e for e in steps if not e.record["core"]]),
        },
        "layer": {
            "core dense": figures([e for e in layers if not e.is_moe]),
            "core moe": figures([e for e in layers if e.is_moe]),
        },
        "by group": _by(core, "group"),
        "by gpu": _by(core, "gpu"),
        "by precision": _by(core, "precision"),
        "pairs": {"n": count, "right": right, "percent": round(100 * right / count, 1) if count else None},
        "memory": {**_memory(memory, list(rank_errors(predictions, records))), **_by(memory, "software", "framework")},
        "bubble": {"all": figures(bubbles), **_by(bubbles, "layout", "schedule")},
        "coverage": _coverage(errors, records),
        "worst": [_row(e) for e in sorted(core, key=lambda e: -abs(e.value))[:worst]],
    }


def _memory(errors: Sequence[Error], ranks: Sequence[Error]) -> dict[str, dict[str, float | int | None]]:
    """Peaks that tell, those whose configuration has gaps, and apart from both: whole GB, which are noise of up to 7 %,
    and rows in which the device's size is what was measured.
    """
    capped = [e for e in errors if is_capped(e.record)]
    whole = [e for e in errors if e not in capped and e.record["software"].get("memory_unit") == "GB"]
    told = [e for e in errors if e not in capped and e not in whole]
    return {
        "without config_gaps": figures([e for e in told if not e.record.get("config_gaps")]),
        "every rank of them": figures([e for e in ranks if not e.record.get("config_gaps")]),
        "with config_gaps": figures([e for e in told if e.record.get("config_gaps")]),
        "whole GB": figures(whole),
        "capped by the device": figures(capped),
        "all": figures(errors),
    }


def _by(errors: Sequence[Error], *path: str) -> dict[str, dict[str, float | int | None]]:
    """Figures by the value of a field, given by its names from the outside in."""

    def value(error: Error) -> str:
        found: Any = error.record
        for name in path:
            found = found.get(name)
        return str(found)

    return {name: figures(found) for name, found in grouped(errors, value).items()}


def _coverage(errors: Sequence[Error], records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Numbers predicted of those that were measured."""
    names = {**_NAMES, "layer_fwd_ms": "layer", "layer_bwd_ms": "layer"}
    found: dict[str, dict[str, int]] = {}
    for record in records:
        for figure in measured_of(record):
            for name in (names[figure], f"{names[figure]}, core") if record["core"] else (names[figure],):
                found.setdefault(name, {"predicted": 0, "measured": 0})["measured"] += 1
    for error in errors:
        name = names[error.figure]
        found[name]["predicted"] += 1
        if error.record["core"]:
            found[f"{name}, core"]["predicted"] += 1
    return dict(sorted(found.items()))


def _row(error: Error) -> dict[str, Any]:
    return {
        "id": error.record["id"],
        "group": error.record["group"],
        "gpu": error.record["gpu"],
        "measured": error.measured,
        "predicted": round(error.predicted, 4),
        "percent": round(100 * error.value, 1),
        "reason": reason_of(error.record),
    }
