"""What the speed benchmarks share: counts on the command line, and where the figures go."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["deliver", "positive"]


def positive(text: str) -> int:
    """A count on the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return value


def deliver(figures: dict[str, Any], where: str | None, print_table: Callable[[dict[str, Any]], None]) -> None:
    """A table; with `--json` JSON instead, into a file, or to the terminal where it is -."""
    if where is None:
        print_table(figures)
        return
    text = json.dumps(figures, indent=2) + "\n"
    if where == "-":
        sys.stdout.write(text)
    else:
        Path(where).write_text(text)
