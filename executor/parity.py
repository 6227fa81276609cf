"""Parity: the gradients and losses of many ranks against those of a single process."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from executor.play import RankRecord
from parsim.errors import ParsimError

__all__ = ["Parity", "gathered_gradients", "parity_of"]

Arrays = Mapping[str, Any]
_NOISE = 1e-6


class Parity(NamedTuple):
    """How far the ranks are from the single process.

    `max_rel_diff` is the norm of the difference over the norm of the gradient, of the worst tensor (`worst`); a norm
    counts as a millionth of the largest at least, for some gradients are zero but for rounding (a bias of the keys);
    `max_abs_diff` the largest difference of any element; `copies_diff` the largest between two ranks that hold the same
    weight; `loss_diff` the largest relative difference of a step's loss.
    """

    max_rel_diff: float
    max_abs_diff: float
    worst: str
    copies_diff: float
    loss_diff: float


def gathered_gradients(ranks: Sequence[RankRecord]) -> tuple[dict[str, Any], float]:
    """Every weight's gradient by canonical name, and the largest difference between two ranks' copies of one."""
    found: dict[str, Any] = {}
    apart = 0.0
    for record in ranks:
        for name, gradient in record.gradients.items():
            if name in found:
                apart = max(apart, float(np.abs(found[name] - gradient).max(initial=0.0)))
            found[name] = gradient
    return found, apart


def parity_of(
    ranks: Sequence[RankRecord], losses: Sequence[float], expected: Arrays, expected_losses: Sequence[float]
) -> Parity:
    """Compare; ParsimError if the two do not even have the same weights."""
    found, apart = gathered_gradients(ranks)
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise ParsimError(f"the ranks' weights are not those of the single process: {', '.join(odd[:3])} differ")
    worst, relative, absolute = "", 0.0, 0.0
    least = _NOISE * max(
        (float(np.linalg.norm(np.asarray(g, dtype=np.float64))) for g in expected.values()), default=0.0
    )
    for name, gradient in expected.items():
        wide = np.asarray(gradient, dtype=np.float64)
        difference = np.asarray(found[name], dtype=np.float64) - wide
        norm = max(float(np.linalg.norm(wide)), least)
        size = float(np.linalg.norm(difference))
        ratio = size / norm if norm else (0.0 if size == 0.0 else float("inf"))
        if not ratio <= relative:  # not a number is worse than any
            worst, relative = name, ratio
        absolute = max(absolute, float(np.abs(difference).max(initial=0.0)))
    loss = max(
        (abs(a - b) / abs(b) if b else abs(a) for a, b in zip(losses, expected_losses, strict=True)), default=0.0
    )
    return Parity(relative, absolute, worst, apart, loss)
