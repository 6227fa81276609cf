"""Traces of torch.profiler as a timeline file."""

import json
from dataclasses import replace
from pathlib import Path

from parsim.cli.output import json_text
from parsim.exchange import Note
from parsim.exchange.kineto import read_trace, timeline_of_traces
from parsim.timeline import span_document, timeline_document

__all__ = ["timeline_text"]


def timeline_text(paths: list[Path], step: str | None) -> tuple[str, tuple[Note, ...]]:
    """The timeline's JSON of traces, one file a rank, and what a reader must know. Raises SpecError."""
    timeline, notes = timeline_of_traces([read_trace(path) for path in paths], step)
    document = timeline_document(replace(timeline, spans=()))
    # A long trace has millions of spans: their text is small beside the objects that one document of them would be.
    spans = ",\n  ".join(json.dumps(span_document(span), ensure_ascii=False) for span in timeline.spans)
    return json_text(document).replace('"spans": []', f'"spans": [\n  {spans}\n ]', 1), tuple(notes)
