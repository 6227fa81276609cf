"""Tensor parallelism (Megatron): matmuls cut by columns, then by rows; with sequence parallelism also what is between.

The reduction rule gives two all-reduces in F (projection, second MLP matmul) and two in I (first MLP matmul, QKV).
Sequence parallelism turns each into a reduce-scatter there and an all-gather at the other end of the region, and
adds in the backward one all-gather per column-parallel matmul: its input is kept cut, and the weight gradient
needs it whole (Korthikanti et al. 2022, section 4.2; Megatron's LinearWithGradAccumulation).

Bytes sent per rank in F of a layer: 2 * 2 * (t-1)/t * (s*b*h*2), the same with and without sequence parallelism.

The experts of a layer are cut by an axis of their own (expert_tp, another view of the same ranks): the tokens that
were sent here are gathered over it, and the results of the second matmul reduced and scattered.
"""

from dataclasses import dataclass

from parsim.axes.axis import CollectiveKind, Comm, owed_reductions, result_bytes
from parsim.model.dims import Dim, Sizes, rows_of
from parsim.model.layer import Elementwise, Matmul, Pass, Work

__all__ = ["TensorAxis"]

_OTHER: dict[Pass, Pass] = {"F": "I", "I": "F"}
_CUTS = frozenset({Dim.QUERY, Dim.KV, Dim.OUTPUT, Dim.NOPE, Dim.FFN, Dim.SHARED_FFN, Dim.VOCAB})


@dataclass(frozen=True)
class TensorAxis:
    """tp of a run, or expert_tp. With `parallel_residual` the sums of attention and MLP are added before they are
    reduced once. `experts` says that it cuts the experts' width and nothing else.
    """

    degree: int
    sequence_parallel: bool = False
    parallel_residual: bool = False
    word_bytes: int = 2
    name: str = "tp"
    experts: bool = False

    @property
    def cuts(self) -> frozenset[Dim]:
        return frozenset({Dim.EXPERT_FFN}) if self.experts else _CUTS

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        if self.degree == 1:
            return ()
        if which == "W":
            return self._regathers(work, sizes)
        reduced = owed_reductions(self, work, which)
        opened = owed_reductions(self, work, _OTHER[which])
        if self.parallel_residual:  # one sum of both branches leaves the layer, and one gradient of it comes back
            reduced, opened = (reduced[-1:], opened) if which == "F" else (reduced, opened[-1:])
        if not self.sequence_parallel:
            return (
                *self._embedding(work, sizes, which),
                *(Comm("all_reduce", self.name, m.name, self._bytes(m, sizes, which)) for m in reduced),
            )
        return (
            *self._embedding(work, sizes, which),
            *(Comm("all_gather", self.name, m.name, self._bytes(m, sizes, _OTHER[which]), before=True) for m in opened),
            *(Comm("reduce_scatter", self.name, m.name, self._bytes(m, sizes, which)) for m in reduced),
        )

    def _bytes(self, matmul: Matmul, sizes: Sizes, which: Pass) -> float:
        return result_bytes(matmul, sizes, which, self.word_bytes)

    def _regathers(self, work: tuple[Work, ...], sizes: Sizes) -> tuple[Comm, ...]:
        """The cut inputs of column-parallel matmuls that their weight gradients need whole; experts keep theirs."""
        if not self.sequence_parallel or self.experts:
            return ()
        return tuple(
            Comm("all_gather", self.name, m.name, self._bytes(m, sizes, "I"), before=True, regather=True)
            for m in owed_reductions(self, work, "I")
        )

    def _embedding(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        """A look-up in a table cut by vocab is a sum over vocab: it owes a reduction in F; its gradient is gathered."""
        looked_up = [w for w in work if isinstance(w, Elementwise) and w.role == "embedding" and not self.experts]
        reduction: CollectiveKind = "reduce_scatter" if self.sequence_parallel else "all_reduce"
        size = self.word_bytes * rows_of(sizes) * sizes[Dim.HIDDEN]
        if which == "F":
            return tuple(Comm(reduction, self.name, w.name, size) for w in looked_up)
        if not self.sequence_parallel:
            return ()
        return tuple(Comm("all_gather", self.name, w.name, size, before=True) for w in looked_up)
