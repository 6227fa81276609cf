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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="records in the format of published.yaml")
    parser.add_argument("--json", help="file for the figures, - for standard output")
    parser.add_argument("--html", type=Path, help="file for a page: predicted against measured")
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
    sys.stdout.write(text if arguments.json == "-" else "".join(f"{line}\n" for line in lines(found)))


if __name__ == "__main__":
    main()
