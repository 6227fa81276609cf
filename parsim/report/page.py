"""The page: one HTML file that works offline, with key numbers, the diagram and small tables.

Plotly's library is embedded once. A content security policy forbids every load from the network, and every string
that comes from outside is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from parsim.metrics import bubble
from parsim.report.bars import local_levels
from parsim.report.curves import Curve, curves_of
from parsim.report.gantt import DENSE, comparison, gantt
from parsim.report.palette import MEANING
from parsim.report.scale import Scale, scale_of
from parsim.timeline import Timeline
from parsim.units import format_bytes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Section", "Still", "compare_page", "page"]

Fact = tuple[str, str, str]
_MANY_ROWS = 40
_BUTTONS = ("zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage")
_SOURCE = {"sim": "Predicted by parsim's simulator.", "run": "Measured: a recording of a real run."}


@dataclass(frozen=True)
class Section:
    """A small table of a page: numbers flush right, all else escaped text. `folded`: it opens on a click."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Still:
    """A figure of its own below the diagram, without zoom."""

    title: str
    figure: "Figure"
    caption: str


def page(
    timeline: Timeline,
    *,
    title: str,
    facts: Sequence[Fact] = (),
    unit: str = "s",
    sections: Sequence[Section] = (),
    figures: Sequence[Still] = (),
    capacity_bytes: float | None = None,
) -> str:
    """The page of one recording. `facts` are (label, value, note); `figures` follow the diagram, `sections` the
    per-rank table.
    """
    figure = gantt(timeline, unit=unit, capacity_bytes=capacity_bytes)
    scale = scale_of(timeline.makespan_s, unit)
    tables = [
        _ranks(timeline, scale),
        *sections,
        *_mapping("Where the numbers come from", timeline.evidence, folded=False),
        *_mapping("The run", timeline.run, folded=True),
    ]
    body = [
        _facts(facts),
        _figure(figure, _caption([timeline])),
        *(_still(f"figure{place}", one) for place, one in enumerate(figures)),
        *(_table(table) for table in tables if table.rows),
    ]
    return _document(title, _SOURCE[timeline.source], body)


def compare_page(
    a: Timeline,
    b: Timeline,
    document: Mapping[str, Any],
    *,
    labels: tuple[str, str],
    title: str = "",
    unit: str = "s",
    sections: Sequence[Section] = (),
) -> str:
    """Two recordings on one time axis and what explains their difference: `document` is `Comparison.document()`."""
    scale = scale_of(max(a.makespan_s, b.makespan_s), unit)
    total = document["total"]
    ratio = total.get("ratio")
    facts = [
        (labels[0], _time(total["a"], scale), _SOURCE[a.source]),
        (labels[1], _time(total["b"], scale), _SOURCE[b.source]),
        ("difference", _time(total["delta"], scale, sign=True), "second minus first"),
        ("ratio", "-" if ratio is None else f"{ratio:.4g}", "second / first"),
    ]
    columns = (f"{labels[0]} ({scale.unit})", f"{labels[1]} ({scale.unit})", f"difference ({scale.unit})")

    def times(row: Mapping[str, Any]) -> list[object]:
        return [float(row[key]) * scale.factor for key in ("a", "b", "delta")]

    tables = [
        Section(
            "What adds up to the difference",
            ("cause", *columns),
            [[row["cause"], *times(row)] for row in document["causes"]],
            "Averaged over ranks: busy time by kind of op, and idle time; the differences sum to the difference above.",
        ),
        Section(
            "Ops that differ most",
            ("rank", "op", "how many", *columns),
            [[row["rank"], row["op"], row["count"], *times(row)] for row in document["ops"]],
        ),
        Section(
            "Where the two runs differ",
            ("field", *labels),
            [[row["field"], _words(row["a"]), _words(row["b"])] for row in document["differences"]],
        ),
        *sections,
    ]
    body = [
        _facts(facts),
        _figure(comparison(a, b, labels=labels, unit=unit), _caption([a, b])),
        *(_table(table) for table in tables if table.rows),
    ]
    return _document(title or f"{labels[0]} and {labels[1]}", "Two recordings on one time axis.", body)


def _document(title: str, source: str, body: Iterable[str]) -> str:
    from plotly.offline import get_plotlyjs

    assets = files("parsim.report")
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{(assets / 'page.css').read_text(encoding='utf-8')}</style>",
            f"<script>{get_plotlyjs()}</script>",
            f"<script>\n{(assets / 'zoom.js').read_text(encoding='utf-8')}</script>",
            f'</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n<p class="source">{escape(source)}</p>',
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def _facts(facts: Iterable[Fact]) -> str:
    cards = [
        f'<div class="fact"><dt>{escape(label)}</dt><dd class="value">{escape(value)}</dd>'
        f'<dd class="note">{escape(note)}</dd></div>'
        for label, value, note in facts
    ]
    return f'<dl class="facts">{"".join(cards)}</dl>' if cards else ""


def _figure(figure: "Figure", caption: str, name: str = "diagram") -> str:
    plot = _diagram(figure, script="followZoom(document.getElementById('{plot_id}'));", name=name)
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>"


def _diagram(
    figure: "Figure",
    *,
    buttons: Sequence[str] = _BUTTONS,
    filename: str = "parsim",
    script: str | None = None,
    name: str = "diagram",
) -> str:
    """A main figure of a page, with a short bar of buttons. `script` runs when it is drawn; `name` is its alone."""
    from plotly.io import to_html

    html: str = to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_width="100%",
        default_height=f"{figure.layout.height}px",
        config={
            "responsive": True,
            "displaylogo": False,
            "modeBarButtons": [list(buttons)],
            "toImageButtonOptions": {"filename": filename, "scale": 2},
        },
        post_script=script,
    )
    return html


def _still(name: str, still: Still) -> str:
    from plotly.io import to_html

    plot = to_html(
        still.figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_width="100%",
        default_height=f"{still.figure.layout.height}px",
        config={"responsive": True, "displayModeBar": False},
    )
    caption = f"<figcaption>{escape(still.caption)}</figcaption>"
    return f'<figure class="still"><h2>{escape(still.title)}</h2>{plot}{caption}</figure>'


def _caption(timelines: Sequence[Timeline]) -> str:
    """How to read the diagram: only what it holds."""
    kinds = {span.op.kind for timeline in timelines for span in timeline.spans}
    parts = ["Drag sideways to zoom in, double-click to zoom out; hover for the op, its times and what it waited for."]
    if sum(len(timeline.spans) for timeline in timelines) > DENSE:
        parts.append("Zoomed in far enough, bars carry their micro-batch.")
    else:
        parts.append("Numbers are micro-batches, where they fit.")
    letters = [
        MEANING[kind].replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
        for kind in MEANING
        if kind in kinds and kind.value in "FBIW"
    ]
    parts.append("; ".join(letters) + ".")
    if any(level for timeline in timelines for level in local_levels(timeline).values()):
        parts.append("Darker to lighter: the first to the last stage that a rank holds.")
    if any("pair" in span.detail for timeline in timelines for span in timeline.spans):
        parts.append("Two lanes in a row: an overlapped pair, forward above, backward below.")
    if any(curves_of(timeline) for timeline in timelines):
        parts.append("Below: what each rank holds, in the colour beside its number; a dot where it first peaks.")
    return " ".join(parts)


def _ranks(timeline: Timeline, scale: Scale) -> Section:
    """Busy, idle and peak by rank."""
    use = bubble(timeline)
    curves = {curve.rank: curve for curve in curves_of(timeline)}
    rows: list[list[object]] = [
        [
            row.rank,
            row.busy * scale.factor,
            row.idle * scale.factor,
            f"{row.idle / use.makespan:.1%}" if use.makespan else "-",
            *_peak(curves.get(row.rank), scale),
        ]
        for row in use.ranks
    ]
    measures = any(curve.measures_bytes for curve in curves.values())
    columns = [
        "rank",
        f"busy ({scale.unit})",
        f"idle ({scale.unit})",
        "idle of makespan",
        "peak memory" if measures else "peak activations",
        f"first at ({scale.unit})",
        "during",
        "made of",
    ]
    if not measures:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Section(
        "Ranks",
        columns,
        rows,
        "Busy: time covered by at least one compute op. Idle = makespan - busy. "
        + ("" if measures else "Activations: one stage's, of one micro-batch, from its F to its B or W."),
        folded=len(rows) > _MANY_ROWS,
    )


def _peak(curve: Curve | None, scale: Scale) -> list[object]:
    if curve is None:
        return ["-", "-", "-", "-"]
    at = curve.peak
    made_of = ", ".join(f"{name} {format_bytes(values[at])}" for name, values in curve.categories.items() if values[at])
    total = format_bytes(curve.totals[at]) if curve.measures_bytes else f"{curve.totals[at]:g}"
    return [_Flush(total), curve.times_s[at] * scale.factor, curve.during or "-", made_of]


def _mapping(title: str, values: Mapping[str, Any], *, folded: bool) -> list[Section]:
    rows = list(_flat(values))
    return [Section(title, ("", "value"), rows, folded=folded or len(rows) > _MANY_ROWS)] if rows else []


def _flat(value: object, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif value is not None:
        yield path, _words(value)


def _words(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class _Flush(str):
    """Text that is set flush right like a number."""

    __slots__ = ()


def _flush(cell: object) -> object:
    """Numbers spelled as text stand flush right like numbers."""
    return _Flush(cell) if isinstance(cell, str) and (cell.lstrip("+-")[:1].isdigit() or cell == "-") else cell


def _table(table: Section) -> str:
    head = "".join(f"<th{_class_of(table, column)}>{escape(name)}</th>" for column, name in enumerate(table.columns))
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    note = f'<p class="about">{escape(table.note)}</p>' if table.note else ""
    inner = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{inner}</details>"
    return f"<section><h2>{escape(table.title)}</h2>{inner}</section>"


def _class_of(table: Section, column: int) -> str:
    return ' class="number"' if table.rows and _is_number(table.rows[0][column]) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | _Flush) or (isinstance(value, str) and value.endswith("%"))


def _cell(value: object) -> str:
    if _is_number(value):
        text = f"{value:,.5g}" if isinstance(value, float) else str(value)
        return f'<td class="number">{escape(text)}</td>'
    return f'<td class="words">{escape(str(value))}</td>'


def _time(time_s: float, scale: Scale, *, sign: bool = False) -> str:
    return f"{time_s * scale.factor:{'+' if sign else ''}.5g} {scale.unit}"
