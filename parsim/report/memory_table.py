"""Tables of memory for the terminal: the three memories, the moment of the peak, every byte of a rank, remedies."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parsim.report.columns import pairs, print_table
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Table", "ledger_table", "memory_lines", "print_ledger", "print_remedies", "remedies_table"]

_LEAST = 0.01  # of the peak: what is smaller is told together
_NAMES = {"peak_memory_bytes": "allocated", "peak_reserved_bytes": "reserved", "peak_device_bytes": "device"}


def memory_lines(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The peak with its verdict, and where the document says them the other two memories."""
    verdict = "fits" if document["fits"] else "does not fit"
    if (margin := document.get("memory_margin_bytes")) is not None:
        verdict += f", {format_bytes(abs(margin))} {'left' if margin >= 0 else 'missing'} beside the context"
    yield "peak memory", format_bytes(document["peak_memory_bytes"]), verdict
    definitions = document.get("memory_definitions", {})
    for field, name in _NAMES.items():
        if field in definitions:
            capped = ", which caps it here" if name != "allocated" and document.get("reserved_is_capped") else ""
            meaning = definitions[field].removeprefix(f"{name}: ")
            yield f"  {name}", format_bytes(document[field]), f"{meaning}{capped}"
    if host := document.get("host_memory_bytes_per_node"):
        yield "  on the host", format_bytes(host), definitions["host_memory_bytes_per_node"]
    if (copies := document.get("copies_s")) is not None:
        shown, hidden = (document[name].get("offload", 0.0) for name in ("exposed_s", "hidden_s"))
        beside = f"{format_seconds(shown)} show, {format_seconds(hidden)} hide beside compute"
        yield "  copies", format_seconds(copies), f"of activations, a rank, both ways; of all copies {beside}"


Table = tuple[str, Sequence[str], Sequence[Sequence[str]], str]
"""Title, columns, rows and a note, for a terminal or a page."""


def ledger_table(ledger: Mapping[str, Any]) -> Table:
    """Every byte of one rank at its peak, by name; the small ones together."""
    whole, small = ledger["bytes"], [row for row in ledger["rows"] if row["bytes"] < _LEAST * ledger["bytes"]]
    told = [row for row in ledger["rows"] if row not in small]
    if small:
        rest = sum(row["bytes"] for row in small)
        told.append({"category": "all others", "name": f"{len(small)} of less than {_LEAST:.0%} each", "bytes": rest})
    rows = [[row["category"], row["name"], format_bytes(row["bytes"]), f"{row['bytes'] / whole:.1%}"] for row in told]
    note = (
        f"{ledger['peak']}; activations by the op that reads them in its backward, of all live micro-batches; "
        "--memory-rank shows another rank, --json every name"
    )
    title = f"rank {ledger['pipeline_rank']} at its peak"
    return title, ("category", "what", "bytes", "share"), [*rows, ["all", "", format_bytes(whole), "100.0%"]], note


def remedies_table(remedies: Mapping[str, Any]) -> Table:
    """Changes that would make it fit, the fastest first."""
    rows = [
        [
            format_bytes(remedy["peak_memory_bytes"]),
            format_seconds(remedy["step_time_s"]),
            f"{round(remedy['slower'], 3) + 0.0:+.1%}",
            " ".join(f"--set '{setting}'" for setting in remedy["set"]),
        ]
        for remedy in remedies["changes"]
    ]
    return "what would make it fit", ("peak", "step time", "slower", "what would make it fit"), rows, remedies["note"]


def print_ledger(console: "Console", ledger: Mapping[str, Any]) -> None:
    """The ledger of a rank as a table."""
    title, columns, rows, note = ledger_table(ledger)
    print_table(console, [title, *columns[1:]], rows, note, words=2)


def print_remedies(console: "Console", remedies: Mapping[str, Any]) -> None:
    """The remedies as a table, or that there are none."""
    title, columns, rows, note = remedies_table(remedies)
    if rows:
        print_table(console, columns, rows, note)
    else:
        pairs(console, [(title, "-", note)])
