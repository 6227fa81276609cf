"""The planner: every layout of a space judged, the best of them played, every rejection explained.

The room has the name of what it does: `parsim.search(...)` calls its `search`, whether the room was imported before or
not.
"""

import sys
from types import ModuleType
from typing import Any

from parsim.search.planner import search
from parsim.search.result import SearchResult

__all__ = ["SearchResult", "search"]


class _Callable(ModuleType):
    """A module that is called as the function it is named after."""

    def __call__(self, *args: Any, **options: Any) -> SearchResult:
        return search(*args, **options)


sys.modules[__name__].__class__ = _Callable
