"""The score as a page: predicted against measured, tables by group, GPU and precision, the worst with their reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from scoring import Error

from parsim.report.page import Section
from parsim.report.published_plot import PublishedRun, published_page

__all__ = ["page_of"]

_COLUMNS = ("n", "mean of groups", "mean", "90th percentile", "largest", "signed mean")


def page_of(found: Mapping[str, Any], errors: Sequence[Error]) -> str:
    """The page of a summary (`score.summary`) and the errors it was made of."""
    core = [error for error in errors if error.figure == "step_time_s" and error.record["core"]]
    runs = [
        PublishedRun(e.record["id"], e.record["group"], e.record["gpu"], e.measured, e.predicted, e.is_moe)
        for e in core
    ]
    coverage = found["coverage"].get("step, core", {"predicted": 0, "measured": 0})
    pair = found["pairs"]
    facts = [
        _fact("dense step times", found["step"]["core dense"]),
        _fact("with experts", found["step"]["core moe"]),
        _fact("single layers", found["layer"]["core dense"]),
        _fact("layers with experts", found["layer"]["core moe"]),
        ("runs predicted", f"{coverage['predicted']} of {coverage['measured']}", "core records of step time"),
        ("faster of two layouts", f"{pair['right']} of {pair['n']}", "pairs of one job, 5 % or more apart"),
    ]
    worst = [
        [
            row["id"],
            row["gpu"],
            f"{row['measured']:.4g} s",
            f"{row['predicted']:.4g} s",
            f"{row['percent']:+.1f} %",
            row["reason"],
        ]
        for row in found["worst"]
    ]
    sections = [
        _section("Step time", "runs", {**found["step"], **{f"layer, {k}": v for k, v in found["layer"].items()}}),
        Section(
            "The largest errors",
            ("run", "GPU", "measured", "predicted", "error", "likely reason"),
            worst,
            "Likely reason: what the publication does not state, as far as it moves a prediction.",
        ),
        _section("By group", "group", found["by group"]),
        _section("By GPU", "GPU", found["by gpu"]),
        _section("By precision", "precision", found["by precision"]),
        _section("Peak memory", "framework", found["memory"]),
        _section("Bubble rate, points", "schedule", found["bubble"], ""),
        Section(
            "Coverage",
            ("", "predicted", "measured"),
            [[name, row["predicted"], row["measured"]] for name, row in found["coverage"].items()],
        ),
    ]
    return published_page(runs, title="Published training runs, predicted", facts=facts, sections=sections)


def _fact(label: str, row: Mapping[str, Any]) -> tuple[str, str, str]:
    if not row["n"]:
        return label, "-", "none predicted"
    return (
        label,
        f"{row['macro']:.1f} %",
        f"mean of group means of {row['n']}; p90 {row['p90']:.1f}, max {row['max']:.0f}",
    )


def _section(title: str, what: str, rows: Mapping[str, Mapping[str, Any]], unit: str = " %") -> Section:
    """Absolute errors; the last column keeps the sign."""
    names = ("macro", "mean", "p90", "max")
    filled = {name: row for name, row in rows.items() if row["n"]}
    digits = 1 if unit else 2
    cells = [
        [name, row["n"], *(f"{row[key]:.{digits}f}{unit}" for key in names), f"{row['bias']:+.{digits}f}{unit}"]
        for name, row in filled.items()
    ]
    return Section(title, (what, *_COLUMNS), cells)
