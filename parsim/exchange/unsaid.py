"""What was not said: a run laid beside the run that its own export reads back as, field by field."""

from collections.abc import Mapping, Sequence
from typing import Any

from parsim.errors import ParsimError
from parsim.exchange.comparable import comparable, nested
from parsim.exchange.table import Note, Settings, Tool
from parsim.spec import Run, run_from_document

__all__ = ["unsaid"]


def unsaid(tool: Tool, run: Run, settings: Settings, notes: Sequence[Note]) -> list[Note]:
    """A note for each field in which the run that `settings` read back as differs from `run`, but for those that
    `notes` name already and for the parts that the tool never says, which have one note each.
    """
    said = {note.about for note in notes}
    found = [Note(part, f"not said: {where}") for part, where in tool.outside.items()]
    fields, _ = tool.read({**settings, "model.layers": run.model.layers})
    document = nested({name: value for name, value in fields.items() if not _among(name, tool.outside)})
    whole = run.document()
    for part in tool.outside:  # taken from elsewhere: not to be compared
        _graft(document, whole, part.split("."))
    if "model" in said:
        document["model"] = whole["model"]
    elif isinstance(document.get("model"), dict):
        document["model"].setdefault("name", "exported")
    try:
        back = comparable(run_from_document({**document, "cluster": {**whole["cluster"], "nodes": None}}))
    except ParsimError as error:
        return [*found, Note("run", f"what is written is no run by itself: {error}")]
    for name, value in comparable(run).items():
        if back.get(name) != value and not _among(name, (*tool.outside, *said)):
            found.append(Note(name, f"{_shown(value)} is not said: {tool.name} would have {_shown(back.get(name))}"))
    return found


def _among(name: str, parts: Sequence[str] | Mapping[str, str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _graft(document: dict[str, Any], whole: Mapping[str, Any], path: Sequence[str]) -> None:
    """Put the whole's value at a path into the document."""
    *above, last = path
    for name in above:
        document = document.setdefault(name, {})
        whole = whole[name]
    if last in whole:
        document[last] = whole[last]


def _shown(value: Any) -> str:
    text = "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
