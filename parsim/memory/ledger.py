"""The ledger of one micro-batch in one layer: what each op saves until its backward, and needs while it runs.

An op of the ledger is data; a layer is a list of them in forward order. Bytes on one rank. Symbols:

    s tokens of a sequence on this rank, b sequences of a micro-batch, h hidden, f ffn, g = 2 if gated else 1
    q = heads * head_dim, kv = kv_heads * head_dim, t tensor-parallel degree, sp = t with sequence parallelism else 1
    U = word * s * b, the bytes of one column over the tokens

Checks: GPT with dropout and unfused attention saves s*b*h*(34 + 5*a*s/h) (2205.05198, equation 1); a Llama layer
2*s*b*(6h + 2kv + 3f) with flash attention and a fused gate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parsim.spec import Run

__all__ = [
    "Entry",
    "Tokens",
    "embedding_ledger",
    "every_second_matmul_bytes",
    "head_ledger",
    "layer_ledger",
    "tokens_of",
    "total",
]

# Bytes per logit of the loss: peak in the forward, held until the backward, peak in the backward. Counted in the
# frameworks' sources: Megatron's vocabulary-parallel loss works in place, TE's fused one writes the gradient in place.
_LOSS = {"megatron": (6, 4, 6), "te_fused": (2, 2, 2), "torch": (10, 4, 12), "compiled": (2, 2, 4)}
_LOSS_PARALLEL_TORCH = (14, 4, 16)


@dataclass(frozen=True)
class Entry:
    """One op: bytes `saved` from its forward until its backward, of these `kept` (or made) by the input gradient
    for the weight gradient, and temporary bytes while its forward or its backward runs.
    """

    name: str
    saved: float = 0.0
    kept: float = 0.0
    forward: float = 0.0
    backward: float = 0.0


@dataclass(frozen=True)
class Tokens:
    """The sizes that activations of one micro-batch are made of, on one rank (see the module's symbols)."""

    column: float
    """U: bytes of one column over the tokens."""
    sequence: int
    sequences: int
    tp: int
    sp: int
    word: int

    @property
    def gathered(self) -> float:
        """Columns of the gathered input that a column-parallel linear holds under sequence parallelism: U, else 0."""
        return self.column if self.sp > 1 else 0.0


def tokens_of(run: Run) -> Tokens:
    """The token sizes of a run's micro-batch."""
    layout = run.layout
    sequence = run.batch.sequence_length // layout.mesh.cp
    tp = layout.mesh.tp
    return Tokens(
        column=float(layout.word_bytes * sequence * layout.micro_batch_size),
        sequence=sequence,
        sequences=layout.micro_batch_size,
        tp=tp,
        sp=tp if layout.sequence_parallel else 1,
        word=layout.word_bytes,
    )


def layer_ledger(run: Run) -> tuple[Entry, ...]:
    """The ops of one dense transformer layer, in forward order."""
    return (*_attention(run, tokens_of(run)), *_mlp(run, tokens_of(run)))


def every_second_matmul_bytes(run: Run) -> float:
    """What a layer saves under torchtitan's selective op recomputation, which keeps the attention and the result of
    every second matmul: block input, q, v, attention out, log-sum-exp, fc1's first half; eager also fc2's result.
    """
    at, model = tokens_of(run), run.model
    query, value = model.heads * model.head_dim / at.tp, max(model.kv_heads / at.tp, 1) * model.head_dim
    statistics = max(4, at.word) * at.sequence * at.sequences * model.heads / at.tp
    inputs = 2 if run.software.ops == "eager" else 1
    return inputs * _hidden(run, at) / at.sp + at.column * (2 * query + value + model.ffn / at.tp) + statistics


def _attention(run: Run, at: Tokens) -> tuple[Entry, ...]:
    model, software = run.model, run.software
    u, t, hidden, word = at.column, at.tp, _hidden(run, at), at.word
    query = model.heads * model.head_dim / t
    both = query + 2 * max(model.kv_heads / t, 1) * model.head_dim
    scores = model.heads * at.sequence**2 * at.sequences / t  # elements of one score tensor
    if software.attention == "unfused":
        dropped = word + 1 if software.attention_dropout else 0  # the result, and a mask of one byte
        core = Entry("attention", u * query + (word + dropped) * scores, backward=3 * word * scores)
        if "core_attn" in run.layout.recompute.modules:
            core = Entry(
                "attention", u * query, forward=(word + dropped) * scores, backward=(4 * word + dropped) * scores
            )
    else:
        statistics = max(4, word) * at.sequence * at.sequences * model.heads / t  # log-sum-exp, fp32 or wider
        core = Entry("attention", u * query + statistics, backward=u * (3 * query + 2 * (both - query)))
    return (
        Entry("norm 1", saved=2 * hidden / at.sp, kept=hidden / at.sp),
        Entry(
            "qkv",
            saved=u * both,
            kept=u * both,
            forward=at.gathered * model.hidden,
            backward=_linear_backward(run, at, both, model.hidden),
        ),
        core,
        Entry(
            "proj",
            saved=_dropout_mask(run, at),
            kept=u * query + hidden / at.sp,
            forward=hidden,
            backward=_linear_backward(run, at, query, model.hidden),
        ),
    )


def _mlp(run: Run, at: Tokens) -> tuple[Entry, ...]:
    model, u, hidden = run.model, at.column, _hidden(run, at)
    gates = 2 if model.gated_mlp else 1
    ffn = model.ffn / at.tp
    # An eager gate keeps silu's result beside its inputs; a fused one recomputes it.
    result = u * ffn if gates == 2 and run.software.ops == "eager" else 0.0
    # A parallel residual (GPT-NeoX) feeds both norms from the same input.
    inputs = 1 if model.parallel_residual else 2
    return (
        Entry("norm 2", saved=inputs * hidden / at.sp, kept=hidden / at.sp),
        Entry(
            "fc1",
            saved=u * gates * ffn,
            kept=u * gates * ffn,
            forward=at.gathered * model.hidden,
            backward=_linear_backward(run, at, gates * ffn, model.hidden),
        ),
        Entry("activation", saved=u * ffn + result, kept=u * ffn, backward=u * (gates + 1) * ffn + hidden / at.sp),
        Entry(
            "fc2",
            saved=_dropout_mask(run, at),
            kept=hidden / at.sp,
            forward=hidden,
            backward=_linear_backward(run, at, ffn, model.hidden),
        ),
    )


def _hidden(run: Run, at: Tokens) -> float:
    """Bytes of one hidden-sized activation of the micro-batch, not cut by sequence parallelism."""
    return at.column * run.model.hidden


def _linear_backward(run: Run, at: Tokens, columns: float, hidden: int) -> float:
    """A hidden-sized gradient, the gathered input under SP, a gradient of the cut side; the weight's gradient too
    unless the matmul adds it into the gradient buffer."""
    weight = 0.0 if run.software.fused_weight_gradient else at.word * columns * hidden
    return at.column * hidden + at.gathered * hidden + at.column * columns + weight


def _dropout_mask(run: Run, at: Tokens) -> float:
    return _hidden(run, at) / (at.word * at.sp) if run.software.hidden_dropout else 0.0


def embedding_ledger(run: Run) -> tuple[Entry, ...]:
    """The embedding on the first stage: token ids are negligible, the dropout mask is not."""
    return (Entry("embedding", saved=_dropout_mask(run, tokens_of(run))),)


def head_ledger(run: Run, vocab: int) -> tuple[Entry, ...]:
    """Final norm, LM head and loss on the last stage; `vocab` is the padded vocabulary."""
    at = tokens_of(run)
    hidden = _hidden(run, at)
    kind = run.software.loss
    forward, held, backward = _LOSS_PARALLEL_TORCH if kind == "torch" and at.tp > 1 else _LOSS[kind]
    logits = at.sequence * at.sequences * vocab / at.tp
    # The head is no Transformer Engine linear: its 16-bit weight gradient exists even with fused accumulation.
    head = at.word * vocab * run.model.hidden / at.tp + hidden + at.gathered * run.model.hidden
    return (
        Entry("final norm", saved=2 * hidden / at.sp, kept=hidden / at.sp),
        Entry(
            "head and loss",
            saved=held * logits,
            kept=at.word * logits,
            forward=(forward - held) * logits,
            backward=(backward - held) * logits + head,
        ),
    )


def total(entries: Sequence[Entry]) -> float:
    """Bytes that the ops save until their backward."""
    return sum(entry.saved for entry in entries)
