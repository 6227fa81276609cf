"""Rules: what one player or another cannot do with a run yet, as data. A run that breaks one is refused by name."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from parsim.errors import LayoutError
from parsim.spec.run import Run

__all__ = ["Rule", "check_rules"]


class Rule(NamedTuple):
    """A field, how a run breaks the rule, and the value that would do."""

    field: str
    breaks: Callable[[Run], bool]
    would_do: str


def check_rules(run: Run, rules: Iterable[Rule], why: str) -> None:
    """LayoutError that names the first rule `run` breaks: the field, its value, why, the value that would do."""
    for rule in rules:
        if rule.breaks(run):
            raise LayoutError(f"{rule.field}{_value(run, rule.field)}: {why}; {rule.would_do} would do")


def _value(run: Run, field: str) -> str:
    """A field's value as it follows its name in a message."""
    value: object = run
    for name in field.split("."):
        value = getattr(value, name)
    if hasattr(value, "model_dump"):
        return ""  # a part of the specification: that it is there is what matters
    return " " + (", ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower())
