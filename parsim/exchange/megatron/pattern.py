"""Megatron's lists of layers: a frequency, or sums and products of lists such as ([0]*3+[1]*58)."""

import re

from parsim.errors import SpecError

__all__ = ["pattern_of"]

_PATTERN = re.compile(r"[\[\]()+*,\d]+")
_LONGEST_PATTERN = 100_000


def pattern_of(name: str, text: str) -> int | list[int]:
    """What Megatron reads of a frequency: a number, or a list written as "([0]*3+[1]*58)". SpecError for others."""
    text = text.replace(" ", "")
    if re.fullmatch(r"\d{1,6}", text):
        return int(text)
    if not _PATTERN.fullmatch(text) or len(text) > _LONGEST_PATTERN:
        raise SpecError(f"{name} {text[:60]}: a number, or a list such as ([0]*3+[1]*58)")
    try:
        return _Pattern(text).whole()
    except (IndexError, ValueError):
        raise SpecError(f"{name} {text[:60]}: not a list such as ([0]*3+[1]*58)") from None


class _Pattern:
    """Sums and products of lists, read from left to right: nothing of it is ever evaluated as code."""

    def __init__(self, text: str) -> None:
        self._tokens = re.findall(r"\d+|[\[\]()+*,]", text)
        self._at = 0

    def whole(self) -> list[int]:
        value = self._sum()
        if self._at != len(self._tokens):
            raise ValueError
        return value

    def _take(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _number(self) -> int:
        self._at += 1
        return int(self._tokens[self._at - 1])

    def _sum(self) -> list[int]:
        value = self._product()
        while self._take("+"):
            value = value + self._product()
        return value

    def _product(self) -> list[int]:
        value = self._list()
        while self._take("*"):
            times = self._number()
            if len(value) * times > _LONGEST_PATTERN:
                raise ValueError
            value = value * times
        return value

    def _list(self) -> list[int]:
        if self._take("("):
            value = self._sum()
            if not self._take(")"):
                raise ValueError
            return value
        if not self._take("["):
            raise ValueError
        value = [] if self._tokens[self._at] == "]" else [self._number()]
        while self._take(","):
            value.append(self._number())
        if not self._take("]"):
            raise ValueError
        return value
