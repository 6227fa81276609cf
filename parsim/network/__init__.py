"""Links between ranks, and what collectives and messages cost over them."""

from parsim.network.price import Latency, Links, Path, collective_seconds, path_between

__all__ = ["Latency", "Links", "Path", "collective_seconds", "path_between"]
