"""Tables for the terminal, of the JSON documents of the executor."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parsim.report.columns import heading, open_console, pairs, print_table
from parsim.report.table import bubble_lines
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_measured"]

_MOST_RANKS = 64


def print_measured(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """A measured step: its time and spread, bubbles and losses, and a line for each rank."""
    console = console or open_console()
    times = document["step_times_s"]
    compute = "emulated compute, real messages" if document["emulated"] else "real compute"
    heading(
        console,
        f"{document['plan']} on {document['ranks']} ranks ({document['device']}): {compute}",
        f"{len(times)} steps recorded; ranks below: step {document['recorded_step'] + 1}, the middle one",
    )
    spread = f"from {format_seconds(min(times))} to {format_seconds(max(times))}"
    rows = [
        ("step time", format_seconds(document["step_time_s"]), f"median; {spread}"),
        ("tokens", f"{document['tokens_per_s']:,.0f} tokens/s", ""),
        *bubble_lines(document),
    ]
    if document["losses"]:
        rows.append(("loss", " ".join(f"{loss:.4f}" for loss in document["losses"]), "of every step, warm-up too"))
    if document["cpu_share"] is not None:
        rows.append(("CPU share", f"{document['cpu_share']:.1%}", "of the ops' time; below 90 % others had the cores"))
    pairs(console, rows)
    ranks = document["per_rank"]
    has_memory = any(row["peak_memory_bytes"] is not None for row in ranks)
    print_table(
        console,
        ["rank", "busy", "idle", *(["peak memory"] if has_memory else [])],
        [
            [
                str(row["rank"]),
                format_seconds(row["busy_s"]),
                f"{row['idle_s'] / document['recorded_step_s']:.1%}",
                *([format_bytes(row["peak_memory_bytes"])] if has_memory else []),
            ]
            for row in ranks[:_MOST_RANKS]
        ],
        "idle: of the step; memory: " + document["memory_is"],
    )
