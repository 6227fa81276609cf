"""Axis: one way to cut a model over ranks, and Comm: a collective that a cut owes.

The reduction rule: an axis that cuts a contracted dim owes a reduction of the result. A matmul [rows, inner] @
[inner, cols] contracts inner in F, cols in I, rows in W. With tp cutting query, kv, ffn and vocab, cp seq, and dp
batch, Megatron's pattern for a dense layer follows. What the rule does not give, an axis says itself.
"""

from typing import Literal, NamedTuple, Protocol

from parsim.model.dims import Dim, Extent, Sizes, length, rows_of
from parsim.model.layer import Matmul, Pass, Work, contracted

__all__ = ["Axis", "CollectiveKind", "Comm", "local_sizes", "owed_reductions", "result_bytes"]

CollectiveKind = Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "send"]


class Comm(NamedTuple):
    """A collective inside an op.

    `size_bytes` is the whole tensor on one group: the input of a reduction, the output of a gather; of an all-to-all
    what one rank holds for all of the group, itself included. `across_bytes` is what of an all-to-all leaves the
    domain, where that is not the share of the ranks outside. `at` names the work it belongs to; it comes `before` that
    work or after it, or runs `beside` it and ends with it. `regather` marks the gather of an input that the forward
    had gathered already: only the weight gradient needs it, so it runs beside other work.
    """

    kind: CollectiveKind
    axis: str
    at: str
    size_bytes: float
    before: bool = False
    regather: bool = False
    beside: bool = False
    across_bytes: float | None = None


class Axis(Protocol):
    """One parallel axis of a run. That its degree divides what it cuts, the run has checked (spec/checks)."""

    @property
    def name(self) -> str:
        """The axis's name in the mesh."""
        ...

    @property
    def degree(self) -> int:
        """How many ranks share what it cuts."""
        ...

    @property
    def cuts(self) -> frozenset[Dim]:
        """The dims whose length it divides."""
        ...

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        """What the axis owes inside a pass over `work`, with local `sizes`, in the order of the forward."""
        ...


def local_sizes(sizes: Sizes, axes: tuple[Axis, ...], narrowest: Sizes) -> dict[Dim, float]:
    """Lengths on one rank: each divided by the axes that cut it, but never below `narrowest` (one KV head: ranks
    beyond the number of KV heads hold copies).
    """
    result = dict(sizes)
    for axis in axes:
        for dim in axis.cuts & result.keys():
            result[dim] = result[dim] / axis.degree
    return {dim: max(size, narrowest.get(dim, 0.0)) for dim, size in result.items()}


def owed_reductions(axis: Axis, work: tuple[Work, ...], which: Pass) -> tuple[Matmul, ...]:
    """The matmuls of a pass that `axis` owes a reduction for.

    A grouped matmul is one for each expert: an axis that cuts the experts sends their rows with them and owes nothing.
    """
    if axis.degree == 1:
        return ()
    own = Dim.EXPERTS in axis.cuts
    return tuple(
        w for w in work if isinstance(w, Matmul) and contracted(w, which) & axis.cuts and not (own and w.experts)
    )


def result_bytes(matmul: Matmul, sizes: Sizes, which: Pass, word_bytes: int) -> float:
    """Bytes of the result of a matmul: [rows, cols] in F, [rows, inner] in I, [inner, cols] in W."""
    if which == "W":
        return word_bytes * length(matmul.inner, sizes) * length(matmul.cols, sizes)
    width: Extent = matmul.cols if which == "F" else matmul.inner
    return word_bytes * rows_of(sizes, matmul.experts) * length(width, sizes)
