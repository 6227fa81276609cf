"""The planner's answer on a terminal: the certificate, the list, what each rule removed, which families are out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parsim.report.columns import heading, open_console, print_table
from parsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["counts_words", "layout_words", "print_search", "verdict_words"]

_MOST_FAMILIES = 12


def print_search(document: Mapping[str, Any], console: "Console | None" = None) -> None:
    """All of a search's answer."""
    console = console or open_console()
    search = document["search"]
    heading(console, f"{search['model']['name']} on {search['cluster']['name']}", verdict_words(document))
    info = document["run_info"]
    console.print(counts_words(document), markup=False)
    console.print(f"{info['cpu_s']:.1f} s of CPU in this process, {info['wall_s']:.1f} s", style="dim", markup=False)
    if document["top"]:
        _list(console, document["top"], document["robust"])
    for line in _winner(document):
        console.print(line, markup=False)
    if len(document["sizes"]) > 1:
        _sizes(console, document["sizes"])
    if "explanation" in document:
        _explanation(console, document["explanation"])
    if document.get("sensitivity"):
        rows = [
            [row["change"], _seconds(row["step_time_s"]), _percent(row["gain"]), row["note"] or ""]
            for row in document["sensitivity"]
        ]
        print_table(console, ["what more would buy", "step", "gain", ""], rows, words=1)
    if document["rejected"]:
        _rejected(console, document["rejected"])
    for line in document["assumed"]:
        console.print(f"assumed: {line}", style="dim", markup=False)


def verdict_words(document: Mapping[str, Any]) -> str:
    """What is proven, in a line."""
    best = document["best"]
    if best is None:
        return "no layout fits" if document["certified"] else "no layout found in this time"
    found = f"{best['step_time_s']:.4g} s a step"
    if document["certified"]:
        return f"{found}, proven to be the best of {document['space']:,} layouts"
    return f"{found}, at most {document['gap']:.1%} slower than the best of {document['space']:,} layouts"


def counts_words(document: Mapping[str, Any]) -> str:
    """How many layouts there were, and what became of them."""
    removed = ", ".join(f"{rule} {count:,}" for rule, count in document["removed"].items()) or "none"
    bound = "-" if document["bound_s"] is None else f"{document['bound_s']:.4g} s"
    return (
        f"space {document['space']:,}; removed: {removed}; feasible {document['feasible']:,}; "
        f"{document['vectors']:,} cost vectors bounded one by one, {document['played']:,} played; "
        f"no layout beyond the list takes less than {bound}"
    )


def _list(console: "Console", top: Sequence[Mapping[str, Any]], robust: Sequence[Mapping[str, Any]]) -> None:
    jittered = {row["rank"]: [_seconds(row["p50_s"]), _seconds(row["p95_s"])] for row in robust}
    rows = [
        [
            str(number),
            f"{entry['step_time_s']:.4f} s",
            _seconds(entry.get("contended_step_time_s")),
            *jittered.get(number, ()),
            format_bytes(entry["peak_memory_bytes"]),
            layout_words(entry),
        ]
        for number, entry in enumerate(top, 1)
    ]
    quantiles = ["p50", "p95"] if robust else []
    print_table(console, ["", "step", "contended", *quantiles, "memory", "layout"], rows, words=1)


def layout_words(entry: Mapping[str, Any]) -> str:
    """A layout in a line."""
    layout, switches = entry["layout"], entry["switches"]
    mesh = " ".join(f"{axis} {degree}" for axis, degree in layout["mesh"].items() if degree > 1 or axis == "tp")
    experts = "".join(f" {axis} {layout[axis]}" for axis in ("ep", "expert_tp") if layout[axis] > 1)
    stages = f" v {layout['stages_per_rank']}" if layout["stages_per_rank"] else ""
    split = f" {layout['split']}" if layout["split"] != "even" and layout["mesh"]["pp"] > 1 else ""
    schedule = f" {layout['schedule']}{stages}{split}" if layout["mesh"]["pp"] > 1 else ""
    recompute = switches["recompute"]["mode"]
    words = [f"{mesh}{experts}{schedule} mbs {layout['micro_batch_size']} zero {switches['zero']}"]
    words += [f"recompute {recompute}"] if recompute != "none" else []
    words += [switches["tp_comm"].replace("_", " ")] if layout["mesh"]["tp"] > 1 else []
    words += [f"tp overlap {switches['tp_overlap']}"] if switches["tp_overlap"] != "none" else []
    words += [] if switches["dp_overlap"] else ["no dp overlap"]
    words += [name.replace("_", " ") + f" {switches[name]}" for name in ("cp_comm",) if layout["mesh"]["cp"] > 1]
    words += [f"{name.replace('_', ' ')} {switches[name]}" for name in switches if switches[name] in ("nvlink", "nic")]
    words += [name.replace("_", " ") for name in switches if name.startswith("offload_") and switches[name]]
    words += [switches["precision"]] if switches["precision"] != "bf16" else []
    return ", ".join(words)


def _winner(document: Mapping[str, Any]) -> Iterator[str]:
    best = document["best"]
    if best is None:
        return
    if best.get("waterfall"):
        step = sum(row["seconds"] for row in best["waterfall"])
        top = sorted(best["waterfall"], key=lambda row: -row["seconds"])[:5]
        shares = ", ".join(f"{row['cause'].replace('_', ' ')} {row['seconds'] / step:.0%}" for row in top)
        yield f"what binds it: {shares}; {best['slowest_stage']}"
    for note in best.get("notes", ()):
        yield f"note: {note}"
    if document["robust"]:
        first = document["robust"][0]
        yield f"with jitter number {first['rank']} of the list has the least p95, {first['p95_s']:.4g} s"
    contention = document["contention"]
    if contention and contention["played"]:
        proven = "proven the best so" if contention["certified"] else "not proven"
        number = f"number {contention['best'] + 1} of the list"
        yield f"with contention {number} is the fastest of {contention['played']} played, {proven}"
    if "budget" in best:
        budget = best["budget"]
        yield (
            f"all tokens: {budget['days']:.1f} days, {budget['gpu_hours']:,.0f} GPU-hours, {budget['dollars']:,.0f} $, "
            f"{budget['megawatt_hours']:,.0f} MWh"
        )


def _sizes(console: "Console", sizes: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for size in sizes:
        best = size["best"]
        budget = {} if best is None else best.get("budget", {})
        rows.append(
            [
                f"{size['gpus']:,}",
                "-" if best is None else f"{best['step_time_s']:.4f} s",
                f"{budget['days']:.1f}" if budget else "-",
                f"{budget['gpu_hours']:,.0f}" if budget else "-",
                f"{budget['dollars']:,.0f}" if budget else "-",
                f"{budget['megawatt_hours']:,.0f}" if budget else "-",
                "nothing fits" if best is None else layout_words(best),
            ]
        )
    print_table(console, ["GPUs", "step", "days", "GPU-hours", "$", "MWh", "best layout"], rows, words=1)


def _explanation(console: "Console", found: Mapping[str, Any]) -> None:
    heading(console, found["asked"], found["answer"])
    for rule, removed in found["removed"].items():
        console.print(f"{removed['layouts']:,} by {rule}: {removed['because']}", markup=False)
    if "best" in found:
        console.print(
            f"the best of them, number {found.get('rank', '-')}: {found['best']['step_time_s']:.4f} s, "
            f"{layout_words(found['best'])}",
            markup=False,
        )
    for row in found.get("differs", ())[:6]:
        sign = "more" if row["more_s"] > 0 else "less"
        console.print(f"  {row['cause'].replace('_', ' ')}: {format_seconds(abs(row['more_s']))} {sign}", markup=False)


def _rejected(console: "Console", rejected: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [row["family"], f"{row['layouts']:,}", row["rule"], row["detail"], row["nearest"] or "-"]
        for row in rejected[:_MOST_FAMILIES]
    ]
    more = len(rejected) - len(rows)
    note = f"{more} more families in --json" if more else ""
    print_table(console, ["nothing is left of", "layouts", "rule", "why", "what would do"], rows, note, words=1)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f} s"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
