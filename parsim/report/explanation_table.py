"""Tables of explanations for the terminal: the waterfall, FLOP with their conventions, a token budget, scaling laws."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from parsim.report.columns import open_console, pairs, print_table
from parsim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["budget_lines", "flop_lines", "hidden_beside", "print_ramp", "print_scaling", "print_waterfall"]

_LEAST = 5e-6  # of the step: less is not listed


def print_waterfall(console: "Console", document: Mapping[str, Any]) -> None:
    """From ideal compute to the step, cause by cause, what compute hides of each, and the slowest stage."""
    from parsim.explanation.waterfall import CAUSES

    reached, lines = 0.0, []
    step, slowest = document["step_time_s"], document.get("slowest_stage")
    for row in document["waterfall"]:
        reached += row["seconds"]
        hidden = hidden_beside(document, row["cause"])
        if max(abs(row["seconds"]), hidden) > _LEAST * step:
            lines.append(
                [
                    row["cause"].replace("_", " "),
                    format_seconds(row["seconds"]),
                    f"{row['share']:.1%}",
                    format_seconds(reached),
                    format_seconds(hidden) if hidden else "",
                    CAUSES.get(row["cause"], "communication that nothing hides"),
                ]
            )
    print_table(
        console,
        ["where the step goes", "time", "of the step", "so far", "hidden", "what it is"],
        lines,
        "from ideal compute to the step, averaged over pipeline ranks; --json has each rank's. Hidden: communication "
        "that ran beside compute, on top of what shows; of the pipeline its messages",
        words=1,
    )
    if slowest is not None:
        console.print(f"slowest: {slowest['text']}\n", markup=False)


def hidden_beside(document: Mapping[str, Any], cause: str) -> float:
    """Seconds of communication that compute hides, of the row of a waterfall where the rest of it shows."""
    seconds: float = document.get("hidden_s", {}).get("pp" if cause == "pipeline" else cause, 0.0)
    return seconds


def flop_lines(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """HFU, and the FLOP of a step by each convention."""
    flops, convention = document["flops"], document["flops"]["convention"]
    if document.get("hfu") is not None:
        yield "HFU", f"{document['hfu']:.1%}", f"hardware FLOP/s over the same peak: {convention['hardware']}"
    yield "FLOP of a step", f"{flops['model']:.4g}", convention["model"]
    if (count := document.get("parameters")) is not None:
        active = "all of them" if count["active"] == count["total"] else f"{count['active'] / 1e9:,.4g} billion"
        yield "parameters", f"{count['total'] / 1e9:,.4g} billion", f"a token meets {active}"
    yield "6 N D", f"{flops['six_n_d']:.4g}", convention["six_n_d"]


def budget_lines(budget: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """A token budget as headline numbers."""
    yield "tokens", f"{budget['tokens']:.4g}", f"{budget['steps']:,} steps"
    yield "days", f"{budget['days']:,.4g}", budget["assumptions"][0]
    yield "GPU-hours", f"{budget['gpu_hours']:,.0f}", ""
    if budget["dollars"] is not None:
        yield "dollars", f"{budget['dollars']:,.0f}", f"at {budget['dollars_per_gpu_hour']:g} a GPU-hour"
    if budget["mwh"] is not None:
        yield "MWh", f"{budget['mwh']:,.4g}", budget["assumptions"][1]
    yield "FLOP", f"{budget['flops']:.4g}", f"model FLOP; 6 N D: {budget['six_n_d']:.4g}"


def print_ramp(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Each size of a growing batch, and what the whole ramp takes."""
    console = console or open_console()
    rows = [
        [
            f"{row['global_batch_size']:,}",
            f"{row['microbatches']:,}",
            f"{row['steps']:,}",
            format_seconds(row["step_time_s"]),
            f"{row['bubble_of_makespan']:.1%}",
            "-" if row["mfu"] is None else f"{row['mfu']:.1%}",
        ]
        for row in (*document["stages"], document["full"])
    ]
    print_table(
        console,
        ["global batch", "micro-batches", "steps", "step", "bubble", "MFU"],
        rows,
        "bubble: of the makespan; the last row is a step of the run's own batch, which follows",
    )
    lost = f"{format_seconds(document['lost_s'])} more than the same sequences in the full batch"
    pairs(
        console,
        [
            (
                "ramp",
                format_seconds(document["seconds"]),
                f"{document['steps']:,} steps, {document['tokens']:.4g} tokens",
            ),
            ("lost", f"{document['lost_s'] / document['seconds']:.1%}", lost),
            ("bubble", f"{document['bubble_of_makespan']:.1%}", "of the whole ramp"),
        ],
    )


def print_scaling(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """What each law says, the one that was asked for first."""
    console = console or open_console()
    rows = [
        [
            row["law"],
            f"{row['parameters']:.4g}",
            f"{row['tokens']:.4g}",
            f"{row['flops']:.4g}",
            f"{row['tokens_per_parameter']:.4g}",
            row["source"],
        ]
        for row in (document, *document["others"])
    ]
    print_table(
        console,
        ["law", "N parameters", "D tokens", "C FLOP", "tokens a parameter", "from"],
        rows,
        "C = 6 N D; laws for the same "
        + ("C" if document["given"] == "flops" else "N, and the compute-efficient model for the C of the first"),
        words=1,
    )
    times = ", ".join(f"{row['law']} {row['tokens_of_8_times']:.3g}" for row in document["growth"])
    lines = [("8 × N", times, "times the tokens")]
    if (hours := document.get("gpu_hours")) is not None:
        lines.append(("GPU-hours", f"{hours:,.0f}", f"on {document['gpu']} at {document['mfu']:.0%} of its bf16 peak"))
    pairs(console, lines)
