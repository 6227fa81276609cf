"""Settings that stand in nested documents: {"zero_optimization": {"stage": 3}} is zero_optimization.stage."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.table import Note, Settings, Tool, checked

__all__ = ["flat", "known_settings"]


def flat(document: Mapping[str, Any], path: str = "") -> Settings:
    """The values of a nested document by dotted name."""
    found: Settings = {}
    for name, value in document.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return found


def known_settings(tool: Tool, document: object, rooms: tuple[str, ...], notes: list[Note]) -> Settings:
    """The settings of a document that the tool's entries read. "auto", which leaves a value to what runs the tool,
    counts as not stated. Names that nobody knows get a note if they stand in one of `rooms`. Raises SpecError: no
    mapping, a value of the wrong type, a name one letter away from a known one.
    """
    if not isinstance(document, Mapping) or not all(isinstance(name, str) for name in document):
        raise SpecError(f"no {tool.name} configuration: a mapping of settings is needed")
    stated = flat(document)
    for name, value in list(stated.items()):
        if value == "auto":
            del stated[name]
            notes.append(Note(name, '"auto" is decided where it runs: taken as not stated'))
        elif name not in tool.settings:
            room = name.rpartition(".")[0]
            near = get_close_matches(name, tool.settings, n=1, cutoff=0.92)
            if near and near[0] not in stated:
                raise SpecError(f"unknown setting {name}; did you mean {near[0]}?")
            if room in rooms:
                notes.append(Note(name, "not a setting that parsim reads"))
    return checked(tool, stated)
