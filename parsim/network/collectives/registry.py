"""The algorithms of this folder, found by discovery: a function named as its kind in a file named as itself."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from types import MappingProxyType
from typing import Any

from parsim.errors import LayoutError
from parsim.network.collectives.rounds import Group, Round

__all__ = ["ALGORITHMS", "KINDS", "Algorithm", "rounds_of"]

Algorithm = Callable[..., Iterator[Round]]
"""(group, size_bytes, options by name) -> rounds; an all-to-all takes a matrix of bytes as well."""

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "send")


def _discovered() -> Mapping[str, Mapping[str, Algorithm]]:
    """Algorithms by kind and name. A module's `__all__` says which functions are its own."""
    found: dict[str, dict[str, Algorithm]] = {kind: {} for kind in KINDS}
    package = __name__.rpartition(".")[0]
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for kind in set(KINDS) & set(module.__all__):
            found[kind][info.name] = getattr(module, kind)
    return MappingProxyType({kind: MappingProxyType(by_name) for kind, by_name in found.items()})


ALGORITHMS = _discovered()
"""Every algorithm, as ALGORITHMS[kind][name]."""


def rounds_of(kind: str, name: str, group: Group, size_bytes: Any, **options: int) -> list[Round]:
    """All rounds of a collective. LayoutError for a kind or an algorithm that there is not, and what it refuses."""
    by_name = _named(ALGORITHMS, kind, "collective")
    algorithm = _named(by_name, name, f"algorithm for {kind}")
    takes = list(signature(algorithm).parameters)[2:]
    wrong = next((option for option in options if option not in takes), None)
    if wrong is not None:
        raise LayoutError(f"{kind} by {name} has no option {wrong!r}; it has {', '.join(takes) or 'none'}")
    return list(algorithm(group, size_bytes, **options))


def _named(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name in table:
        return table[name]
    close = get_close_matches(name.lower().replace("-", "_"), table, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(table)}"
    raise LayoutError(f"no {what} is called {name!r}; {hint}")
