"""Tokens: the sizes that activations of one micro-batch are made of, on one rank.

s tokens of a sequence on this rank, b sequences of a micro-batch, h hidden, f ffn, g = 2 if gated else 1
q = heads * head_dim, kv = kv_heads * head_dim, t tensor-parallel degree, sp = t with sequence parallelism else 1
U = word * s * b, the bytes of one column over the tokens

The residual stream has the word of the matmuls, except under autocast, where it has that of the weights.
"""

from dataclasses import dataclass

from parsim.memory.presets import habits_of
from parsim.spec import Run

__all__ = ["Tokens", "low_precision_bytes", "tokens_of"]


@dataclass(frozen=True)
class Tokens:
    """See the module's symbols. `context` is the whole sequence; `input_word` the bytes of an element of an input kept
    for a weight gradient: the word, or of fp8 the column-wise copy and its scales.
    """

    column: float
    """U: bytes of one column over the tokens."""
    sequence: int
    context: int
    sequences: int
    hidden: int
    tp: int
    sp: int
    word: int
    residual: int
    input_word: float

    @property
    def count(self) -> int:
        """Tokens of the micro-batch on this rank, not cut by sequence parallelism."""
        return self.sequence * self.sequences

    @property
    def stream(self) -> float:
        """Bytes of the residual stream, and of the gradient of it."""
        return self.normed * self.residual / self.word

    @property
    def normed(self) -> float:
        """U h / sp: bytes of the stream as matmuls read and write it."""
        return self.column * self.hidden / self.sp

    @property
    def whole(self) -> float:
        """U h: the same, not cut by sequence parallelism."""
        return self.column * self.hidden

    @property
    def gathered(self) -> float:
        """The gathered input that a column-parallel matmul holds under sequence parallelism: U h, else nothing."""
        return self.whole if self.sp > 1 else 0.0

    @property
    def quantised(self) -> bool:
        """Whether matmuls keep their inputs in low precision."""
        return self.input_word != self.word

    def kept_input(self, size: float) -> float:
        """Bytes that an input of `size` bytes takes where only a weight gradient reads it."""
        return size * self.input_word / self.word


def low_precision_bytes(precision: str) -> float:
    """Bytes of an element in fp8 or fp4, its share of the scales included; 0 for other precisions."""
    if precision == "nvfp4":
        return 0.5 + 1 / 16
    return 1 + 1 / 64 if precision.startswith(("fp8", "mxfp8")) else 0.0


def tokens_of(run: Run) -> Tokens:
    """The token sizes of a run's micro-batch."""
    layout, tp, word = run.layout, run.layout.mesh.tp, run.layout.word_bytes
    sequence = run.batch.sequence_length // layout.mesh.cp
    habits = habits_of(run.software)
    is_autocast = habits.kernels == "cpu" and layout.precision == "bf16" and layout.zero_stage < 3
    low = low_precision_bytes(layout.precision) if habits.quantised_copies else 0.0
    return Tokens(
        column=float(word * sequence * layout.micro_batch_size),
        sequence=sequence,
        context=run.batch.sequence_length,
        sequences=layout.micro_batch_size,
        hidden=run.model.hidden,
        tp=tp,
        sp=tp if layout.sequence_parallel else 1,
        word=word,
        residual=run.software.parameter_bytes if is_autocast else word,
        input_word=low or word,
    )
