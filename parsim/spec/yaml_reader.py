"""YAML as specifications use it: mappings, lists and plain scalars, read event by event with nothing else allowed.

No tags, no aliases, no second document, no key twice, no deep nesting; numbers and booleans are YAML 1.2's (`yes`
and `1:30` stay text). Everything that goes wrong is one line with the line number.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from parsim.errors import SpecError

__all__ = ["parse_yaml", "read_document"]

LARGEST_FILE = 5 * 2**20
DEEPEST = 40

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})\Z")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9_]{0,30})(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][-+]?[0-9]{1,4})?\Z")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf"), float("inf")),
    "-.inf": float("-inf"),
    **dict.fromkeys((".nan", ".NaN"), float("nan")),
}


def read_document(path: Path, what: str) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds. `what` names it in errors, for example "run".

    Raises SpecError: missing, a directory, unreadable, too large, not UTF-8, not YAML or JSON, not a mapping.
    """
    text = _text(path, what)
    document = _json(text, str(path)) if path.suffix == ".json" else parse_yaml(text, str(path))
    if not isinstance(document, dict):
        kind = {list: "a list", type(None): "empty"}.get(type(document), "a single value")
        raise SpecError(f"{path}: a {what} is a mapping of fields to values, this file is {kind}")
    return document


def _text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such {what} file") from None
    except IsADirectoryError:
        raise SpecError(f"{path} is a directory, not a {what} file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{path}: cannot be read: {reason.lower()}") from None
    if len(data) > LARGEST_FILE:
        raise SpecError(f"{path}: a {what} file has at most {LARGEST_FILE // 2**20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not UTF-8 text (byte {error.start})") from None


def parse_yaml(text: str, where: str) -> object:
    """The plain values of one YAML document. SpecError that begins with `where` and the line."""
    try:
        return _document(yaml.parse(text, Loader=_Loader), where)
    except yaml.MarkedYAMLError as error:
        place = f" line {error.problem_mark.line + 1}:" if error.problem_mark is not None else ""
        raise SpecError(f"{where}:{place} not YAML: {' '.join(str(error.problem).split())}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{where}: not YAML: {' '.join(str(error).split())[:120]}") from None


def _document(events: Iterator[Any], where: str) -> object:
    """Builds values with a stack of open containers, so that no nesting reaches Python's own stack."""
    root: list[object] = []
    stack: list[_Open] = [_Open(root)]
    documents = 0
    for event in events:
        name = type(event).__name__
        line = f"{where}: line {event.start_mark.line + 1}"
        if name == "DocumentStartEvent":
            documents += 1
            if documents > 1:
                raise SpecError(f"{line}: a second document begins; a file holds one")
        elif name == "AliasEvent":
            raise SpecError(f"{line}: alias *{event.anchor} is not read; write the value out")
        elif name in ("MappingStartEvent", "SequenceStartEvent", "ScalarEvent"):
            if event.tag is not None and event.tag != "!":
                raise SpecError(f"{line}: tag {event.tag} is not read; write the plain value")
            if event.anchor is not None:
                raise SpecError(f"{line}: anchor &{event.anchor} is not read; write the value out where it is used")
            if name == "ScalarEvent":
                stack[-1].add(event.value, _scalar(event), line)
                continue
            if len(stack) > DEEPEST:
                raise SpecError(f"{line}: nested deeper than {DEEPEST} levels")
            container: Any = {} if name == "MappingStartEvent" else []
            stack[-1].add(None, container, line)
            stack.append(_Open(container))
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            stack.pop()
    return root[0] if root else None


class _Open:
    """A container being filled; a mapping takes keys and values in turn."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.key: str | None = None

    def add(self, text: str | None, value: object, line: str) -> None:
        if isinstance(self.container, list):
            self.container.append(value)
        elif self.key is not None:
            self.container[self.key] = value
            self.key = None
        elif text is None:
            raise SpecError(f"{line}: a key must be a word")
        elif text in self.container:
            raise SpecError(f"{line}: key {text[:60]!r} stands twice")
        else:
            self.key = text


def _scalar(event: Any) -> object:
    text: str = event.value
    if event.style or not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def _json(text: str, where: str) -> object:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                raise SpecError(f"{where}: key {key[:60]!r} stands twice")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise SpecError(f"{where}: line {error.lineno}: not JSON: {error.msg.lower()}") from None
    except (RecursionError, ValueError):
        raise SpecError(
            f"{where}: not JSON that can be read: nested too deeply, or a number of absurd length"
        ) from None
