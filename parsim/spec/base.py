"""Spec: the base of every specification, a frozen value that refuses what it does not know.

Specs are hashable (their mappings are frozen too), so that whatever is computed from one can be remembered by it.
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NoReturn, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

__all__ = ["AtLeastZero", "ByName", "Count", "Flag", "FrozenMap", "Name", "Share", "Spec", "StrictMapping"]

LARGEST_COUNT = 10**9

Count = Annotated[int, Field(strict=True, ge=1, le=LARGEST_COUNT)]
"""A whole number from 1 on; 1.0, True and "1" are refused."""
AtLeastZero = Annotated[int, Field(strict=True, ge=0, le=LARGEST_COUNT)]
Share = Annotated[float, Field(strict=True, ge=0.001, le=1, allow_inf_nan=False)]
"""A part of a whole, from a thousandth up to 1."""
Flag = Annotated[bool, Field(strict=True)]
Name = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200)]

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(dict[K, V]):
    """A mapping that is hashable and cannot be changed; in JSON it is an object like any other."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMap, (dict(self),)

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("a specification is frozen; copy it with model_copy(update=...)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


def _freeze(value: Mapping[K, V]) -> Mapping[K, V]:
    return FrozenMap(value)


StrictMapping = Annotated[Mapping[K, V], AfterValidator(_freeze)]


class ByName:
    """Marks a field that a file may also fill with a catalogue name or a path, or with `{name: ..., changes}`."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        changed = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
        return {"anyOf": [{"type": "string"}, handler(core), changed]}


class Spec(BaseModel):
    """A frozen specification; unknown fields are errors. What is asked for by specifications is asked for often, so a
    hash is computed once (a copy's anew; evidence is left to the comparison), and comparing takes Python's own way
    through the fields.
    """

    __slots__ = ("_known_hash",)
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __hash__(self) -> int:
        try:
            known: int = _KNOWN_HASH.__get__(self)  # pydantic's own look-up of a missing attribute is slow
        except AttributeError:
            known = hash((type(self), *map(self.__dict__.__getitem__, _hashed_fields(type(self)))))
            _KNOWN_HASH.__set__(self, known)
        return known

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self.__dict__ == other.__dict__)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, which checks nothing; mappings and lists of the update are frozen, so that a copy is hashable
        as any specification is.
        """
        frozen = {name: _frozen(value) for name, value in (update or {}).items()}
        return super().model_copy(update=frozen, deep=deep)


_KNOWN_HASH: Any = Spec.__dict__["_known_hash"]


@cache
def _hashed_fields(spec: type[Spec]) -> tuple[str, ...]:
    return tuple(name for name in spec.model_fields if name != "evidence")


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenMap({name: _frozen(item) for name, item in value.items()})
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
