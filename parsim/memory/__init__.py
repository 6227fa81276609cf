"""The memory ledger: what a rank holds, when, and every byte named."""

from parsim.memory.replay import CATEGORIES, Moment, RankMemory, memory_samples, replay
from parsim.memory.run_memory import memory_of, weight_share
from parsim.memory.stage import StageActivations, scan

__all__ = [
    "CATEGORIES",
    "Moment",
    "RankMemory",
    "StageActivations",
    "memory_of",
    "memory_samples",
    "replay",
    "scan",
    "weight_share",
]
