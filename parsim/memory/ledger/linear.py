"""What every matmul of a layer has in common: its input until the backward, gradients of both sides while it runs."""

from parsim.memory.ledger.entry import Entry
from parsim.memory.ledger.tokens import Tokens
from parsim.spec import Run

__all__ = ["column_parallel", "mlp", "row_parallel", "weight_gradient"]


def column_parallel(run: Run, at: Tokens, name: str, cols: float, saved: float, inner: float | None = None) -> Entry:
    """A matmul [tokens, inner] @ [inner, cols] whose input every tp rank has whole (`inner`: hidden), kept cut under
    sequence parallelism and gathered again for either gradient; `saved` are the bytes of it that nobody else holds.
    """
    wide = at.whole if inner is None else at.column * inner
    gathered = wide if at.sp > 1 else 0.0
    weight = weight_gradient(run, at, (at.hidden if inner is None else inner) * cols)
    return Entry(
        name,
        saved=saved,
        kept=at.kept_input(wide / at.sp) + at.column * cols,
        forward=gathered + at.column * cols,
        backward=wide + gathered + at.column * cols + weight,
        weight=gathered + weight,
    )


def row_parallel(run: Run, at: Tokens, name: str, inner: float, saved: float) -> Entry:
    """A matmul [tokens, inner] @ [inner, hidden] whose result is summed over tp: under sequence parallelism scattered,
    and its gradient gathered.
    """
    weight = weight_gradient(run, at, at.hidden * inner)
    return Entry(
        name,
        saved=saved,
        kept=at.kept_input(at.column * inner) + at.normed,
        forward=at.whole,
        backward=at.whole + at.gathered + at.column * inner + weight,
        weight=at.gathered + weight,
    )


def weight_gradient(run: Run, at: Tokens, elements: float) -> float:
    """Bytes of a weight's gradient as a tensor of its own; none if the matmul adds it into the gradient buffer."""
    return 0.0 if run.software.fused_weight_gradient else at.word * elements


def mlp(run: Run, at: Tokens, ffn: float, prefix: str = "", saved: float = 0.0) -> tuple[Entry, ...]:
    """Both matmuls and the activation of a dense MLP of width `ffn` on this rank; `saved` is what the first keeps."""
    u, gates = at.column, 2 if run.model.gated_mlp else 1
    # An eager gate keeps silu's result beside its inputs; a fused one recomputes it.
    result = u * ffn if gates == 2 and run.software.ops == "eager" else 0.0
    return (
        column_parallel(run, at, f"{prefix}fc1", gates * ffn, saved),
        Entry(
            f"{prefix}activation",
            saved=u * gates * ffn + result,
            forward=u * ffn,
            backward=u * (gates + 1) * ffn + at.normed,
        ),
        row_parallel(run, at, f"{prefix}fc2", ffn, at.kept_input(u * ffn)),
    )
