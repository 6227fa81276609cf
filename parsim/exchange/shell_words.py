"""The words of a shell script: statements, their words, and the pieces that a word is put together of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from parsim.errors import SpecError

__all__ = ["Piece", "Statement", "Word", "lex"]

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]", re.ASCII)
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?!-])(\[[@*]\])?(?:(:?[-=])(.*))?\Z", re.ASCII | re.DOTALL)
_ARRAY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=\(", re.ASCII)
_PLACEHOLDER = re.compile(r"<[A-Za-z](?:[^<>\n'\"|&;()$`]*[^<>\n'\"|&;()$`\s])?>(?=[\s_]|\Z)")
"""<Specify path>: what a published script leaves to its reader, which bash would take for redirections."""
_NO_CONTINUATION = re.compile(r"\\[ \t]+(?:#[^\n]*)?(?:\n|\Z)")
_SEPARATORS = ("&&", "||", ";;", ";", "|", "&", "\n")
_DEEPEST = 50


class Piece(NamedTuple):
    """Part of a word. `text`: as it is written, for what cannot be known; `name`: of a variable, or the expression of
    `$(( ))`; `default`: what stands in for a variable that is not set, which then also takes it if it `assigns`.
    """

    kind: Literal["text", "variable", "arithmetic", "command"]
    text: str
    quoted: bool = False
    name: str = ""
    all_elements: bool = False
    default: tuple["Piece", ...] | None = None
    assigns: bool = False


@dataclass
class Word:
    """A word: its pieces, or the words of an array that it assigns. `quoted`: it stays even where it is empty."""

    pieces: list[Piece] = field(default_factory=list)
    quoted: bool = False
    elements: list["Word"] | None = None

    @property
    def prefix(self) -> str:
        """The text that it begins with, before any variable or quote."""
        first = self.pieces[0] if self.pieces else None
        return first.text if first is not None and first.kind == "text" and not first.quoted else ""

    @property
    def plain(self) -> str:
        """The whole word if it is unquoted text alone, else nothing."""
        return self.prefix if len(self.pieces) == 1 and self.elements is None else ""

    def after(self, start: int) -> list[Piece]:
        """Its pieces without the first `start` signs of its first."""
        first, *rest = self.pieces
        return [first._replace(text=first.text[start:]), *rest]


class Statement(NamedTuple):
    """Words up to a separator, which is `ends_with`."""

    words: list[Word]
    line: int
    ends_with: str


def lex(text: str) -> Iterator[Statement]:
    """The statements of a script. SpecError for a quote or bracket that is never closed."""
    return _Lexer(text.replace("\r\n", "\n")).statements()


class _Lexer:
    def __init__(self, text: str, line: int = 1, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise SpecError(f"line {line}: nested deeper than {_DEEPEST} levels")
        self._text, self._at, self._line, self._depth = text, 0, line, depth
        self._heredocs: list[str] = []

    def statements(self) -> Iterator[Statement]:
        words: list[Word] = []
        begins = self._line
        while True:
            self._skip_blanks()
            separator = next((s for s in _SEPARATORS if self._text.startswith(s, self._at)), "")
            if separator or self._at >= len(self._text):
                if words:
                    yield Statement(words, begins, separator)
                if not separator:
                    return
                self._take(len(separator))
                if separator == "\n":
                    self._skip_heredocs()
                words, begins = [], self._line
                continue
            if not words:
                begins = self._line
            if self._redirects():
                continue
            words.append(self._word(stops="\n;&|"))

    def _take(self, count: int) -> str:
        taken = self._text[self._at : self._at + count]
        self._line += taken.count("\n")
        self._at += count
        return taken

    def _skip_blanks(self, newlines: bool = False) -> None:
        while self._at < len(self._text):
            sign = self._text[self._at]
            if self._text.startswith("\\\n", self._at):
                self._take(2)
            elif sign in " \t\r" or (newlines and sign == "\n"):
                self._take(1)
            elif sign == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                return

    def _redirects(self) -> bool:
        match = re.compile(r"\d?(?:<<-?|&?>>?&?|<)").match(self._text, self._at)
        if match is None or _PLACEHOLDER.match(self._text, self._at):
            return False
        self._take(len(match[0]))
        self._skip_blanks()
        if match[0].endswith("&") and self._at < len(self._text) and self._text[self._at] in "0123456789-":
            self._take(1)
            return True
        target = self._word(stops="\n;&|")
        if "<<" in match[0]:
            self._heredocs.append("".join(piece.text for piece in target.pieces))
        return True

    def _skip_heredocs(self) -> None:
        for mark in self._heredocs:
            while self._at < len(self._text):
                end = self._text.find("\n", self._at)
                end = len(self._text) if end < 0 else end
                line = self._take(end + 1 - self._at)
                if line.strip() == mark:
                    break
        self._heredocs = []

    def _word(self, stops: str) -> Word:
        word = Word()
        if (match := _ARRAY.match(self._text, self._at)) is not None:
            word.pieces.append(Piece("text", self._take(len(match[0]))[:-1]))
            word.elements = self._array()
            return word
        plain = ""
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign == "<" and (match := _PLACEHOLDER.match(self._text, self._at)) is not None:
                plain += self._take(len(match[0]))
                continue
            if sign in " \t\r" or sign in stops or (sign in ")<>" and not plain.endswith("(")):
                break
            if self._text.startswith("\\\n", self._at):
                self._take(2)
            elif sign == "\\" and not plain and not word.pieces and _NO_CONTINUATION.match(self._text, self._at):
                raise SpecError(f"line {self._line}: the backslash must end its line, here something stands behind it")
            elif sign == "\\":
                plain += self._take(2)[1:]
            elif sign in "'\"$`":
                if plain:
                    word.pieces.append(Piece("text", plain))
                    plain = ""
                if sign == "'":
                    word.quoted = True
                    word.pieces.append(Piece("text", self._single(), quoted=True))
                elif sign == '"':
                    word.quoted = True
                    word.pieces += self._double()
                else:
                    word.pieces.append(self._dollar(quoted=False))
            else:
                plain += self._take(1)
        if plain:
            word.pieces.append(Piece("text", plain))
        elif not word.pieces and not word.quoted:
            self._take(1)  # a bracket that stands alone
        if word.quoted and all(piece.all_elements for piece in word.pieces) and word.pieces:
            word.quoted = False  # "${ARGS[@]}" of an empty array is no word at all
        return word

    def _array(self) -> list[Word]:
        line, elements = self._line, list[Word]()
        while True:
            self._skip_blanks(newlines=True)
            if self._at >= len(self._text):
                raise SpecError(f"line {line}: the array's parenthesis is never closed")
            if self._text[self._at] == ")":
                self._take(1)
                return elements
            elements.append(self._word(stops="\n"))

    def _single(self) -> str:
        line, end = self._line, self._text.find("'", self._at + 1)
        if end < 0:
            raise SpecError(f"line {line}: the quote ' is never closed")
        return self._take(end + 1 - self._at)[1:-1]

    def _double(self) -> list[Piece]:
        line, pieces, plain = self._line, list[Piece](), ""
        self._take(1)
        while True:
            if self._at >= len(self._text):
                raise SpecError(f'line {line}: the quote " is never closed')
            sign = self._text[self._at]
            if sign == '"':
                self._take(1)
                return [*pieces, Piece("text", plain, quoted=True)] if plain or not pieces else pieces
            if sign == "\\" and self._text[self._at + 1 : self._at + 2] in ('"', "\\", "$", "`", "\n"):
                escaped = self._take(2)[1]
                plain += "" if escaped == "\n" else escaped
            elif sign in "$`":
                if plain:
                    pieces.append(Piece("text", plain, quoted=True))
                    plain = ""
                pieces.append(self._dollar(quoted=True))
            else:
                plain += self._take(1)

    def _dollar(self, quoted: bool) -> Piece:
        start = self._at
        if self._text[start] == "`":
            end = self._text.find("`", start + 1)
            if end < 0:
                raise SpecError(f"line {self._line}: the quote ` is never closed")
            return Piece("command", self._take(end + 1 - start), quoted)
        if self._text.startswith("$((", start):
            text = self._bracketed("(", ")", start + 1)
            return Piece("arithmetic", text, quoted, name=text[3:-2])
        if self._text.startswith("$(", start):
            return Piece("command", self._bracketed("(", ")", start + 1), quoted)
        if self._text.startswith("${", start):
            text = self._bracketed("{", "}", start + 1)
            return self._braced(text, quoted)
        if (match := _PARAMETER.match(self._text, start + 1)) is None:
            return Piece("text", self._take(1), quoted)
        text = self._take(1 + len(match[0]))
        return Piece("variable", text, quoted, name=match[0], all_elements=match[0] in "@*")

    def _braced(self, text: str, quoted: bool) -> Piece:
        if (match := _BRACED.match(text[2:-1])) is None:
            return Piece("command", text, quoted)  # ${A%b}, ${#A[@]} ...: not known
        name, subscript, operator, rest = match.groups()
        default = None
        if operator is not None:
            inner = _Lexer(rest, self._line, self._depth + 1)
            pieces: list[Piece] = []
            while inner._at < len(rest):
                before = inner._at
                pieces += inner._word(stops="").pieces
                if inner._at < len(rest) and rest[inner._at] in " \t\n<>)":
                    pieces.append(Piece("text", inner._take(1)))
                if inner._at == before:
                    break
            default = tuple(pieces)
        whole = bool(subscript) or name in "@*"
        return Piece("variable", text, quoted, name, whole, default, assigns=operator in ("=", ":="))

    def _bracketed(self, opens: str, closes: str, start: int) -> str:
        """The text from the dollar to the bracket that closes the one at `start`."""
        depth, at = 0, start
        while at < len(self._text):
            depth += (self._text[at] == opens) - (self._text[at] == closes)
            at += 1
            if depth == 0:
                return self._take(at - self._at)
        raise SpecError(f"line {self._line}: the bracket {opens} is never closed")
