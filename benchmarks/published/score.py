"""Score: predictions against published measurements, errors as the format defines them.

    python benchmarks/published/score.py predictions.json --data FILE [--json FILE|-] [--html FILE] [--worst N]

What the figures mean: see summary. `--html` writes one offline page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from page import page_of
from records import DATA, read_records
from scoring import errors_of
from summary import summary

from parsim.errors import ParsimError, SpecError
from parsim.files import parse_json_text, read_text, write_all


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


def markdown(found: Mapping[str, Any]) -> Iterator[str]:
    """The tables of the README, from the same figures."""
    keys = ("macro", "mean", "p90", "max")
    coverage, pair = found["coverage"], found["pairs"]
    yield "| | predicted | " + " | ".join(keys) + " |"
    yield "|---" * 6 + "|"
    named = {f"step, {name}": row for name, row in found["step"].items()}
    named |= {f"layer, {name}": row for name, row in found["layer"].items()}
    named |= {f"peak memory, {name}": row for name, row in found["memory"].items()}
    for name, row in named.items():
        if row["n"]:
            yield f"| {name} | {row['n']} | " + " | ".join(f"{row[key]:.1f}" for key in keys) + " |"
    for section in ("by gpu", "by precision", "by group"):
        yield f"\n| step, core, {section} | n | mean | p90 | signed mean |\n|---|---|---|---|---|"
        for name, row in found[section].items():
            yield f"| {name} | {row['n']} | {row['mean']:.1f} | {row['p90']:.1f} | {row['bias']:+.1f} |"
    bubbles = ", ".join(f"{name} {row['mean']:.2f}" for name, row in found["bubble"].items() if row["n"])
    yield f"\nPairs: {pair['right']} of {pair['n']}. Bubble rates, points: {bubbles}."
    yield "Coverage: " + ", ".join(f"{n} {row['predicted']} of {row['measured']}" for n, row in coverage.items()) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="records in the format of published.yaml")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    parser.add_argument("--html", type=Path, help="file for a page: predicted against measured")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the README")
    parser.add_argument("--worst", type=int, default=10, help="how many of the largest errors to list")
    arguments = parser.parse_args()
    try:
        records = read_records(arguments.data)
        predictions = parse_json_text(read_text(arguments.predictions, "predictions"))
        if not isinstance(predictions, dict):
            raise SpecError(f"{arguments.predictions}: a mapping of ids to figures")
        found = summary(predictions, records, arguments.worst)
        text = json.dumps(found, indent=1) + "\n"
        if arguments.html:
            write_all({arguments.html: page_of(found, list(errors_of(predictions, records)))})
        if arguments.json and arguments.json != "-":
            write_all({Path(arguments.json): text})
    except (ParsimError, ValueError) as error:
        sys.exit(f"error: {error}")
    told = markdown(found) if arguments.markdown else lines(found)
    sys.stdout.write(text if arguments.json == "-" else "".join(f"{line}\n" for line in told))


if __name__ == "__main__":
    main()
