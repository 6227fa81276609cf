"""Attention in the ledger: norm, projections, core, output projection; of GQA and of MLA.

Unfused, the core keeps the softmax, and with dropout its result and a mask of one byte: the 5as/h of 2205.05198. Flash
kernels keep their output and one number a row and head. Over the context axis a rank holds s of the whole sequence:
an exchange (all-to-all) keeps the output on both of its sides.
"""

from parsim.memory.ledger.entry import Entry
from parsim.memory.ledger.kernels import (
    has_whole_scores,
    head_norm_bytes,
    hidden_mask,
    is_cpu,
    mask_word,
    norm_bytes,
    repeated_bytes,
    window_mask_bytes,
)
from parsim.memory.ledger.linear import column_parallel, row_parallel
from parsim.memory.ledger.tokens import Tokens
from parsim.spec import MlaSpec, Run

__all__ = ["attention", "core_bytes", "normed_input_bytes", "projected_bytes", "statistics_bytes", "widths"]


def attention(run: Run, at: Tokens, is_windowed: bool = False) -> tuple[Entry, ...]:
    """The ops from the first norm to the output projection, in forward order."""
    mla = run.model.mla
    *_, output = widths(run)
    first = Entry("norm 1", saved=norm_bytes(run, at), forward=at.stream, backward=at.stream)
    inner = _grouped(run, at) if mla is None else _latent(run, mla, at)
    # The core's own output stays in 16 bit, so what a quantised matmul keeps of it is one more copy.
    copied = at.kept_input(at.column * output) if at.quantised else 0.0
    proj = row_parallel(run, at, "proj", output, hidden_mask(run, at) + copied)
    return (first, *inner, _core(run, at, is_windowed), proj)


def widths(run: Run) -> tuple[float, float, float, float]:
    """Columns of queries, keys, values and output on one rank; fewer kv heads than ranks are duplicated."""
    model, tp = run.model, run.layout.mesh.tp
    query = model.heads * model.head_dim / tp
    if model.mla is None:
        kv = max(model.kv_heads / tp, 1) * model.head_dim
        return query, kv, kv, query
    return query, query, model.heads * model.mla.value_dim / tp, model.heads * model.mla.value_dim / tp


def normed_input_bytes(at: Tokens) -> float:
    """The output of a norm as the matmul behind it keeps it: what recomputing norms saves."""
    return at.kept_input(at.normed)


def projected_bytes(run: Run, at: Tokens) -> float:
    """Queries, keys and values as the core keeps them: what recomputing MLA's up-projections saves.

    MLA's values are a view of the whole up-projection, keys without positions included, which they keep alive.
    """
    query, keys, values, _ = widths(run)
    mla = run.model.mla
    beside = 0.0 if mla is None else run.model.heads * mla.nope_dim / at.tp
    return at.column * (query + keys + values + beside)


def core_bytes(run: Run, at: Tokens, is_windowed: bool = False) -> float:
    """What the core keeps beside its inputs and output, and recomputing it saves: softmax, and with dropout its result
    and mask, where scores are whole; on a CPU also repeated keys and values, and the rows' statistics.
    """
    query, keys, values, _ = widths(run)
    more = repeated_bytes(run, at, query, keys + values)
    if not has_whole_scores(run):
        return more + window_mask_bytes(run, at, is_windowed) + (statistics_bytes(run, at) if is_cpu(run) else 0.0)
    dropped = at.word + mask_word(run, at.word) if run.software.attention_dropout else 0.0
    return more + (at.word + dropped) * _scores(run, at)


def statistics_bytes(run: Run, at: Tokens) -> float:
    """The log-sum-exp of each row and head, fp32 or wider."""
    return max(4, at.word) * at.count * run.model.heads / at.tp


def _scores(run: Run, at: Tokens) -> float:
    """Elements of one tensor of scores."""
    return run.model.heads * at.sequence * at.context * at.sequences / at.tp


def _grouped(run: Run, at: Tokens) -> tuple[Entry, ...]:
    query, keys, values, _ = widths(run)
    saved = normed_input_bytes(at) + head_norm_bytes(run, at, query + keys)
    return (column_parallel(run, at, "qkv", query + keys + values, saved),)


def _latent(run: Run, mla: MlaSpec, at: Tokens) -> tuple[Entry, ...]:
    """Both down-projections (which tp does not cut), the norms of the latents, both up-projections."""
    query, keys, values, _ = widths(run)
    rank = mla.q_rank or 0
    normed, latent = rank + mla.kv_rank, at.column / at.sp
    down = latent * (normed + mla.rope_dim)
    direct = (column_parallel(run, at, "query", query, 0.0),) if mla.q_rank is None else ()
    up = run.model.heads * mla.nope_dim / at.tp + values + (query if rank else 0.0)
    return (
        Entry(
            "down",
            saved=normed_input_bytes(at),
            kept=normed_input_bytes(at) + down,
            forward=down,
            backward=at.stream + down,
        ),
        *direct,
        Entry("latent norms", saved=down, forward=latent * normed, backward=latent * normed),
        column_parallel(run, at, "up", up, at.kept_input(latent * normed), inner=normed),
        Entry("rope", forward=at.column * (query + keys), backward=at.column * (query + keys)),
    )


def _core(run: Run, at: Tokens, is_windowed: bool) -> Entry:
    query, keys, values, output = widths(run)
    u, both = at.column, keys + values
    cp, how = run.layout.mesh.cp, run.layout.cp_comm
    outputs = 2 if cp > 1 and how == "a2a" else 1  # of an exchange on both of its sides
    saved = projected_bytes(run, at) + outputs * u * output + core_bytes(run, at, is_windowed)
    moved = _moved(u, query, both, cp, how)
    if has_whole_scores(run):
        scores = at.word * _scores(run, at)
        return Entry("attention", saved=saved, forward=moved, backward=3 * scores + moved, tensor="scores")
    return Entry(
        "attention",
        saved=saved if is_cpu(run) else saved + statistics_bytes(run, at),
        forward=moved,
        backward=u * (output + 2 * query + 2 * both) + moved,
        tensor="queries, keys and values",
    )


def _moved(u: float, query: float, both: float, cp: int, how: str) -> float:
    """Buffers of what goes round the context axis: two pairs of keys and values on the ring, all of them gathered;
    an exchange sends and receives the queries, keys and values."""
    if cp == 1:
        return 0.0
    if how == "ring":
        return 2 * u * both
    return u * both * cp if how == "allgather" else u * (query + both)
