"""A shell script as far as a command line of it can be known without running it.

Comments, quotes, continued lines, variables, arrays (`ARGS=( ... )`, `ARGS+=( ... )`, `"${ARGS[@]}"`), defaults
(`${TP:-8}`) and whole-number arithmetic are played as bash does. Nothing is executed: what a command prints, an
argument of the script or a variable that it does not set stays in the text as it is written ("$1"), and what stands
under a condition or in a loop is left out and reported.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from parsim.errors import SpecError
from parsim.exchange.shell_words import Piece, Word, lex

__all__ = ["Command", "Script", "read_script"]

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=", re.ASCII)
_OPENS, _CLOSES = {"if", "for", "while", "until", "case", "select"}, {"fi", "done", "esac"}
_TESTS, _DECLARES = {"[", "[[", "test"}, {"export", "declare", "local", "readonly", "typeset", "env"}
_MOST_WORDS, _DEEPEST = 100_000, 20
_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Command(NamedTuple):
    """A command's words, everything known put in, and the line that it begins at."""

    words: tuple[str, ...]
    line: int


@dataclass
class Script:
    """What a script runs, in order; the variables that it has set; what was left out, a line for each."""

    commands: list[Command] = field(default_factory=list)
    variables: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    batch_options: list[str] = field(default_factory=list)
    """Words of `#SBATCH` lines."""


def read_script(text: str) -> Script:
    """The script of a text. Raises SpecError: a quote, a parenthesis or a brace that is never closed."""
    script = Script()
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            script.batch_options += line.removeprefix("#SBATCH").partition(" #")[0].split()
    _Player(script).play(text, 0)
    return script


class _Player:
    def __init__(self, script: Script) -> None:
        self._script = script
        self._inside = 0  # conditions, loops and functions that are open
        self._reported = False

    def play(self, text: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise SpecError("the script evaluates itself without end")
        after_test = False
        for statement in lex(text):
            words, line = statement.words, statement.line
            first = words[0].plain if words else ""
            if first in _OPENS:
                self._open(first, line)
            elif first in _CLOSES or (first == "}" and self._inside):
                self._inside = max(0, self._inside - 1)
            elif first.endswith("()") or first == "function" or (len(words) > 1 and words[1].plain == "()"):
                self._open("a function", line)
            elif self._inside:
                continue
            elif after_test:
                self._leave_out(line, "a condition")
            elif first not in _TESTS:
                self._command(words, line, depth)
            after_test = (first in _TESTS or after_test) and statement.ends_with in ("&&", "||")

    def _open(self, what: str, line: int) -> None:
        if not self._inside:
            self._leave_out(line, what)
        self._inside += 1

    def _leave_out(self, line: int, what: str) -> None:
        self._script.left_out.append(f"line {line}: what stands under {what} is not evaluated, and left out")

    def _command(self, words: list[Word], line: int, depth: int) -> None:
        rest = list(words)
        while rest and (rest[0].plain in _DECLARES or rest[0].plain == ":"):
            if rest.pop(0).plain == ":":  # it only expands its words, for their `:=`
                self._expanded(rest)
                return
        while rest and (match := _NAME.match(rest[0].prefix)):
            self._assign(match[1], bool(match[2]), rest.pop(0), match.end())
        found = self._expanded(rest)
        if not found:
            return
        if found[0] == "eval":
            self.play(" ".join(found[1:]), depth + 1)
            return
        if "-c" in found[1:] and (inner := found[found.index("-c") + 1 :]) and " " in inner[0]:
            # bash -c "...": what stands before it (srun) still counts
            before = found[: found.index("-c")]
            length = len(self._script.commands)
            self.play(inner[0], depth + 1)
            for index in range(length, len(self._script.commands)):
                command = self._script.commands[index]
                self._script.commands[index] = Command((*before, *command.words), line)
            return
        self._script.commands.append(Command(tuple(found), line))

    def _assign(self, name: str, appends: bool, word: Word, start: int) -> None:
        variables = self._script.variables
        if word.elements is not None:
            value = self._expanded(word.elements)
            variables[name] = [*variables.get(name, []), *value] if appends else value
            return
        text = "".join(self._text(piece) for piece in word.after(start))
        old = " ".join(variables.get(name, [])) if appends else ""
        variables[name] = [old + text]

    def _expanded(self, words: list[Word]) -> list[str]:
        found: list[str] = []
        for word in words:
            found += self._split(word)
            if len(found) > _MOST_WORDS:
                raise SpecError(f"a command of more than {_MOST_WORDS} words")
        return found

    def _split(self, word: Word) -> list[str]:
        """The words that a word becomes: an unquoted variable falls apart at blanks, an array into its elements."""
        parts: list[str] = []
        current, begun = "", word.quoted
        for piece in word.pieces:
            if piece.kind == "variable" and piece.all_elements and piece.name in self._script.variables:
                values = self._script.variables[piece.name]
                if not piece.quoted:
                    values = [part for value in values for part in value.split()]
                if values:
                    parts += [current + values[0], *values[1:]]
                    current, begun = parts.pop(), True
                continue
            text = self._text(piece)
            if piece.kind == "text" or piece.quoted:
                current, begun = current + text, begun or bool(text)
                continue
            pieces = text.split()
            if not pieces:
                continue
            if text[0].isspace() and begun:
                parts.append(current)
                current = ""
            parts += [current + pieces[0], *pieces[1:]]
            current, begun = parts.pop(), True
        return [*parts, current] if begun else parts

    def _text(self, piece: Piece) -> str:
        if piece.kind == "text":
            return piece.text
        if piece.kind == "arithmetic":
            return self._arithmetic(piece)
        if piece.kind == "command":
            return piece.text
        if piece.name in ("@", "*"):
            return ""
        values = self._script.variables.get(piece.name)
        value = None if values is None else " ".join(values) if piece.all_elements else (values or [""])[0]
        if piece.default is not None and not value:
            text = "".join(self._text(inner) for inner in piece.default)
            if piece.assigns:
                self._script.variables[piece.name] = [text]
            return text
        return piece.text if value is None else value

    def _arithmetic(self, piece: Piece) -> str:
        """Whole numbers, + - * / %, and variables of numbers; anything else stays as it is written."""
        source = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: match[1] or match[2], piece.name)
        try:
            return str(self._number(ast.parse(source.strip(), mode="eval").body))
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return piece.text

    def _number(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)) if not isinstance(value, bool) and abs(value) < 10**12:
                return value
            case ast.Name(id=name):
                return int(self._script.variables.get(name, ["?"])[0])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._number(left), self._number(right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
        raise ValueError
