"""Collectives as rounds of transfers: one function for each algorithm, one file for each family, found by discovery."""

from parsim.network.collectives.proof import prove
from parsim.network.collectives.registry import ALGORITHMS, KINDS, Algorithm, rounds_of
from parsim.network.collectives.rounds import (
    Group,
    Round,
    Transfer,
    received_bytes,
    round_of,
    sent_bytes,
    steps,
)

__all__ = [
    "ALGORITHMS",
    "KINDS",
    "Algorithm",
    "Group",
    "Round",
    "Transfer",
    "prove",
    "received_bytes",
    "round_of",
    "rounds_of",
    "sent_bytes",
    "steps",
]
