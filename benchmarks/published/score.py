"""Score: predictions against published measurements, errors as the format defines them.

    python benchmarks/published/score.py predictions.json --data FILE [--json FILE|-] [--worst N]

The main figure is the mean over groups of the mean absolute error of step time, over core records (measured on
hardware, one record a configuration, plain models). Layers, memory and bubble rates stand apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from records import DATA, Record, read_records
from scoring import Error, errors_of, figures, grouped, measured_of, pairs, reason_of

from parsim.errors import ParsimError, SpecError
from parsim.files import parse_json_text, read_text, write_all

_NAMES = {"step_time_s": "step", "peak_mem_gib": "memory", "bubble_rate": "bubble"}


def summary(predictions: Mapping[str, Mapping[str, float]], records: Sequence[Record], worst: int) -> dict[str, Any]:
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
        "memory": {"all": figures(memory), **_by(memory, "software", "framework")},
        "bubble": {"all": figures(bubbles), **_by(bubbles, "layout", "schedule")},
        "coverage": _coverage(errors, records),
        "worst": [_row(e) for e in sorted(core, key=lambda e: -abs(e.value))[:worst]],
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


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The summary as a table in text."""
    head = f"{'n':>5}{'macro':>8}{'mean':>8}{'p90':>8}{'max':>8}{'bias':>8}"
    for section in ("step", "layer", "by group", "by gpu", "by precision", "memory", "bubble"):
        rows = {name: row for name, row in found[section].items() if row["n"]}
        if rows:
            yield f"{section + (', points' if section == 'bubble' else ', %'):28}{head}"
            for name, row in rows.items():
                values = "".join(f"{row[key]:8.2f}" for key in ("macro", "mean", "p90", "max", "bias"))
                yield f"  {name:26}{row['n']:5}{values}"
    pair = found["pairs"]
    if pair["n"]:
        yield f"faster of two layouts picked in {pair['right']} of {pair['n']} pairs ({pair['percent']} %)"
    for name, row in found["coverage"].items():
        yield f"coverage {name}: {row['predicted']} of {row['measured']}"
    for row in found["worst"]:
        yield f"{row['percent']:+7.1f} %  {row['id']} ({row['gpu']}): {row['reason']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="records in the format of published.yaml")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    parser.add_argument("--worst", type=int, default=10, help="how many of the largest errors to list")
    arguments = parser.parse_args()
    try:
        records = read_records(arguments.data)
        predictions = parse_json_text(read_text(arguments.predictions, "predictions"))
        if not isinstance(predictions, dict):
            raise SpecError(f"{arguments.predictions}: a mapping of ids to figures")
        found = summary(predictions, records, arguments.worst)
        text = json.dumps(found, indent=1) + "\n"
        if arguments.json and arguments.json != "-":
            write_all({Path(arguments.json): text})
    except (ParsimError, ValueError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text if arguments.json == "-" else "".join(f"{line}\n" for line in lines(found)))


if __name__ == "__main__":
    main()
