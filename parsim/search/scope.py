"""Scope: a search in hand. It is known by identity, so that what is found of it is remembered without reading it again
each time; two scopes of equal searches share nothing."""

from functools import lru_cache
from typing import Any

from parsim.spec import Search

__all__ = ["Scope", "scope_of"]


class Scope(Search):
    """A search that is equal to itself alone."""

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: Any) -> bool:
        return self is other


@lru_cache(maxsize=16)
def scope_of(text: str) -> Scope:
    """The scope of a search's document, as JSON: what is sent to workers. One for each process and document."""
    search = Search.model_validate_json(text)
    return Scope.model_construct(**{name: getattr(search, name) for name in Search.model_fields})
