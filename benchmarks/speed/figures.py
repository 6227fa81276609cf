"""What the speed benchmarks share: counts on the command line, what they ran on, and where the figures go."""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["deliver", "machine", "positive"]


def positive(text: str) -> int:
    """A count on the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return value


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {"python": platform.python_version(), "machine": platform.machine()}


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
