"""From the words of a command line to settings: each flag with what it takes, old names under their new ones."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.megatron.older import NO_BEARING, OLDER, VALUES
from parsim.exchange.table import Note, Setting

__all__ = ["settings_of_words"]

_ALMOST = 0.85  # likeness of an unknown flag to a known one that is taken for a slip of the pen
_NUMBERS = {"count": (int, "a whole number"), "whole": (int, "a whole number"), "number": (float, "a number")}
_LEAST = {"count": 1, "whole": 0}


def settings_of_words(
    words: Sequence[str], known: Mapping[str, Setting], notes: list[Note]
) -> tuple[dict[str, Any], int]:
    """Settings of a command's words, and how many flags of it are known. What is not read goes into `notes`.

    Of a flag that is stated twice the last one counts, as argparse has it. Raises SpecError: a value that is none, a
    flag one letter away from a known one, an old name beside its new one with another value.
    """
    found: dict[str, Any] = {}
    old: dict[str, tuple[str, Any]] = {}
    count = 0
    unread: list[str] = []
    for flag, values in _flags(words):
        if flag in known:
            count += 1
            found[flag] = _value(known[flag], values)
        elif flag in OLDER:
            count += 1
            _older(flag, values, known, old, notes)
        elif not flag.startswith(NO_BEARING):
            near = get_close_matches(flag, known, n=1, cutoff=_ALMOST)
            if near and not (flag.startswith(near[0]) or near[0].startswith(flag)):  # --tp-comm-overlap-cfg is no slip
                raise SpecError(f"unknown flag {flag}; did you mean {near[0]}?")
            unread.append(" ".join((flag, *values)))
    for flag, (name, value) in old.items():
        if found.setdefault(flag, value) != value:
            raise SpecError(f"{name} {value} and {flag} {found[flag]}: the old name contradicts the new one")
    for text in dict.fromkeys(unread):
        notes.append(Note(text if len(text) < 80 else f"{text[:77]}...", "not a flag that parsim reads"))
    return found, count


def _flags(words: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Flags with the values that follow them, each of one line; `--flag=value` is cut, a negative number is a value."""
    found: list[tuple[str, list[str]]] = []
    for word in (" ".join(word.split()) for word in words):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word.partition("=")
            found.append((name, [value] if equals else []))
        elif found:
            found[-1][1].append(word)
    return found


def _older(
    flag: str, values: list[str], known: Mapping[str, Setting], old: dict[str, tuple[str, Any]], notes: list[Note]
) -> None:
    words = OLDER[flag]
    if not words:
        if values and flag not in VALUES:
            raise SpecError(f"{flag} {values[0][:60]}: it takes no value")
        notes.append(Note(flag, "a flag of an earlier release without meaning in today's"))
        return
    notes.append(Note(flag, f"a name of an earlier release: read as {' '.join(words)}"))
    for name, own in _flags([*words, *values]):
        old[name] = flag, _value(known[name], own)


def _value(setting: Setting, values: list[str]) -> Any:
    name, takes = setting
    if takes == "switch":
        if values:
            raise SpecError(f"{name} {values[0][:60]}: it takes no value")
        return True
    if takes == "words":
        if not values:
            raise SpecError(f"{name}: it takes at least one value")
        return values
    if len(values) != 1:
        raise SpecError(f"{name} {' '.join(values)[:60]}".rstrip() + f": it takes one value, here are {len(values)}")
    text = values[0]
    if takes not in _NUMBERS:
        return text
    reads, what = _NUMBERS[takes]
    try:
        value = reads(text)
    except (ValueError, OverflowError):
        if "$" in text or "`" in text:
            raise SpecError(f"{name} {text[:60]}: the script does not tell its value; put a number there") from None
        raise SpecError(f"{name} {text[:60]}: {what} is needed") from None
    if not abs(value) <= 10**12:
        raise SpecError(f"{name} {text[:60]}: {what} of a sensible size is needed")
    if value < (least := _LEAST.get(takes, value)):
        raise SpecError(f"{name} {text[:60]}: {what} from {least} on is needed")
    return value
