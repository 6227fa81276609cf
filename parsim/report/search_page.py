"""The planner's answer as one offline page: the list against time and memory, its choices side by side, what each
number of GPUs costs, the plan of each finalist, and why everything else is out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parsim.report.gantt import gantt
from parsim.report.page import Section, Still, _document, _facts, _figure, _still, _table
from parsim.report.palette import GRID, INK, MUTED
from parsim.report.search_table import counts_words, layout_words, verdict_words
from parsim.timeline import Timeline
from parsim.units import format_bytes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["search_page"]

_GIB = 2.0**30
_BLUE, _ORANGE = "#2f6fb3", "#c8641e"
_MOST_FAMILIES = 60


def search_page(document: Mapping[str, Any], plans: Sequence[tuple[Mapping[str, Any], Timeline]]) -> str:
    """The page of a search's document; `plans` are finalists, each with its recording."""
    search = document["search"]
    body = [
        _facts(_headline(document)),
        *(_still(f"figure{place}", one) for place, one in enumerate(_figures(document))),
        *(_plan(number, entry, timeline, document) for number, (entry, timeline) in enumerate(plans, 1)),
        *(_table(section) for section in _sections(document) if section.rows),
    ]
    title = f"{search['model']['name']} on {search['cluster']['name']}: the best layouts"
    return _document(title, verdict_words(document), body)


def _headline(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    best = document["best"]
    found = [
        ("space", f"{document['space']:,}", "layouts, legal or not"),
        ("feasible", f"{document['feasible']:,}", "left by rules and memory"),
        ("played", f"{document['played']:,}", "cost vectors whose schedule was played"),
    ]
    if best is None:
        return found
    found.insert(0, ("best step", f"{best['step_time_s']:.4g} s", layout_words(best)))
    if "budget" in best:
        budget = best["budget"]
        found.append(("all tokens", f"{budget['days']:.1f} days", f"{budget['gpu_hours']:,.0f} GPU-hours"))
        found.append(("cost", f"{budget['dollars']:,.0f} $", f"{budget['megawatt_hours']:,.0f} MWh, as assumed below"))
    return found


def _figures(document: Mapping[str, Any]) -> Iterator[Still]:
    if document["top"]:
        yield Still(
            "Time against memory",
            _front(document),
            "Every layout of the list; a line joins those on so many GPUs that none beats in time, memory and GPUs.",
        )
    if len(document["top"]) > 1:
        yield Still(
            "What the list has in common",
            _parallel(document["top"]),
            "A line for each layout of the list, the best in orange; what all share is left out.",
        )
    sizes = [size for size in document["sizes"] if size["best"] is not None and "budget" in size["best"]]
    if len(sizes) > 1:
        yield Still(
            "What each number of GPUs costs",
            _costs(sizes),
            "The best layout on each, for all tokens. " + "; ".join(document["assumed"]) + ".",
        )


def _look(x: str, y: str, height: int = 420) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED, "ticks": "outside"}
    return {
        "height": height,
        "margin": {"l": 70, "r": 30, "t": 20, "b": 60},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"color": INK, "size": 13},
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}},
        "hoverlabel": {"align": "left"},
    }


def _front(document: Mapping[str, Any]) -> "Figure":
    from plotly.graph_objects import Figure

    def points(entries: Sequence[Mapping[str, Any]], **look: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "x": [entry["peak_memory_bytes"] / _GIB for entry in entries],
            "y": [entry["step_time_s"] for entry in entries],
            "text": [f"{entry['gpus']:,} GPUs, {layout_words(entry)}" for entry in entries],
            "hovertemplate": "%{text}<br>%{y:.4f} s, %{x:.1f} GiB<extra></extra>",
            **look,
        }

    traces = [points(document["top"], mode="markers", name="the list", marker={"color": _BLUE, "size": 8})]
    for gpus in sorted({entry["gpus"] for entry in document["pareto"]}):
        front = [entry for entry in document["pareto"] if entry["gpus"] == gpus]
        front.sort(key=lambda entry: entry["peak_memory_bytes"])
        look = {"mode": "lines+markers", "line": {"color": _ORANGE}, "marker": {"size": 11, "symbol": "circle-open"}}
        traces.append(points(front, name=f"Pareto front, {gpus:,} GPUs", **look))
    layout = _look("peak memory of the fullest rank, GiB", "step time, s")
    return Figure({"data": traces, "layout": {**layout, "legend": {"orientation": "h", "y": 1.08}}})


def _parallel(top: Sequence[Mapping[str, Any]]) -> "Figure":
    from plotly.graph_objects import Figure

    def values(name: str) -> list[Any]:
        return [_choice(entry, name) for entry in top]

    names = ["tp", "cp", "dp", "pp", "ep", "schedule", "v", "mbs", "zero", "recompute", "tp comm", "tp overlap"]
    columns = {name: values(name) for name in names}
    columns = {name: found for name, found in columns.items() if len(set(map(str, found))) > 1}
    columns["memory, GiB"] = [round(entry["peak_memory_bytes"] / _GIB, 1) for entry in top]
    columns["step, s"] = [round(entry["step_time_s"], 3) for entry in top]
    places: dict[str, dict[Any, float]] = {}
    for name, found in columns.items():
        known = sorted(set(found), key=lambda value: (isinstance(value, str), value))
        low, high = known[0], known[-1]
        if "," in name and high > low:  # quantities at their distance, choices evenly
            places[name] = {value: (value - low) / (high - low) for value in known}
        else:
            places[name] = {value: at / max(len(known) - 1, 1) for at, value in enumerate(known)}
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": list(columns),
            "y": [places[name][found[number]] for name, found in columns.items()],
            "line": {"color": _ORANGE if number == 0 else _BLUE, "width": 3 if number == 0 else 1},
            "opacity": 1.0 if number == 0 else 0.5,
            "hovertext": f"number {number + 1}: {layout_words(entry)}",
            "hoverinfo": "text",
            "showlegend": False,
        }
        for number, entry in reversed(list(enumerate(top)))
    ]
    notes = [
        {
            "x": name,
            "y": at,
            "text": str(value),
            "showarrow": False,
            "xshift": 6,
            "xanchor": "left",
            "font": {"size": 11},
        }
        for name, known in places.items()
        for value, at in known.items()
        if "," not in name or at in (0.0, 1.0)
    ]
    look = _look("", "")
    look["yaxis"] = {"visible": False, "range": [-0.08, 1.08]}
    return Figure(
        {"data": traces, "layout": {**look, "annotations": notes, "margin": {"l": 40, "r": 70, "t": 20, "b": 40}}}
    )


def _choice(entry: Mapping[str, Any], name: str) -> Any:
    layout, switches = entry["layout"], entry["switches"]
    if name in layout["mesh"]:
        return layout["mesh"][name]
    return {
        "ep": layout["ep"],
        "schedule": layout["schedule"],
        "v": layout["stages_per_rank"] or 1,
        "mbs": layout["micro_batch_size"],
        "zero": switches["zero"],
        "recompute": switches["recompute"]["mode"],
        "tp comm": switches["tp_comm"].replace("_", " "),
        "tp overlap": switches["tp_overlap"],
    }[name]


def _costs(sizes: Sequence[Mapping[str, Any]]) -> "Figure":
    from plotly.graph_objects import Figure

    gpus = [size["gpus"] for size in sizes]
    shown = [("days", "days", 0), ("dollars", "$", 1), ("megawatt_hours", "MWh", 2)]
    traces, layout = [], {**_look("", ""), "showlegend": False, "height": 320}
    for key, label, place in shown:
        name = "" if place == 0 else str(place + 1)
        values = [size["best"]["budget"][key] for size in sizes]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": gpus,
                "y": values,
                "xaxis": f"x{name}",
                "yaxis": f"y{name}",
                "marker": {"color": _BLUE, "size": 8},
                "text": [layout_words(size["best"]) for size in sizes],
                "hovertemplate": "%{x:,} GPUs: %{y:,.4g} " + label + "<br>%{text}<extra></extra>",
            }
        )
        axis = {"gridcolor": GRID, "zeroline": False, "linecolor": MUTED}
        domain = [place / 3 + 0.03 * (place > 0), (place + 1) / 3 - 0.04]
        layout[f"xaxis{name}"] = {**axis, "domain": domain, "anchor": f"y{name}", "title": {"text": "GPUs"}}
        layout[f"yaxis{name}"] = {**axis, "anchor": f"x{name}", "title": {"text": label}, "rangemode": "tozero"}
    return Figure({"data": traces, "layout": layout})


def _plan(number: int, entry: Mapping[str, Any], timeline: Timeline, document: Mapping[str, Any]) -> str:
    heading = f"<h2>Number {number} of the list, played</h2>"
    capacity = document["search"]["cluster"]["node"]["gpu"]["memory_bytes"]
    return heading + _figure(gantt(timeline, capacity_bytes=capacity), layout_words(entry), f"plan{number}")


def _sections(document: Mapping[str, Any]) -> Iterator[Section]:
    rows = []
    for number, entry in enumerate(document["top"], 1):
        contended = entry.get("contended_step_time_s")
        shown = "-" if contended is None else f"{contended:.4f}"
        memory = format_bytes(entry["peak_memory_bytes"])
        rows.append([number, f"{entry['step_time_s']:.4f}", shown, memory, layout_words(entry)])
    yield Section("The list", ("", "step (s)", "with contention (s)", "memory", "layout"), rows, counts_words(document))
    best = document["best"]
    if best is not None and best.get("waterfall"):
        binds = [
            [row["cause"].replace("_", " "), f"{row['seconds']:.4f}", f"{row['share']:.1%}"]
            for row in best["waterfall"]
        ]
        yield Section("What binds the best", ("cause", "seconds", "share"), binds, best["slowest_stage"])
    removed = [[rule, f"{count:,}"] for rule, count in document["removed"].items()]
    yield Section(
        "What rules removed", ("rule", "layouts"), removed, "Each layout under the first rule that removes it."
    )
    families = [
        [row["family"], f"{row['layouts']:,}", row["rule"], row["detail"], row["nearest"] or "-"]
        for row in document["rejected"][:_MOST_FAMILIES]
    ]
    more = max(len(document["rejected"]) - _MOST_FAMILIES, 0)
    note = f"{more} more in the JSON." if more else ""
    yield Section(
        "Families of which nothing is left", ("family", "layouts", "rule", "why", "what would do"), families, note
    )
    changes = [
        [
            row["change"],
            "-" if row["step_time_s"] is None else f"{row['step_time_s']:.4f}",
            row["note"] or f"{row['gain']:.2%}",
        ]
        for row in document.get("sensitivity", ())
    ]
    yield Section("What more would buy", ("change", "step (s)", "gain"), changes)
    yield Section("Assumed", ("",), [[line] for line in document["assumed"]])
