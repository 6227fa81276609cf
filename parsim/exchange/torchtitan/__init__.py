"""torchtitan: a run as a Python recipe with its schedule beside it, and a recipe or an older TOML file as a run."""

from parsim.exchange.torchtitan.reading import read_torchtitan
from parsim.exchange.torchtitan.recipe import torchtitan_files
from parsim.exchange.torchtitan.tool import TORCHTITAN

__all__ = ["TORCHTITAN", "read_torchtitan", "torchtitan_files"]
