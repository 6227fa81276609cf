"""Traces of torch.profiler as a timeline file."""

from pathlib import Path

from parsim.cli.output import json_text
from parsim.exchange import Note
from parsim.exchange.kineto import read_trace, timeline_of_traces
from parsim.timeline import timeline_document

__all__ = ["timeline_text"]


def timeline_text(paths: list[Path], step: str | None) -> tuple[str, tuple[Note, ...]]:
    """The timeline's JSON of traces, one file a rank, and what a reader must know. Raises SpecError."""
    timeline, notes = timeline_of_traces([read_trace(path) for path in paths], step)
    return json_text(timeline_document(timeline)), tuple(notes)
