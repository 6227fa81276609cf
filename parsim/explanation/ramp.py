"""A batch ramp: training that begins with a small global batch and lets it grow, as GPT-3 did (2005.14165, appendix B).

Stated as Megatron states it (--rampup-batch-size START INCREMENT SAMPLES): from START to the run's batch in steps of
INCREMENT, each size for an equal share of SAMPLES. A small batch has few micro-batches, m = batch / (dp * micro-batch),
so that the pipeline's bubble, (p-1)/m of 1F1B, is large at first: what the ramp costs over the full batch is told in
seconds. What it does for convergence is not simulated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError

__all__ = ["BatchRamp", "RampStage", "ramp_batches"]

_MOST_SIZES = 1000
_MOST_SAMPLES = 1e15


@dataclass(frozen=True)
class RampStage:
    """Steps of one size, and what each takes."""

    global_batch_size: int
    microbatches: int
    steps: int
    step_time_s: float
    bubble_of_makespan: float
    mfu: float | None

    @property
    def seconds(self) -> float:
        """Of all its steps."""
        return self.steps * self.step_time_s

    @property
    def samples(self) -> int:
        return self.steps * self.global_batch_size

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "global_batch_size": self.global_batch_size,
            "microbatches": self.microbatches,
            "steps": self.steps,
            "samples": self.samples,
            "step_time_s": self.step_time_s,
            "seconds": self.seconds,
            "bubble_of_makespan": self.bubble_of_makespan,
            "mfu": self.mfu,
        }


@dataclass(frozen=True)
class BatchRamp:
    """The stages of a ramp, and a step of the full batch that follows it."""

    stages: tuple[RampStage, ...]
    full: RampStage
    sequence_length: int

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def samples(self) -> int:
        return sum(stage.samples for stage in self.stages)

    @property
    def bubble_of_makespan(self) -> float:
        """Idle time of all ranks over ranks times the time of the whole ramp."""
        return sum(stage.seconds * stage.bubble_of_makespan for stage in self.stages) / self.seconds

    @property
    def seconds_at_full_batch(self) -> float:
        """What the same samples would take in steps of the full batch."""
        return self.samples / self.full.global_batch_size * self.full.step_time_s

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "stages": [stage.document() for stage in self.stages],
            "full": self.full.document(),
            "steps": sum(stage.steps for stage in self.stages),
            "samples": self.samples,
            "tokens": self.samples * self.sequence_length,
            "seconds": self.seconds,
            "bubble_of_makespan": self.bubble_of_makespan,
            "seconds_at_full_batch": self.seconds_at_full_batch,
            "lost_s": self.seconds - self.seconds_at_full_batch,
        }


def ramp_batches(start: int, increment: int, samples: float, full: int) -> Sequence[tuple[int, int]]:
    """(global batch, steps) of each size below `full`, in order. SpecError for a ramp that does not reach it."""
    if not 1 <= start < full:
        raise SpecError(f"start {start}: a ramp begins below the run's global batch {full}; 1 to {full - 1} would do")
    if increment < 1 or (full - start) % increment:
        nearest = next(
            value for value in range(min(max(increment, 1), full - start), 0, -1) if not (full - start) % value
        )
        raise SpecError(f"increment {increment}: must divide {full} - {start} = {full - start}; {nearest} would do")
    if not 1 <= samples <= _MOST_SAMPLES:
        raise SpecError(f"samples {samples:g}: must be from 1 to {_MOST_SAMPLES:g}")
    sizes = (full - start) // increment
    if sizes > _MOST_SIZES:
        raise SpecError(f"increment {increment}: makes {sizes} sizes; at most {_MOST_SIZES} are simulated")
    found, consumed = [], 0
    for index in range(sizes):
        batch, until = start + index * increment, samples * (index + 1) / sizes
        steps = max(0, -(-int(until - consumed) // batch))
        consumed += steps * batch
        found.append((batch, steps))
    return [(batch, steps) for batch, steps in found if steps]
