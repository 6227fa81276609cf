"""Tables for the terminal, of the JSON documents of `schedule`, `simulate` and `compare`.

Rich is imported when a table is made. Names that come from outside are never read as markup.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parsim.metrics import BUBBLE_DEFINITIONS
from parsim.report.columns import heading, open_console, pairs, print_table
from parsim.report.explanation_table import budget_lines, flop_lines, print_waterfall
from parsim.report.memory_table import memory_lines, print_ledger, print_remedies
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bubble_lines", "print_comparison", "print_rows", "print_schedule", "print_schedules", "print_simulation"]

_MOST_ROWS = 64
_BUBBLES = {"of_makespan": "of makespan", "of_span": "of span", "over_ideal": "over ideal"}
_SHORT = {"parameters": "params", "gradients": "grads", "communication": "comm", "temporaries": "temp"}


def print_schedule(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """One schedule: its makespan and bubbles, and a line for each rank."""
    console = console or open_console()
    heading(console, _size(document), f"times {_times(document['times'])}")
    pairs(
        console,
        [
            ("makespan", f"{document['makespan']:g}", f"ideal {document['ideal']:g}: the work of the busiest rank"),
            *bubble_lines(document),
        ],
    )
    rows = [
        [
            str(row["rank"]),
            f"{row['busy']:g}",
            f"{row['idle']:g}",
            f"{row['span']:g}",
            f"{row['peak_activations']:g}",
        ]
        for row in document["per_rank"]
    ]
    print_table(
        console,
        ["rank", "busy", "idle", "span", "peak activations"],
        rows,
        "idle = makespan - busy; span: from the latest possible first start to the last end; "
        "activations: of one stage and micro-batch, from F to B or W",
    )


def print_schedules(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """All schedules of one size: a line for each, the least over its ideal first, and why others are not there."""
    console = console or open_console()
    played = sorted(document["schedules"], key=lambda one: (one["bubble"]["over_ideal"], one["schedule"]))
    first = played[0]
    heading(
        console,
        f"{first['pp']} pipeline ranks, {first['microbatches']} micro-batches",
        f"times {_times(first['times'])}",
    )
    rows = [
        [
            one["schedule"],
            str(one["stages_per_rank"]),
            f"{one['makespan']:g}",
            *(f"{one['bubble'][name]:.1%}" for name in _BUBBLES),
            f"{max(row['peak_activations'] for row in one['per_rank']):g}",
        ]
        for one in played
    ]
    print_table(
        console,
        ["schedule", "stages/rank", "makespan", *(f"bubble {name}" for name in _BUBBLES.values()), "peak activations"],
        rows,
        "times are those of one stage: compare makespans and activations of equal stages/rank only; " + _definitions(),
        words=1,
    )
    for refused in document.get("refused", ()):
        console.print(f"not here: {refused['schedule']}: {refused['reason']}", style="dim", markup=False)


def print_simulation(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """A predicted step: the headline, where the time goes, and a line for each rank with its memory by category."""
    console = console or open_console()
    for warning in document.get("warnings", ()):
        console.print(f"warning: {warning}", style="yellow", markup=False)
    step = document["step_time_s"]
    pairs(
        console,
        [
            ("step time", format_seconds(step), f"{document['tokens_per_s']:,.0f} tokens/s"),
            (
                "model FLOP/s",
                f"{document['model_tflops_per_gpu']:.4g} TFLOP/s",
                f"per GPU, {document['tokens_per_s_per_gpu']:,.0f} tokens/s per GPU",
            ),
            ("MFU", _share(document["mfu"]), "model FLOP/s over the GPU's peak in the run's precision"),
            *(flop_lines(document) if "flops" in document else ()),
            *bubble_lines(document),
            *memory_lines(document),
        ],
    )
    if document.get("budget"):
        console.print("\ntoken budget", style="bold")
        pairs(console, budget_lines(document["budget"]))
    if document.get("waterfall"):
        print_waterfall(console, document)
    else:
        _print_shares(console, document)
    _ranks(console, document["per_rank"], step)
    if document.get("memory_ledger"):
        print_ledger(console, document["memory_ledger"])
    if document.get("remedies"):
        print_remedies(console, document["remedies"])
    _groups(console, document.get("process_groups", {}))
    if counts := [f"{len(names)} {grade}" for grade, names in document.get("evidence", {}).items()]:
        console.print(f"evidence of the numbers: {', '.join(counts)}; --json and --html name each", style="dim")


def _print_shares(console: "Console", document: Mapping[str, Any]) -> None:
    """Where the step goes, of a result that does not tell more."""
    step = document["step_time_s"]
    shares = [
        [cause, format_seconds(time), f"{time / step:.1%}" if step else "-"]
        for cause, time in _exposed(document)
        if time
    ]
    print_table(
        console,
        ["where the step goes", "time", "of the step"],
        shares,
        "averaged over pipeline ranks; pipeline is idle time, tp, cp, ep and dp are communication that nothing hides",
        words=1,
    )


def _groups(console: "Console", groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Where the groups of each axis stand, and what one of them has when all run at once."""
    rows = [
        [
            axis,
            f"{group['groups']:,} × {group['ranks']:,}",
            f"{group['nodes']:,}",
            f"{group['nvlink_domains']:,} × {group['ranks_per_domain']}",
            _rate(group["inside_bytes_per_s"]),
            _rate(group["across_bytes_per_s"]),
            group["blocking_tier"] or "-",
        ]
        for axis, group in groups.items()
    ]
    if rows:
        print_table(
            console,
            ["axis", "groups", "nodes", "NVLink domains", "inside", "across", "blocked by"],
            rows,
            "a group's links by data sheet, in one direction, when all groups of its axis talk at once",
            words=1,
        )


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.4g} GB/s"


def print_comparison(
    document: Mapping[str, Any], labels: Sequence[str] = ("a", "b"), console: "Console | None" = None
) -> None:
    """What explains the difference of two recordings or results, the largest term first."""
    console = console or open_console()
    a, b = labels
    total = document["total"]
    ratio = "-" if total.get("ratio") is None else f"{total['ratio']:.4g}"
    heading(console, f"{a} and {b}", f"{total['cause'].replace('_', ' ')}: {b} / {a} = {ratio}")
    rows = [_difference(cause["cause"].replace("_", " "), cause) for cause in [*document["causes"], total]]
    print_table(
        console,
        ["cause", a, b, "difference"],
        rows,
        "seconds, averaged over pipeline ranks; the differences add up to the last line",
        words=1,
    )
    if document.get("ops"):
        ops = [_difference(f"{op['count']} × {op['op']} on rank {op['rank']}", op) for op in document["ops"]]
        print_table(
            console, ["ops that differ most", a, b, "difference"], ops, "seconds over all micro-batches", words=1
        )
    if document.get("numbers"):
        numbers = [_difference(number["number"].replace("_", " "), number) for number in document["numbers"]]
        print_table(console, ["also", a, b, "difference"], numbers, words=1)
    if document.get("differences"):
        fields = [[row["field"], str(row["a"]), str(row["b"])] for row in document["differences"]]
        print_table(console, ["what differs", a, b], fields, words=3)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], console: "Console | None" = None) -> None:
    """Rows that share their keys, a column for each: what `parsim list` prints."""
    console = console or open_console()
    if not rows:
        console.print(f"no {title}", style="dim", markup=False)
        return
    columns = list(rows[0])
    print_table(console, columns, [[str(row[name]) for name in columns] for row in rows], words=1)


def _ranks(console: "Console", ranks: Sequence[Mapping[str, Any]], step: float) -> None:
    categories = [
        name
        for name in dict.fromkeys(name for row in ranks for name in row["memory_by_category"])
        if any(row["memory_by_category"].get(name) for row in ranks)
    ]
    named = any("rank" in row for row in ranks)
    rows = [
        [
            *([str(row.get("rank", "-"))] if named else []),
            str(row["pipeline_rank"]),
            format_seconds(row["busy_s"]),
            f"{row['idle_s'] / step:.1%}" if step else "-",
            format_bytes(row["peak_memory_bytes"]),
            str(row["peak_at"] or "-"),
            *(format_bytes(row["memory_by_category"].get(name, 0.0)) for name in categories),
        ]
        for row in ranks[:_MOST_ROWS]
    ]
    columns = [*(["rank"] if named else []), "pp rank", "busy", "idle", "peak", "during"]
    print_table(
        console,
        [*columns, *(_SHORT.get(name, name) for name in categories)],
        rows,
        "idle: of the step; memory by category is that of the peak, first reached during the named op",
    )
    if len(ranks) > _MOST_ROWS:
        console.print(f"{len(ranks) - _MOST_ROWS:,} more ranks: --json has all", style="dim", markup=False)


def _exposed(document: Mapping[str, Any]) -> list[tuple[str, float]]:
    exposed = sorted(document["exposed_s"].items(), key=lambda item: -item[1])
    compute = document.get("compute_s", document["step_time_s"] - sum(time for _, time in exposed))
    return [("compute", compute), *exposed]


def bubble_lines(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The bubbles of a document with their definitions."""
    definitions = document.get("definitions", BUBBLE_DEFINITIONS)
    return [
        (f"bubble {short}", f"{document['bubble'][name]:.2%}", definitions[name]) for name, short in _BUBBLES.items()
    ]


def _definitions() -> str:
    return "; ".join(f"bubble {short}: {BUBBLE_DEFINITIONS[name]}" for name, short in _BUBBLES.items())


def _difference(name: str, row: Mapping[str, Any]) -> list[str]:
    if name.endswith(" bytes"):
        a, b, delta = (format_bytes(row[key]) for key in ("a", "b", "delta"))
        return [name.removesuffix(" bytes"), a, b, delta if delta.startswith("-") else f"+{delta}"]
    return [name, _number(row["a"]), _number(row["b"]), _number(row["delta"], "+")]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _number(value: float, sign: str = "") -> str:
    """Five digits, and all of those before the point."""
    return f"{value:{sign},.0f}" if abs(value) >= 1e5 else f"{value:{sign}.5g}"


def _size(document: Mapping[str, Any]) -> str:
    stages = document["stages_per_rank"]
    each = f", {stages} stages each" if stages > 1 else ""
    return f"{document['schedule']}: {document['pp']} pipeline ranks{each}, {document['microbatches']} micro-batches"


def _times(times: Mapping[str, Any]) -> str:
    """As `--times` takes them."""
    return ",".join(
        f"{name}={':'.join(f'{t:g}' for t in (value if isinstance(value, list | tuple) else [value]))}"
        for name, value in times.items()
    )
