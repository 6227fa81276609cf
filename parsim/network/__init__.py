"""Links between ranks, and what collectives and messages cost over them."""

from parsim.network.price import Links, Path, collective_seconds, path_between

__all__ = ["Links", "Path", "collective_seconds", "path_between"]
