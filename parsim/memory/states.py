"""What a rank holds for each parameter: weights, gradients, optimizer states.

Bytes per parameter of mixed-precision Adam (1910.02054): 2 weight, 2 or 4 gradient, 4 master, 4 + 4 moments. ZeRO
divides by the D ranks that share one set of states: stage 1 the optimizer, 2 also gradients, 3 also weights. Experts
have a D of their own: the ranks that hold the same ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parsim.errors import LayoutError
from parsim.memory.ledger.tokens import low_precision_bytes
from parsim.memory.presets import habits_of
from parsim.model.weights import Weight
from parsim.spec import Run

__all__ = [
    "BytesPerParameter",
    "Held",
    "bytes_per_parameter",
    "gradient_bytes_of",
    "held_of",
    "quantised_copy_bytes",
    "shards_of",
    "state_bytes",
    "update_bytes",
]

# Numbers kept per parameter: fp32, in fp64 runs fp64. Muon keeps one of a layer's matrices, two of all else.
_MOMENTS = {"adam": 2, "lamb": 2, "muon": 2, "sgd": 0, "momentum": 1}
_MASTER_BYTES = 4
_TABLES = ("positions", "router")  # neither is a matrix of a layer in low precision, nor Muon's


@dataclass(frozen=True)
class BytesPerParameter:
    """Bytes per parameter a rank holds, ZeRO already applied."""

    parameters: float
    gradients: float
    optimizer: float


@dataclass(frozen=True)
class Held:
    """Parameters of one rank: those that all of dp * cp share, the experts', and of both the layers' matrices."""

    dense: float = 0.0
    expert: float = 0.0
    dense_matrices: float = 0.0
    expert_matrices: float = 0.0

    def __add__(self, other: "Held") -> "Held":
        return Held(
            self.dense + other.dense,
            self.expert + other.expert,
            self.dense_matrices + other.dense_matrices,
            self.expert_matrices + other.expert_matrices,
        )

    def times(self, count: float) -> "Held":
        """So many of them."""
        return Held(self.dense * count, self.expert * count, self.dense_matrices * count, self.expert_matrices * count)

    @property
    def whole(self) -> float:
        """All parameters."""
        return self.dense + self.expert


def held_of(run: Run, weights: Iterable[Weight]) -> Held:
    """What one rank holds of `weights`."""
    layout = run.layout
    found = Held()
    for weight in weights:
        size = weight.size_of_rank(layout.mesh.tp, layout.ep, layout.expert_tp)
        matrix = size if len(weight.shape) > 1 and weight.cut != "vocab" and weight.name not in _TABLES else 0.0
        expert = weight.group == "expert"
        found += Held(0.0, size, 0.0, matrix) if expert else Held(size, 0.0, matrix, 0.0)
    return found


def shards_of(run: Run, expert: bool = False) -> int:
    """D: ranks that share one set of states, of the experts or of everything else."""
    if expert:
        return run.expert_dp
    return run.layout.zero_group or run.layout.mesh.dp * run.layout.mesh.cp


def bytes_per_parameter(run: Run, expert: bool = False, matrix: bool = False) -> BytesPerParameter:
    """What the run's software and ZeRO stage cost per parameter of this rank (before ZeRO: 18 by default)."""
    software, layout = run.software, run.layout
    if software.optimizer not in _MOMENTS:
        raise LayoutError(
            f"software.optimizer {software.optimizer!r}: its states are not modelled; {', '.join(_MOMENTS)} would do"
        )
    moments = 1 if matrix and software.optimizer == "muon" else _MOMENTS[software.optimizer]
    moment_bytes = 8 if layout.precision == "fp64" else 4
    # Weights that are as wide as a master copy are the masters themselves, whatever the file says.
    master = software.master_bytes if software.parameter_bytes < _MASTER_BYTES else 0
    shards, zero = shards_of(run, expert), layout.zero_stage
    computed = habits_of(software).held_gradient == "computed"
    gradient = min(software.gradient_bytes, software.parameter_bytes) if computed else software.gradient_bytes
    return BytesPerParameter(
        parameters=software.parameter_bytes / (shards if zero >= 3 else 1),
        gradients=gradient / (shards if zero >= 2 else 1),
        optimizer=(master + moment_bytes * moments) / (shards if zero >= 1 else 1),
    )


def state_bytes(run: Run, held: Held) -> dict[str, float]:
    """Bytes by category of the states of these parameters."""
    found = {"parameters": 0.0, "gradients": 0.0, "optimizer": 0.0}
    parts = (
        (held.dense - held.dense_matrices, False, False),
        (held.dense_matrices, False, True),
        (held.expert - held.expert_matrices, True, False),
        (held.expert_matrices, True, True),
    )
    for count, expert, matrix in parts:
        if count:
            each = bytes_per_parameter(run, expert, matrix)
            found["parameters"] += count * each.parameters
            found["gradients"] += count * each.gradients
            found["optimizer"] += count * each.optimizer
    return found


def gradient_bytes_of(run: Run, weights: Sequence[Weight]) -> list[tuple[Weight, float]]:
    """Each weight with the bytes of its gradient on one rank."""
    each = {expert: bytes_per_parameter(run, expert).gradients for expert in (False, True)}
    sizes = [weight.size_of_rank(run.layout.mesh.tp, run.layout.ep, run.layout.expert_tp) for weight in weights]
    return [(w, size * each[w.group == "expert"]) for w, size in zip(weights, sizes, strict=True)]


def quantised_copy_bytes(run: Run, held: Held) -> float:
    """Copies of the layers' weights in low precision, row-wise and transposed, beside 16-bit primary weights."""
    if not habits_of(run.software).quantised_copies:
        return 0.0
    return 2 * low_precision_bytes(run.layout.precision) * (held.dense_matrices + held.expert_matrices)


def update_bytes(run: Run, held: Held, largest: Held) -> float:
    """Temporary bytes of the optimizer step of a rank; `largest` is what a loop over tensors has at a time."""
    habits, zero = habits_of(run.software), run.layout.zero_stage
    whole = 0.0 if zero >= 3 else habits.step_whole_bytes * held.whole
    return habits.step_bytes * _updated(run, held) + whole + habits.step_tensor_bytes * _updated(run, largest)


def _updated(run: Run, held: Held) -> float:
    """Parameters that one rank updates: its share, where ZeRO cuts the optimizer."""
    if run.layout.zero_stage == 0:
        return held.whole
    return held.dense / shards_of(run) + held.expert / shards_of(run, expert=True)
