"""A played recording on its way to the user's files: its document, its trace, its page and its picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parsim.cli.output import Outputs, json_text
from parsim.metrics import BUBBLE_DEFINITIONS, Bubble
from parsim.timeline import Timeline

if TYPE_CHECKING:
    from parsim.report.page import Still

__all__ = ["Drawing", "Fact", "bubble_facts", "put_recording"]

Fact = tuple[str, str, str]
"""A headline number: its name, its value, and what it means."""


@dataclass(frozen=True)
class Drawing:
    """What stands around the diagram: title, headline numbers, further tables (title, columns, rows, note), and for
    the page further figures.
    """

    title: str
    facts: Sequence[Fact]
    unit: str = "s"
    capacity_bytes: float | None = None
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]], str]] = ()
    figures: "Callable[[], Sequence[Still]]" = tuple


def bubble_facts(bubble: Bubble) -> list[Fact]:
    """The two ratios that papers call the bubble, with their denominators."""
    return [
        ("bubble of the makespan", f"{bubble.of_makespan:.2%}", BUBBLE_DEFINITIONS["of_makespan"]),
        ("bubble of the span", f"{bubble.of_span:.2%}", BUBBLE_DEFINITIONS["of_span"]),
    ]


def put_recording(outputs: Outputs, document: Mapping[str, Any], timeline: Timeline, drawing: Drawing) -> None:
    """Put the json, trace, html and png that the user asked for."""
    if outputs.wants("json"):
        outputs.put("json", json_text(document))
    if outputs.wants("trace"):
        from parsim.report import trace

        outputs.put("trace", json_text(trace(timeline)))
    look: dict[str, Any] = {
        "title": drawing.title,
        "facts": drawing.facts,
        "unit": drawing.unit,
        "capacity_bytes": drawing.capacity_bytes,
    }
    if outputs.wants("html"):
        from parsim.report import Section, page

        sections = [Section(*table) for table in drawing.tables]
        outputs.put("html", page(timeline, sections=sections, figures=drawing.figures(), **look))
    if outputs.wants("png"):
        from parsim.report import gantt, png_bytes

        outputs.put("png", png_bytes(gantt(timeline, **look)))
