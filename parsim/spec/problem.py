"""Problem: pydantic's account of what is wrong, as one line: where, the value, the rule, the nearest legal choice."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from parsim.errors import SpecError
from parsim.spec.base import Spec

__all__ = ["choose", "shown", "validated"]

_LONGEST_VALUE = 60

SpecT = TypeVar("SpecT", bound=Spec)


def validated(cls: type[SpecT], document: object, where: str) -> SpecT:
    """The spec that plain values spell. SpecError: one line that begins with `where` (a file, or empty)."""
    try:
        return cls.model_validate(document)
    except ValidationError as error:
        raise SpecError(f"{where}: {_line(cls, error)}" if where else _line(cls, error)) from None
    except SpecError as error:  # the cross-checks of a run
        raise type(error)(f"{where}: {error}" if where else str(error)) from None


def choose(value: str, known: Sequence[str]) -> str:
    """A hint towards the nearest of the known words."""
    close = get_close_matches(value, known, n=1, cutoff=0.5)
    if not close and len(value) > 2:
        close = [word for word in known if value in word]
    return f"did you mean {close[0]!r}?" if close else f"one of {', '.join(known)}"


def shown(value: object) -> str:
    """A value as an error line shows it."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _line(cls: type[Spec], error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # A misspelt field is also missing under its right name: the misspelling says more.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    others = len(problems) - 1 if first["type"] != "extra_forbidden" else _others(problems)
    line = _sentence(cls, dict(first))
    return f"{line} (and {others} more)" if others > 0 else line


def _others(problems: Sequence[Any]) -> int:
    return len([p for p in problems if p["type"] != "missing"]) - 1


def _sentence(cls: type[Spec], problem: dict[str, Any]) -> str:
    location, kind, value = problem["loc"], problem["type"], problem["input"]
    path = ".".join(str(step) for step in location if step != "[key]") or cls.__name__
    context = problem.get("ctx") or {}
    if kind == "extra_forbidden":
        return f"{path}: no such field; {choose(str(location[-1]), _fields(cls, location[:-1]))}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    if kind == "literal_error":
        words = [word.strip("'") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{path} {shown(value)}: {choose(str(value), words)}"
    return (
        f"{path} {shown(value)}: {_RULES.get(kind, problem['msg'][0].lower() + problem['msg'][1:]).format(**context)}"
    )


_RULES = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "model_type": "must be a mapping of fields to values",
    "mapping_type": "must be a mapping of names to values",
    "tuple_type": "must be a list",
}


def _fields(cls: type[BaseModel], location: Sequence[object]) -> list[str]:
    """Names of the fields at a place, as far as the types tell."""
    current: type[BaseModel] | None = cls
    for step in location:
        field = current.model_fields.get(str(step)) if current is not None else None
        current = _model_in(field.annotation) if field is not None else None
    return list(current.model_fields) if current is not None else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
