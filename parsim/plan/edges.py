"""Edges: what each rank plays before its first backward and after its last, counted without a plan.

Between its edges a rank plays the same whatever the order. So a bound on the step's time needs no more than these, and
lanes of different numbers of micro-batches are counted side by side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # plans do without numpy, and so do schedules until they are asked for edges
    import numpy as np
    import numpy.typing as npt

__all__ = ["Counts", "Edges", "Microbatches"]

Counts: TypeAlias = "npt.NDArray[np.intp]"
Microbatches: TypeAlias = "int | npt.NDArray[np.intp]"


@dataclass(frozen=True, eq=False)
class Edges:
    """Counts by stage, `[S, B]` for numbers of micro-batches `m[B]` (B = 1 for a single one), and stages by rank.

    - `played`: how often each kind of slot is played, by the stage of its (first) op: F, B, I, W alone, and FB, a
      forward that overlaps with a full backward of the rank's other stage.
    - `first_forward[ranks]`, `last_backward[ranks]`: the stages whose F of micro-batch 0 is the rank's first op, and
      whose backward of its last micro-batch is the rank's last one.
    - `first_backward[ranks]`: the stage whose backward is the first, all before it being the forwards `before[S, B]`;
      None where nothing is said about that.
    - `waiting_least`, `waiting_most`: bounds on the W played after the rank's last backward.
    """

    played: Mapping[str, Counts]
    first_forward: tuple[int, ...]
    last_backward: tuple[int, ...]
    waiting_least: Counts
    waiting_most: Counts
    first_backward: tuple[int, ...] | None = None
    before: "Counts | None" = None
