"""Conditions of a shell script, as far as they can be known: `[ ... ]`, `[[ ... ]]` and `test` on known words."""

import re
from collections.abc import Sequence

__all__ = ["truth"]

_NUMBERS = {"-eq", "-ne", "-gt", "-ge", "-lt", "-le"}


def truth(words: Sequence[str]) -> bool | None:
    """Whether a test holds; None where it depends on what only a run would tell: a variable that the script does not
    set, a command's output, a file.
    """
    inner = list(words)
    if inner and inner[0] in ("[", "[[", "test"):
        closing = {"[": "]", "[[": "]]"}.get(inner.pop(0))
        if closing is not None and (not inner or inner.pop() != closing):
            return None
    elif inner != ["true"] and inner != ["false"]:
        return None
    else:
        return inner == ["true"]
    if inner[:1] == ["!"]:
        opposite = truth(["test", *inner[1:]])
        return None if opposite is None else not opposite
    if any("$" in word or "`" in word for word in inner):
        return None
    match inner:
        case [word]:
            return bool(word)
        case ["-z", word]:
            return not word
        case ["-n", word]:
            return bool(word)
        case [left, "=" | "==", right]:
            return None if re.search(r"[*?\[]", right) else left == right
        case [left, "!=", right]:
            return None if re.search(r"[*?\[]", right) else left != right
        case [left, operator, right] if operator in _NUMBERS and _is_number(left) and _is_number(right):
            a, b = int(left), int(right)
            order = {"-eq": a == b, "-ne": a != b, "-gt": a > b, "-ge": a >= b, "-lt": a < b, "-le": a <= b}
            return order[operator]
    return None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,15}", text) is not None
