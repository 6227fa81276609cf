"""The terminal's tables of `executor validate` and `executor calibrate`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parsim.report.columns import heading, open_console, pairs, print_table
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_calibration", "print_validation"]

_MOST_OPS = 8


def print_validation(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """The five parts, each with what it is; and the ops that a prediction missed by most."""
    console = console or open_console()
    heading(
        console,
        f"{document['plan']} on {document['ranks']} ranks ({document['device']})",
        "predicted over measured, from the lowest to the highest step; the parts are different things",
    )
    rows = []
    if part := document["gradients"]:
        worst = f"worst tensor {part['worst']}" if part["worst"] else "every tensor the same"
        where = f"{worst}, loss {part['loss_diff']:.1e}; {part['model']}, {part['precision']}"
        rows.append(("gradients", f"{part['max_rel_diff']:.1e}", f"relative difference from a single process: {where}"))
    if part := document["structural"]:
        rows.append(("structural replay", _ratio(part), "measured op times played again: no advance prediction"))
    if part := document["emulated"]:
        rows.append(("emulated", _ratio(part), f"advance prediction, ops sleep, messages are real; {_times(part)}"))
    if part := document["real"]:
        rows.append(("real", _ratio(part), f"prediction from the steps between; {_times(part)}{_noise(part)}"))
    if part := document["memory"]:
        highest = max(part["per_rank"], key=lambda row: row["measured_bytes"])
        worst = f"rank {highest['rank']}: {format_bytes(highest['predicted_bytes'])} predicted"
        note = f"advance prediction of every rank's peak; {worst}, {format_bytes(highest['measured_bytes'])} counted"
        rows.append(("memory", _ratio(part), note))
    pairs(console, rows)
    for name, reason in document["skipped"].items():
        console.print(f"{name}: skipped, {reason}", style="dim", markup=False)
    missed = sorted(document["per_op"], key=lambda row: -abs(row["predicted_s"] - row["measured_s"]))[:_MOST_OPS]
    if missed:
        print_table(
            console,
            ["op", "rank", "predicted", "measured", "ratio"],
            [
                [
                    row["op"],
                    str(row["rank"]),
                    format_seconds(row["predicted_s"]),
                    format_seconds(row["measured_s"]),
                    "-" if row["ratio"] is None else f"{row['ratio']:.3f}",
                ]
                for row in missed
            ],
            f"the ops that were missed by most, of the {'real' if document['real'] else 'emulated'} prediction; "
            "--json lists all",
            words=1,
        )


def _ratio(part: Mapping[str, Any]) -> str:
    return f"{part['ratio']:.3f} ({part['lowest']:.3f} to {part['highest']:.3f})"


def _times(part: Mapping[str, Any]) -> str:
    return f"{format_seconds(part['predicted_s'])} predicted, {format_seconds(part['measured_s'])} measured"


def _noise(part: Mapping[str, Any]) -> str:
    if part["cpu_share"] is None:
        return ""
    verdict = ": too noisy, others had the cores; the ratio tells nothing" if part["too_noisy"] else ""
    return f"; CPU share inside ops {part['cpu_share']:.1%}{verdict}"


def print_calibration(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Seconds of every kind on every stage, of messages, and of collectives where they were measured."""
    console = console or open_console()
    heading(
        console,
        f"{document['plan']} ({document['device']})",
        "medians of single ops by stage; `parsim simulate RUN --cost FILE` plays them",
    )
    ops = document["ops"]
    stages = len(next(iter(ops.values())))
    print_table(
        console,
        ["stage", *ops],
        [
            [str(stage), *("-" if row[stage] is None else format_seconds(row[stage]) for row in ops.values())]
            for stage in range(stages)
        ],
        words=1,
    )
    p2p = document["p2p"]
    found = [("message latency", format_seconds(p2p["latency_s"]), "median of half a round trip, between neighbours")]
    if rate := p2p.get("bytes_per_s"):
        note = f"at the run's messages of {format_bytes(p2p['message_bytes'])}"
        found.append(("message bandwidth", f"{rate / 1e9:.3g} GB/s", note))
    if document["cpu_share"] is not None:
        found.append(("CPU share", f"{document['cpu_share']:.1%}", "of the ops' time; below 90 % others had the cores"))
    pairs(console, found)
    if document["collectives"]:
        print_table(
            console,
            ["collective", "ranks", "size", "time", "algbw GB/s", "busbw GB/s"],
            [
                [
                    row["kind"],
                    str(row["ranks"]),
                    format_bytes(row["bytes"]),
                    format_seconds(row["seconds"]),
                    f"{row['algbw_gbps']:.3f}",
                    f"{row['busbw_gbps']:.3f}",
                ]
                for row in document["collectives"]
            ],
            "busbw as nccl-tests defines it",
            words=1,
        )
