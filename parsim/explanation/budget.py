"""A token budget: how long a run takes for so many tokens, and what it costs.

    days = tokens / (tokens/s) / 86,400        GPU-hours = GPUs * hours        dollars = GPU-hours * rate
    MWh = GPU-hours * watts per GPU / 10^6     FLOP = model FLOP of a step * tokens / tokens of a step; 6 N D beside it

The predicted step all the time: no restarts, checkpoints or evaluation. Power is that of the GPUs alone, all the time
what was said.
"""

import math
from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError

__all__ = ["TokenBudget", "budget_of", "gpu_hours_at"]

_HOUR = 3600.0
_DAY = 24 * _HOUR


@dataclass(frozen=True)
class TokenBudget:
    """What `tokens` take on `gpus` at `tokens_per_s`. `active_parameters`: N of 6 N D."""

    tokens: float
    tokens_per_s: float
    tokens_per_step: int
    gpus: int
    flops_per_step: float
    active_parameters: float
    dollars_per_gpu_hour: float | None = None
    watts_per_gpu: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.tokens / self.tokens_per_s

    @property
    def days(self) -> float:
        return self.seconds / _DAY

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / _HOUR

    @property
    def steps(self) -> int:
        """Whole steps that see all tokens."""
        return math.ceil(self.tokens / self.tokens_per_step)

    @property
    def flops(self) -> float:
        """Model FLOP, attention over the full square."""
        return self.flops_per_step * self.tokens / self.tokens_per_step

    @property
    def six_n_d(self) -> float:
        """The rule of thumb for the same."""
        return 6.0 * self.active_parameters * self.tokens

    @property
    def dollars(self) -> float | None:
        return None if self.dollars_per_gpu_hour is None else self.gpu_hours * self.dollars_per_gpu_hour

    @property
    def megawatt_hours(self) -> float | None:
        return None if self.watts_per_gpu is None else self.gpu_hours * self.watts_per_gpu / 1e6

    @property
    def assumptions(self) -> list[str]:
        """What the numbers take for granted, a line each."""
        found = ["the predicted step all the time: no restarts, no checkpoints, no evaluation"]
        if self.watts_per_gpu is not None:
            found.append(
                f"{self.watts_per_gpu:g} W for each GPU all the time; hosts, network and cooling are not counted"
            )
        return found

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "tokens": self.tokens,
            "steps": self.steps,
            "days": self.days,
            "gpu_hours": self.gpu_hours,
            "dollars_per_gpu_hour": self.dollars_per_gpu_hour,
            "dollars": self.dollars,
            "watts_per_gpu": self.watts_per_gpu,
            "mwh": self.megawatt_hours,
            "flops": self.flops,
            "six_n_d": self.six_n_d,
            "assumptions": self.assumptions,
        }


def budget_of(
    *,
    tokens: float,
    tokens_per_s: float,
    tokens_per_step: int,
    gpus: int,
    flops_per_step: float,
    active_parameters: float,
    dollars_per_gpu_hour: float | None = None,
    watts_per_gpu: float | None = None,
) -> TokenBudget:
    """A budget; SpecError for a number that is negative or not finite, or for no tokens at all."""
    _check("--tokens", tokens, above_zero=True)
    for name, value in (("--dollars-per-gpu-hour", dollars_per_gpu_hour), ("--watts-per-gpu", watts_per_gpu)):
        if value is not None:
            _check(name, value)
    return TokenBudget(
        tokens,
        tokens_per_s,
        tokens_per_step,
        gpus,
        flops_per_step,
        active_parameters,
        dollars_per_gpu_hour,
        watts_per_gpu,
    )


def gpu_hours_at(flops: float, peak_flops_per_s: float, mfu: float) -> float:
    """GPU-hours of `flops` at a share `mfu` of the peak. SpecError unless 0 < mfu <= 1."""
    if not 0 < mfu <= 1:
        raise SpecError(f"mfu {mfu:g}: must be above 0 and at most 1")
    return flops / (peak_flops_per_s * mfu) / _HOUR


def _check(name: str, value: float, above_zero: bool = False) -> None:
    if not 0 <= value <= 1e30 or (above_zero and not value):
        raise SpecError(f"{name} {value:g}: must be {'above 0' if above_zero else '0 or more'} and at most 1e30")
