"""torchtitan as a table of names: those of release 0.3, fields of torchtitan.config.configs by their dotted names
(`parallelism.tensor_parallel_degree`). Recipes are Python functions there; the TOML files of releases before it have
the same names for most of them (see reading).
"""

from parsim.exchange.table import Tool
from parsim.exchange.torchtitan.layout import LAYOUT
from parsim.exchange.torchtitan.pipeline import PIPELINE
from parsim.exchange.torchtitan.software import SOFTWARE

__all__ = ["TORCHTITAN"]

TORCHTITAN = Tool(
    name="torchtitan",
    release="torchtitan 0.3",
    entries=(*LAYOUT, PIPELINE, *SOFTWARE),
    outside={
        "cluster": "the launcher says how many nodes and GPUs there are",
        "network": "no setting says anything of links",
    },
)
