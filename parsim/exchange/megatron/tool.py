"""Megatron-LM as a table of names. The names are those of Megatron-LM with megatron-core 0.16: add_argument calls of
megatron/training/arguments.py, and fields of megatron.core's configurations, which become flags of the same name.
"""

from parsim.exchange.megatron.experts import EXPERTS
from parsim.exchange.megatron.latent import LATENT
from parsim.exchange.megatron.model import MODEL
from parsim.exchange.megatron.parallel import PARALLEL
from parsim.exchange.megatron.pipeline import PIPELINE
from parsim.exchange.megatron.precision import PRECISION
from parsim.exchange.megatron.software import SOFTWARE
from parsim.exchange.table import Tool

__all__ = ["MEGATRON"]

MEGATRON = Tool(
    name="Megatron-LM",
    release="Megatron-LM, megatron-core 0.16",
    entries=(*MODEL, LATENT, EXPERTS, *PARALLEL, PIPELINE, PRECISION, *SOFTWARE),
    outside={
        "cluster": "the launcher says how many nodes and GPUs; what they are, no flag says",
        "network": "no flag says anything of links",
    },
)
