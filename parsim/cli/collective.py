"""`parsim collective`: how long a collective takes on a cluster, size by size, in nccl-tests' terms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parsim.cli.output import Outputs, json_text
from parsim.cli.question import Question, counted, parse_sizes, question_of
from parsim.errors import LayoutError
from parsim.units import format_bytes, format_seconds

__all__ = ["collective_command"]

_MOST_ROWS = 64


def collective_command(
    kind: str,
    cluster: str,
    nodes: int,
    ranks_per_node: int | None,
    sizes: str,
    algorithm: str | None,
    protocol: str | None,
    calibration: Path | None,
    like: str | None,
    graph: Path | None,
    **paths: Path | None,
) -> None:
    """Estimate every size, print the table, write what was asked for."""
    outputs = Outputs(**paths)
    listed = parse_sizes(sizes)
    asked = question_of(kind, cluster, nodes, ranks_per_node, algorithm, protocol, calibration, like, graph)
    rows = [asked.row(size) for size in listed]
    _draw(asked, rows, outputs)
    if outputs.wants("json"):
        outputs.put("json", json_text(rows))  # type: ignore[arg-type]
    outputs.write()
    if not outputs.quiet:
        _print(asked, rows)


def _draw(asked: Question, rows: Sequence[dict[str, Any]], outputs: Outputs) -> None:
    if not outputs.wants("html") and not outputs.wants("png"):
        return
    if asked.reach.ranks == 1:
        raise LayoutError("one rank sends nothing: there is nothing to draw; ask for two ranks or more")
    from parsim.report.bandwidth_plot import bandwidth_figure, bandwidth_page

    plot, title = asked.bandwidths([row["bytes"] for row in rows]), asked.title
    if outputs.wants("html"):
        page = bandwidth_page(
            plot,
            title=title,
            facts=_facts(asked, rows),
            columns=_columns(asked),
            rows=[_cells(row, asked.log is not None) for row in rows],
            notes=[asked.links, *asked.notes],
        )
        outputs.put("html", page)
    if outputs.wants("png"):
        from parsim.report.png import png_bytes

        outputs.put("png", png_bytes(bandwidth_figure(plot, title=title)))


def _facts(asked: Question, rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The smallest and the largest size that was asked for, and where they stand."""
    first, last = min(rows, key=lambda row: row["bytes"]), max(rows, key=lambda row: row["bytes"])
    facts = [
        (
            f"time of {format_bytes(row['bytes'])}",
            format_seconds(row["time_us"] * 1e-6),
            f"{row['algorithm']} {row['protocol']}",
        )
        for row in ((first, last) if first is not last else (last,))
    ]
    bus = f"{last['busbw_gbps']:.4g} GB/s"
    facts.append((f"bus bandwidth at {format_bytes(last['bytes'])}", bus, f"algbw {last['algbw_gbps']:.4g} GB/s"))
    standing = f"{counted(asked.nodes, 'node')}, {counted(asked.reach.domains, 'NVLink domain')}"
    facts.append(("ranks", f"{asked.reach.ranks:,}", standing))
    facts.append(("evidence", last["evidence"], f"links: {asked.reach.kind}"))
    return facts


def _columns(asked: Question) -> list[str]:
    columns = ["bytes", "time", "algbw GB/s", "busbw GB/s", "algorithm", "protocol", "channels", "evidence"]
    if asked.log is not None:
        columns[4:4] = ["measured", "error", "error without log"]
    return columns


def _print(asked: Question, rows: Sequence[dict[str, Any]]) -> None:
    from parsim.report.columns import heading, open_console, print_table

    console = open_console()
    heading(console, asked.title, asked.links)
    print_table(
        console,
        _columns(asked),
        [_cells(row, asked.log is not None) for row in rows[:_MOST_ROWS]],
        "algbw = bytes / time, busbw = algbw × nccl-tests' factor"
        + (f"; the first {_MOST_ROWS} of {len(rows):,} sizes, --json has all" if len(rows) > _MOST_ROWS else ""),
    )
    for note in asked.notes:
        console.print(note, style="dim", markup=False)


def _cells(row: dict[str, Any], measured: bool) -> list[str]:
    cells = [
        format_bytes(row["bytes"]),
        format_seconds(row["time_us"] * 1e-6),
        f"{row['algbw_gbps']:.4g}",
        f"{row['busbw_gbps']:.4g}",
        row["algorithm"],
        row["protocol"],
        str(row["channels"]),
        row["evidence"],
    ]
    if measured:
        has = "measured_us" in row
        cells[4:4] = [
            format_seconds(row["measured_us"] * 1e-6) if has else "-",
            _percent(row["error"]) if has else "-",
            _percent(row["uncalibrated_error"]) if has else "-",
        ]
    return cells


def _percent(share: float) -> str:
    return f"{round(share, 3) or 0.0:+.1%}"  # never -0.0%
