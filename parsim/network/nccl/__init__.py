"""NCCL's own model of its collectives: what its search finds on a topology, what it then expects, what it chooses."""

from parsim.network.nccl.model import PROTOCOLS, Choice, Kind, Protocol, Term, channels_used, choose, terms
from parsim.network.nccl.search import Channels, Search, search

__all__ = [
    "PROTOCOLS",
    "Channels",
    "Choice",
    "Kind",
    "Protocol",
    "Search",
    "Term",
    "channels_used",
    "choose",
    "search",
    "terms",
]
