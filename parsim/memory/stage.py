"""A stage as the replay sees it: how much a micro-batch holds, and how high its ops reach while they run.

The list of ledger entries is scanned once forward and once backward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parsim.memory.ledger import Entry, total

__all__ = ["StageActivations", "scan"]


@dataclass(frozen=True)
class StageActivations:
    """Bytes of one micro-batch on one stage.

    `saved` stays from F to B (or I); `kept` from I to W. The peaks count from the moment before the op: F's peak on
    top of what is live, B's and I's with the stage's own saved bytes included, W's with its kept bytes included.
    """

    saved: float
    kept: float
    forward_peak: float
    backward_peak: float
    input_peak: float
    weight_peak: float


def scan(units: Sequence[Sequence[Entry]], inputs: Sequence[float | None]) -> StageActivations:
    """A stage made of `units` (layers, embedding, head) in forward order.

    `inputs[i]` is None for a unit that saves what its ledger says; otherwise the unit is recomputed as a whole in
    the backward, and only its input, of that many bytes, is saved.
    """
    live = peak = 0.0
    for entries, kept_input in zip(units, inputs, strict=True):
        base = live + (kept_input or 0.0)
        inside = 0.0
        for entry in entries:
            inside += entry.saved
            peak = max(peak, base + inside + entry.forward)
        live = base + (inside if kept_input is None else 0.0)
    saved = live
    full, split, kept = _backward(units, inputs, saved)
    weight = max((entry.backward for entries in units for entry in entries), default=0.0)
    return StageActivations(saved, kept, peak, full, split, kept + weight)


def _backward(
    units: Sequence[Sequence[Entry]], inputs: Sequence[float | None], live: float
) -> tuple[float, float, float]:
    """Peak of B, peak of I, and what I keeps for W."""
    full = split = live
    kept = 0.0
    for entries, kept_input in zip(reversed(units), reversed(inputs), strict=True):
        if kept_input is not None:
            live += total(entries)  # recomputed now, all of it
            full, split = max(full, live), max(split, live + kept)
        for entry in reversed(entries):
            full = max(full, live + entry.backward)
            split = max(split, live + kept + entry.backward)
            live -= entry.saved
            kept += entry.kept
        live -= kept_input or 0.0
    return full, split, kept
