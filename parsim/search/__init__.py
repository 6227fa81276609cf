"""The planner: every layout of a space judged, the best of them played, every rejection explained."""

from parsim.search.planner import search
from parsim.search.result import SearchResult

__all__ = ["SearchResult", "search"]
