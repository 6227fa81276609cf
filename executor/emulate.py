"""Emulation: stages that sleep for the time their op is said to take. Every message is real.

So the timing of eight or sixteen ranks can be checked on a machine with two cores: what the plan makes the ranks wait
for, and what messages cost, is played; only the computing is not.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from parsim.cost.unit import UnitCost
from parsim.plan import Kind, Op, Slot

__all__ = ["NoFeed", "Pace", "Sleeper", "sleep_until"]

_OVERSHOOT_S = 0.15e-3
"""A sleep ends this much late now and then; the rest is spent looking at the clock."""


def sleep_until(deadline_s: float) -> None:
    """Return at a moment of `time.perf_counter`, late by microseconds."""
    while (left := deadline_s - time.perf_counter()) > 0:
        time.sleep(left - _OVERSHOOT_S if left > _OVERSHOOT_S else 0)


class Pace:
    """The times of all sleepers of a rank. A pair of ops sleeps once, for the pair's own time."""

    def __init__(self, times: UnitCost) -> None:
        self._times = times
        self._together: list[Op] | None = None

    def play(self, op: Op) -> None:
        """Sleep as long as the op takes; inside `pair`, only take note of it."""
        if self._together is None:
            sleep_until(time.perf_counter() + self._times.seconds(Slot(op)))
        else:
            self._together.append(op)

    def pair(self, lanes: tuple[int, int], first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """The worker's `pair`: both ops together."""
        began = time.perf_counter()
        self._together = []
        made = first(), second()
        forward, backward = self._together
        self._together = None
        sleep_until(began + self._times.seconds(Slot(forward, backward)))
        return made


class Sleeper:
    """A stage that takes time and makes nothing: what it hands on has the right shape and type."""

    def __init__(
        self, stage: int, pace: Pace, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._stage, self._pace = stage, pace
        self._made = torch.zeros(shape, dtype=dtype, device=device)
        self._loss = torch.zeros((), dtype=dtype, device=device)

    def forward(self, mb: int, x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        self._pace.play(Op(self._stage, Kind.F, mb))
        return self._made if target is None else self._loss

    def backward(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None:
        self._pace.play(Op(self._stage, Kind.B, mb))
        return self._made

    def backward_input(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None:
        self._pace.play(Op(self._stage, Kind.I, mb))
        return self._made

    def backward_weight(self, mb: int, done: Callable[[Any], None] | None = None) -> None:
        self._pace.play(Op(self._stage, Kind.W, mb))


class NoFeed:
    """Sleepers need no data; a target tells the last one to make a loss."""

    def __init__(self) -> None:
        self._nothing = torch.zeros(())

    def tokens(self, stage: int, mb: int) -> torch.Tensor:
        return self._nothing

    def targets(self, stage: int, mb: int) -> torch.Tensor:
        return self._nothing
