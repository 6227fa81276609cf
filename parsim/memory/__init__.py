"""The memory ledger: what a rank holds, when, and every byte named."""

from parsim.memory.profile import RankProfile, peak_bytes, profiles_of
from parsim.memory.replay import CATEGORIES, Holding, Item, Moment, RankMemory, memory_samples, replay
from parsim.memory.reserved import CONTEXT_BYTES, device_bytes, limited_bytes
from parsim.memory.run_memory import holdings_of, memory_of, weight_share
from parsim.memory.stage import StageActivations, scan
from parsim.memory.summary import MemorySummary, summary_of

__all__ = [
    "CATEGORIES",
    "CONTEXT_BYTES",
    "Holding",
    "Item",
    "MemorySummary",
    "Moment",
    "RankMemory",
    "RankProfile",
    "StageActivations",
    "device_bytes",
    "holdings_of",
    "limited_bytes",
    "memory_of",
    "memory_samples",
    "peak_bytes",
    "profiles_of",
    "replay",
    "scan",
    "summary_of",
    "weight_share",
]
