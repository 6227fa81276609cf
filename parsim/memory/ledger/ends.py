"""The ends of the model in the ledger: embedding, extra prediction layers (MTP), final norm, head and loss."""

from parsim.memory.ledger.entry import Entry
from parsim.memory.ledger.kernels import (
    angle_bytes,
    hidden_mask,
    loss_bytes,
    norm_bytes,
    place_bytes,
    stage_input_bytes,
)
from parsim.memory.ledger.linear import column_parallel
from parsim.memory.ledger.tokens import Tokens
from parsim.memory.presets import habits_of
from parsim.spec import Run

__all__ = ["embedding", "head", "lost_bytes", "mtp_projection", "stage_output", "stage_start"]


def embedding(run: Run, at: Tokens) -> Entry:
    """The embedding on the first stage: token ids are negligible, the dropout mask is not."""
    return Entry("embedding", saved=hidden_mask(run, at, at.residual) + place_bytes(run, at), forward=at.stream)


def stage_start(run: Run, at: Tokens, *, first: bool) -> Entry:
    """What a stage keeps beside its layers: its input where nobody else does, and what the layers share."""
    return Entry("start of the stage", saved=(0.0 if first else stage_input_bytes(run, at)) + angle_bytes(run, at))


def stage_output(at: Tokens) -> Entry:
    """What a stage hands on, where the framework keeps it until the backward."""
    return Entry("output of the stage", saved=at.stream)


def mtp_projection(run: Run, at: Tokens) -> tuple[Entry, ...]:
    """Norms of state and embedding, and the projection of both side by side (2412.19437, section 2.2)."""
    return (
        Entry("mtp norms", saved=2 * norm_bytes(run, at), forward=2 * at.stream, backward=2 * at.stream),
        column_parallel(
            run, at, "mtp projection", at.hidden / at.tp, 2 * at.kept_input(at.stream), inner=2 * at.hidden
        ),
    )


def lost_bytes(run: Run, at: Tokens, vocab: int) -> float:
    """Reserved and of no use after PyTorch's loss: the block of the 16-bit logits, too small for fp32 ones."""
    return at.word * _logits(at, vocab) if run.software.loss == "torch" and at.word < 4 else 0.0


def _logits(at: Tokens, vocab: int) -> float:
    """Logits of a micro-batch on one rank; `vocab` is the padded vocabulary."""
    return at.count * vocab / at.tp


def head(run: Run, at: Tokens, vocab: int) -> tuple[Entry, ...]:
    """Final norm, LM head and loss on the last stage; `vocab` is the padded vocabulary.

    The head is no Transformer Engine linear: its 16-bit weight gradient exists even with fused accumulation.
    """
    forward, held, backward = loss_bytes(run, at)
    logits = _logits(at, vocab)
    habits, gradient = habits_of(run.software), at.word * vocab * at.hidden / at.tp
    norm = Entry("final norm", saved=norm_bytes(run, at), forward=at.stream, backward=at.stream)
    if run.software.loss == "torch" and habits.by_op:  # what its backward needs is gone when the head's begins
        return (
            norm,
            Entry(
                "head",
                saved=at.normed,
                kept=at.normed + at.word * logits,
                forward=at.word * logits + at.gathered,
                backward=at.word * logits + gradient + at.whole + at.gathered,
                weight=gradient + at.gathered,
                tensor="logits",
            ),
            Entry(
                "loss",
                saved=held * logits,
                forward=(forward - held) * logits,
                backward=(backward - held) * logits,
                tensor="logits",
            ),
        )
    return (
        norm,
        Entry(
            "loss",
            saved=at.normed + held * logits,
            kept=at.normed + at.word * logits if habits.splits_head else 0.0,
            forward=(forward - held) * logits + at.gathered,
            backward=(backward - held) * logits + gradient + at.whole + at.gathered,
            weight=gradient + at.gathered if habits.splits_head else 0.0,
            tensor="logits",
        ),
    )
