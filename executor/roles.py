"""Roles: what the interpreter asks of those it plays with: stages, weights, data, and whoever watches."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

__all__ = ["Feed", "Player", "Position", "Weights"]


class Player(Protocol):
    """A stage, as the worker sees it: real layers, or a sleep."""

    def forward(self, mb: int, x: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor: ...

    def backward(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None: ...

    def backward_input(self, mb: int, grad: torch.Tensor | None) -> torch.Tensor | None: ...

    def backward_weight(self, mb: int, done: Callable[[Any], None] | None = None) -> None: ...


class Weights(Protocol):
    """What happens to gradients and weights between the ops: reduced, stepped."""

    def done(self, parameter: Any) -> None:
        """A gradient has been added to."""
        ...

    def expect_last(self, stage: int) -> None:
        """The op that follows is the last that adds to the gradients of `stage`."""
        ...

    def last_done(self, stage: int) -> None: ...

    def reduce(self, stage: int) -> None: ...

    def wait(self, stage: int) -> None: ...

    def step(self, stage: int) -> None: ...


class Position(Protocol):
    """Where others can see what this rank is doing."""

    def enter(self, index: int) -> None: ...

    def wait(self, index: int) -> None: ...

    def leave(self) -> None: ...


class Feed(Protocol):
    """Inputs of the first stages and targets of the last ones, for one step."""

    def tokens(self, stage: int, mb: int) -> torch.Tensor: ...

    def targets(self, stage: int, mb: int) -> torch.Tensor: ...
