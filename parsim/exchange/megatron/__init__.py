"""Megatron-LM: a run as the flags of its training script, and a script or command line as a run."""

from parsim.exchange.megatron.command import megatron_script, read_megatron
from parsim.exchange.megatron.tool import MEGATRON

__all__ = ["MEGATRON", "megatron_script", "read_megatron"]
