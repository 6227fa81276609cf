"""The table of names: what a run and the file of another tool can both say, once, for both directions.

An Entry joins fields of a run to settings of a tool and holds the two ways between them, side by side: export is
`write` of every entry, import is `read`. What `write` cannot put into the tool's words it says in a Note with the name
of the field; what is left is found by reading back what was written (see exchange.unsaid).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from parsim.errors import SpecError
from parsim.spec import Run

__all__ = [
    "Entry",
    "Fields",
    "Note",
    "Say",
    "Setting",
    "Settings",
    "Tool",
    "checked",
    "same",
    "switch",
    "value_of",
    "worded",
]

Settings = dict[str, Any]
"""A tool's settings by name; a switch that is on is True."""
Fields = dict[str, Any]
"""Values by the dotted name of a run's field."""
Say = Callable[[str, str], None]
"""Takes the dotted name of a field (or a tool's setting) and what a reader must know of it."""


_WANTED = {
    "count": "a whole number from 1 on",
    "whole": "a whole number from 0 on",
    "integer": "a whole number",
    "number": "a number",
    "switch": "true or false",
    "text": "a word",
    "words": "a list of words",
    "lists": "a list of lists of words",
}


class Note(NamedTuple):
    """What one side says and the other cannot, or what was assumed: of which field (or setting), in words."""

    about: str
    text: str

    def __str__(self) -> str:
        return " ".join(f"{self.about}: {self.text}".split())  # one line, whatever a file held


class Setting(NamedTuple):
    """A setting of a tool, and what it takes: a whole number from 1 on, from 0 on, or with a sign; a number; nothing (a
    switch); a word, several, lists of them; or what its entry looks at itself.
    """

    name: str
    takes: Literal["count", "whole", "integer", "number", "switch", "text", "words", "lists", "any"] = "count"


@dataclass(frozen=True)
class Entry:
    """Fields of a run, settings of a tool, and how one becomes the other.

    `write(run, say)` gives the settings; `read(settings, say)` the fields that these settle, and {} where nothing is
    stated. `read` raises SpecError for settings that contradict each other.
    """

    fields: tuple[str, ...]
    settings: tuple[Setting, ...]
    write: Callable[[Run, Say], Settings]
    read: Callable[[Settings, Say], Fields]


@dataclass(frozen=True)
class Tool:
    """A tool as its files speak. `release`: whose names these are. `outside`: parts of a run that its files never say
    (dotted names), and where the tool takes them from instead.
    """

    name: str
    release: str
    entries: tuple[Entry, ...]
    outside: Mapping[str, str]

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """Every setting that is read, by name."""
        return {setting.name: setting for entry in self.entries for setting in entry.settings}

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Every field that the tool can say, in order."""
        return tuple(dict.fromkeys(field for entry in self.entries for field in entry.fields))

    def write(self, run: Run) -> tuple[dict[str, Any], list[Note]]:
        """The settings of a run, and what they cannot say."""
        notes: list[Note] = []
        settings: dict[str, Any] = {}
        for entry in self.entries:
            settings |= entry.write(run, lambda about, text: notes.append(Note(about, text)))
        return settings, notes

    def read(self, settings: Settings) -> tuple[dict[str, Any], list[Note]]:
        """The fields that settings settle, by dotted name, and what a reader must know of them."""
        notes: list[Note] = []
        fields: dict[str, Any] = {}
        for entry in self.entries:
            fields |= entry.read(settings, lambda about, text: notes.append(Note(about, text)))
        return fields, notes

    def value(self, settings: Settings, field: str) -> Any:
        """What settings say of one field; None where the tool cannot say it, or they do not."""
        entries = (entry for entry in self.entries if field in entry.fields)
        return next((entry.read(settings, lambda about, text: None).get(field) for entry in entries), None)


def value_of(run: Run, field: str) -> Any:
    """The value of a dotted field; None where a part on the way is not there (a dense model's experts)."""
    value: Any = run
    for name in field.split("."):
        if value is None:
            return None
        value = getattr(value, name)
    return value


def same(field: str, setting: Setting, default: Any = None) -> Entry:
    """One field that is one setting with the same value. None is not written; `default` is what the tool takes where
    the setting is not stated (None: nothing is concluded)."""

    def write(run: Run, say: Say) -> Settings:
        value = value_of(run, field)
        return {} if value is None else {setting.name: value}

    def read(settings: Settings, say: Say) -> Fields:
        value = settings.get(setting.name, default)
        return {} if value is None else {field: value}

    return Entry((field,), (setting,), write, read)


def switch(field: str, name: str, *, when: bool = True) -> Entry:
    """One field that is a switch of the tool; `when` False: the switch turns it off."""

    def write(run: Run, say: Say) -> Settings:
        return {name: True} if value_of(run, field) is when else {}

    def read(settings: Settings, say: Say) -> Fields:
        return {field: (settings.get(name) is True) is when}

    return Entry((field,), (Setting(name, "switch"),), write, read)


def worded(
    field: str, name: str, words: Mapping[Any, str], default: str | None, also: Mapping[str, Any] = MappingProxyType({})
) -> Entry:
    """One field whose values are words of the tool: {our value: its word}. `also` has words that are read alone, with
    what they mean (None: the field stays unstated); `default` is the tool's word where none is stated.
    """
    ours = {**also, **{word: value for value, word in reversed(list(words.items()))}}

    def write(run: Run, say: Say) -> Settings:
        value = value_of(run, field)
        if value is None:
            return {}
        if value not in words:
            say(field, f"{value} has no word of {name}")
            return {}
        return {name: words[value]}

    def read(settings: Settings, say: Say) -> Fields:
        word = settings.get(name, default)
        if word is None:
            return {}
        if word not in ours:
            raise SpecError(f"{name} {word}: one of {', '.join(ours)}")
        return {} if ours[word] is None else {field: ours[word]}

    return Entry((field,), (Setting(name, "text"),), write, read)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def checked(tool: Tool, stated: Settings) -> Settings:
    """Those of the stated settings that the tool's entries read, each of the type that it takes. SpecError if not."""
    found: Settings = {}
    for name, value in stated.items():
        setting = tool.settings.get(name)
        if setting is None or value is None:
            continue
        whole = type(value) is int and abs(value) <= 10**12
        fits = {
            "count": whole and value >= 1,
            "whole": whole and value >= 0,
            "integer": whole,
            "number": whole or type(value) is float,
            "switch": type(value) is bool,
            "text": isinstance(value, str),
            "words": _is_words(value),
            "lists": isinstance(value, list) and bool(value) and all(map(_is_words, value)),
            "any": True,
        }
        if not fits[setting.takes]:
            raise SpecError(f"{name} {str(value)[:60]!r}: {_WANTED[setting.takes]} is needed")
        found[name] = value
    return found
