"""A shell script as far as a command line of it can be known without running it.

Comments, quotes, continued lines, variables, arrays (`ARGS=( ... )`, `ARGS+=( ... )`, `"${ARGS[@]}"`), defaults
(`${TP:-8}`), whole-number arithmetic and conditions on known words are played as bash does. Nothing is executed: what a
command prints, an argument of the script or a variable that it does not set stays in the text as it is written ("$1"),
and what stands under a condition that depends on such, or in a loop, is left out and reported.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parsim.errors import SpecError
from parsim.exchange.shell_tests import truth
from parsim.exchange.shell_words import Piece, Statement, Word, lex

__all__ = ["Command", "Script", "read_script"]

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=", re.ASCII)
_LOOPS, _CLOSES = {"for", "while", "until", "case", "select"}, {"fi", "done", "esac"}
_TESTS, _DECLARES = {"[", "[[", "test", "true", "false"}, {"export", "declare", "local", "readonly", "typeset", "env"}
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
    """Plays statements in order. `_open` are the conditions, loops and functions around the present one: each is
    True where its branch runs, False where another does, None where nobody can know.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._open: list[bool | None] = []
        self._taken: list[bool | None] = []

    def play(self, text: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise SpecError("the script evaluates itself without end")
        statements = list(lex(text))
        at = 0
        while at < len(statements):
            words, line = statements[at].words, statements[at].line
            first = words[0].plain
            at += 1
            if first in ("if", "elif"):
                at = self._condition(statements, at - 1)
            elif first == "else":
                self._branch(_opposite(self._taken[-1]) if self._taken else None)
                words = words[1:]
            elif first in _LOOPS or _is_function(words):
                self._enter(None, line, "a function" if _is_function(words) else first)
            elif first in _CLOSES or (first == "}" and self._open):
                self._leave()
            elif first in ("then", "do", "{"):
                words = words[1:]
            else:
                at = self._list(statements, at - 1, depth)
                continue
            if first in ("else", "then", "do", "{") and words and all(self._open):
                self._command(words, line, depth)

    def _condition(self, statements: Sequence[Statement], at: int) -> int:
        """Read an `if` or `elif` up to its `then`; where the next statement stands."""
        begins, line = statements[at].words[0].plain, statements[at].line
        tests, joined = [statements[at].words[1:]], [statements[at].ends_with]
        at += 1
        while at < len(statements) and statements[at].words[0].plain != "then":
            tests.append(statements[at].words)
            joined.append(statements[at].ends_with)
            at += 1
        holds = self._chain(tests, joined) if all(self._open) or (begins == "elif" and all(self._open[:-1])) else None
        if begins == "if":
            self._enter(holds, line, "if")
            self._taken.append(holds)
        elif self._taken:
            before = self._taken[-1]
            now = False if before else None if before is None else holds
            self._branch(now)
            self._taken[-1] = True if before or now else None if None in (before, now) else False
        return at

    def _chain(self, tests: Sequence[list[Word]], joined: Sequence[str]) -> bool | None:
        """Tests joined by && and ||, from left to right."""
        value = truth(self._expanded(tests[0]))
        for words, joint in zip(tests[1:], joined, strict=False):
            other = truth(self._expanded(words))
            if joint == "&&":
                value = False if value is False or other is False else None if None in (value, other) else True
            elif joint == "||":
                value = True if value or other else None if None in (value, other) else False
            else:
                return None
        return value

    def _list(self, statements: Sequence[Statement], at: int, depth: int) -> int:
        """Commands joined by && and ||: a test decides on what follows it; where the next statement stands."""
        runs: bool | None = True
        while True:
            words, line, ends_with = statements[at]
            is_test = words[0].plain in _TESTS
            if all(self._open):
                if is_test and runs:
                    runs = truth(self._expanded(words))
                elif runs:
                    self._command(words, line, depth)
                elif runs is None:
                    self._leave_out(line, "a condition")
            at += 1
            if ends_with not in ("&&", "||") or at == len(statements):
                return at
            if ends_with == "||":  # what is no test succeeds
                runs = _opposite(runs)

    def _enter(self, runs: bool | None, line: int, what: str) -> None:
        if runs is None and all(self._open):
            self._leave_out(line, what)
        self._open.append(runs)
        if what != "if":
            self._taken.append(None)

    def _branch(self, runs: bool | None) -> None:
        if self._open:
            self._open[-1] = runs

    def _leave(self) -> None:
        if self._open:
            self._open.pop()
            self._taken.pop()

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
        for piece in self._without_defaults(word.pieces):
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

    def _without_defaults(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        """The pieces with those of a default in the place of a variable that is not set; they fall apart, or not, as
        they are quoted themselves.
        """
        for piece in pieces:
            unset = piece.default is not None and not "".join(self._script.variables.get(piece.name, []))
            if piece.quoted or not unset or piece.default is None or piece.assigns:
                yield piece
            else:
                yield from self._without_defaults(piece.default)

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


def _opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def _is_function(words: Sequence[Word]) -> bool:
    first = words[0].plain
    return first.endswith("()") or first == "function" or (len(words) > 1 and words[1].plain == "()")
