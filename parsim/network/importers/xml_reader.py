"""XML as topology files use it: elements and attributes, nothing else, read by expat with nothing expanded.

A document type or an entity declaration is refused before anything it says is acted on; size, depth and number of
elements are bounded. Everything that goes wrong is one SpecError with line and column.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from parsim.errors import SpecError

__all__ = ["Element", "read_xml"]

_LARGEST_TEXT = 16 * 2**20
_DEEPEST = 64
_MOST_ELEMENTS = 200_000
_INTEGER = re.compile(r"\s*([-+]?\d{1,18})\s*\Z")
_NUMBER = re.compile(r"\s*([-+]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][-+]?\d{1,3})?)\s*\Z")


@dataclass
class Element:
    """One element: its tag, attributes and children, and the line it begins at."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list["Element"] = field(default_factory=list)

    def named(self, tag: str) -> Iterator["Element"]:
        """The children with a tag, in order."""
        return (child for child in self.children if child.tag == tag)

    def text(self, name: str) -> str:
        """An attribute that must be there. SpecError: it is missing."""
        if name not in self.attributes:
            raise SpecError(f"line {self.line}: <{self.tag}> has no {name}")
        return self.attributes[name]

    def integer(self, name: str, default: int | None = None, *, least: int | None = None) -> int:
        """A whole number; `default` where the attribute is missing or empty. SpecError: text, or below `least`."""
        value = self.attributes.get(name, "")
        if not value.strip() and default is not None:
            return default
        match = _INTEGER.match(self.text(name))
        if match is None:
            raise SpecError(f"line {self.line}: <{self.tag}> {name}={value[:40]!r} is not a whole number")
        if least is not None and int(match[1]) < least:
            raise SpecError(f"line {self.line}: <{self.tag}> {name}={value[:40]!r} must be at least {least}")
        return int(match[1])

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number >= 0; `default` where the attribute is missing or empty. SpecError: text or below 0."""
        value = self.attributes.get(name, "")
        if not value.strip() and default is not None:
            return default
        match = _NUMBER.match(self.text(name))
        if match is None:
            raise SpecError(f"line {self.line}: <{self.tag}> {name}={value[:40]!r} is not a number")
        number = float(match[1])
        if not 0 <= number < 1e30:
            raise SpecError(f"line {self.line}: <{self.tag}> {name}={value[:40]!r} must be finite and at least 0")
        return number


def read_xml(text: str, root: str) -> Element:
    """The root element, which must be called `root`.

    Raises SpecError: not XML, cut short, a document type, entities, too large, too deep, another root.
    """
    if len(text) > _LARGEST_TEXT:
        raise SpecError(f"a topology file has at most {_LARGEST_TEXT // 2**20} MiB")
    builder = _Builder()
    parser = expat.ParserCreate()
    builder.watch(parser)
    try:
        parser.Parse(text.lstrip("\ufeff \t\r\n") if text[:1] in "\ufeff \t\r\n" else text, True)
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, "not well-formed")
        if reason in ("no element found", "unclosed token"):
            reason = "the file ends before it is complete" if builder.elements else "no XML element"
        raise SpecError(f"not XML: {reason} at line {error.lineno}, column {error.offset + 1}") from None
    except UnicodeEncodeError:
        raise SpecError("not XML: half a surrogate pair is no character") from None
    assert builder.root is not None
    if builder.root.tag != root:
        raise SpecError(f"line {builder.root.line}: the root is <{builder.root.tag[:40]}>, not <{root}>")
    return builder.root


class _Builder:
    """Collects elements on a stack of open ones."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self.open: list[Element] = []
        self.elements = 0

    def watch(self, parser: expat.XMLParserType) -> None:
        def begin(tag: str, attributes: dict[str, str]) -> None:
            self.elements += 1
            line = parser.CurrentLineNumber
            if len(self.open) >= _DEEPEST:
                raise SpecError(f"line {line}: nested deeper than {_DEEPEST} elements")
            if self.elements > _MOST_ELEMENTS:
                raise SpecError(f"line {line}: more than {_MOST_ELEMENTS} elements")
            element = Element(tag, attributes, line)
            if self.open:
                self.open[-1].children.append(element)
            else:
                self.root = element
            self.open.append(element)

        def refuse(*_: object) -> int:
            raise SpecError(
                f"line {parser.CurrentLineNumber}: a document type or entity is not read; topology files have none"
            )

        parser.StartElementHandler = begin
        parser.EndElementHandler = lambda _: self.open.pop()
        parser.StartDoctypeDeclHandler = refuse
        parser.EntityDeclHandler = refuse
        parser.ExternalEntityRefHandler = refuse
        parser.UnparsedEntityDeclHandler = refuse
