"""Kernels: what norms, masks, attention and the loss keep, which differs between GPUs and PyTorch's CPU kernels.

On a CPU (PyTorch 2.13, counted storage by storage by the executor): a dropout mask has the type of what it is for. An
RMSNorm works in fp32 at least and keeps its input and the normalised one in that; a narrower input is copied and not
kept itself. Grouped keys and values are repeated for every query head. The angles of rotary positions are made for
every micro-batch and kept once a stage; a window's mask is kept by every layer.
"""

from parsim.memory.ledger.tokens import Tokens
from parsim.memory.presets import habits_of
from parsim.spec import Run

__all__ = [
    "angle_bytes",
    "has_whole_scores",
    "head_norm_bytes",
    "hidden_mask",
    "is_cpu",
    "loss_bytes",
    "mask_word",
    "norm_bytes",
    "place_bytes",
    "repeated_bytes",
    "stage_input_bytes",
    "window_mask_bytes",
]

_LEAST = 4  # bytes of the narrowest type that norms, softmax statistics and losses are computed in

# Bytes per logit of the loss: peak in the forward, held until the backward, peak in the backward. Counted in the
# frameworks' sources: Megatron's vocabulary-parallel loss works in place, TE's fused one writes the gradient in place.
_LOSS = {"megatron": (6, 4, 6), "te_fused": (2, 2, 2), "compiled": (2, 2, 4)}
_LOSS_PARALLEL_TORCH = (14, 4, 16)


def is_cpu(run: Run) -> bool:
    """Whether the run's framework computes with PyTorch's CPU kernels."""
    return habits_of(run.software).kernels == "cpu"


def loss_bytes(run: Run, at: Tokens) -> tuple[float, float, float]:
    """Bytes per logit of the loss: peak in the forward, held until the backward, peak in the backward."""
    kind = run.software.loss
    if kind != "torch":
        return _LOSS[kind]
    if at.tp > 1:
        return _LOSS_PARALLEL_TORCH
    wide = max(at.word, _LEAST)  # logits are copied to this type, unless they have it
    copied = wide if at.word < wide else 0
    return at.word + copied + wide, wide, 3 * wide


def mask_word(run: Run, word: float) -> float:
    """Bytes of an element of the mask of something of `word` bytes."""
    return word if is_cpu(run) else 1.0


def hidden_mask(run: Run, at: Tokens, word: float | None = None) -> float:
    """The mask of a dropout on the residual stream, or before it is added to it."""
    if not run.software.hidden_dropout:
        return 0.0
    return at.normed / at.word * mask_word(run, word or at.word)


def norm_bytes(run: Run, at: Tokens, is_second: bool = False) -> float:
    """What a norm of the residual stream keeps beside its output; the second of two on the same input (a parallel
    residual) keeps that not again.
    """
    if not is_cpu(run):
        return 0.0 if is_second else at.stream
    wide = max(at.residual, _LEAST)
    rows = at.count / at.sp
    if run.model.norm == "layer":
        return (0.0 if is_second else at.stream) + 2 * at.residual * rows
    copies = 1 if is_second and at.residual == wide else 2
    return (copies * at.hidden + 1) * wide * rows


def head_norm_bytes(run: Run, at: Tokens, columns: float) -> float:
    """What norms of each head's queries and keys keep, `columns` in all: their inputs; the core has their outputs."""
    if run.model.qk_norm == "none":
        return 0.0
    if not is_cpu(run):
        return at.column * columns
    wide = max(at.word, _LEAST)
    return (2 * columns + columns / run.model.head_dim) * wide * at.count


def stage_input_bytes(run: Run, at: Tokens) -> float:
    """The input of a stage behind others, where its first norm keeps a copy instead: it waits for its gradient."""
    return at.stream if is_cpu(run) and run.model.norm == "rms" and at.residual < _LEAST else 0.0


def has_whole_scores(run: Run) -> bool:
    """Whether attention makes its scores whole: an unfused kernel; on a CPU also one that drops some of them.

    Learned sinks stand beside a fused one: published runs with them have no room for scores (gpt-oss-120b on 180 GB).
    """
    return run.software.attention == "unfused" or (is_cpu(run) and run.software.attention_dropout > 0)


def repeated_bytes(run: Run, at: Tokens, query: float, both: float) -> float:
    """What keys and values take more than their own columns, `both`: one of each for every query head."""
    return at.column * (2 * query - both) if is_cpu(run) else 0.0


def window_mask_bytes(run: Run, at: Tokens, is_windowed: bool) -> float:
    """The mask of a layer with a sliding window, in the type of the scores."""
    window = run.model.sliding_window or at.context
    is_kept = is_windowed and is_cpu(run) and window < at.context and not has_whole_scores(run)
    return at.word * at.sequence * at.context if is_kept else 0.0


def angle_bytes(run: Run, at: Tokens) -> float:
    """cos and sin of rotary positions, that a stage makes for each micro-batch."""
    return at.word * at.sequence * run.model.head_dim if is_cpu(run) and run.model.positions == "rope" else 0.0


def place_bytes(run: Run, at: Tokens) -> float:
    """Positions that learned embeddings are looked up by, int64."""
    return 8.0 * at.sequence if is_cpu(run) and run.model.positions == "learned" else 0.0
