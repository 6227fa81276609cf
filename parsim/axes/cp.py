"""Context parallelism: the sequence in pieces. Every token-wise work divides; attention must see the keys of others.

The reduction rule: cp cuts seq, W contracts it, so weight gradients are summed over cp too (axes/dp.py reduces over
both). No other pass contracts seq; what attention needs, the axis says itself. With T tokens on a rank, and keys and
values of `kv` elements a token together (w bytes each):

    ring        keys and values go round: w T kv (c-1) bytes beside the core, and in the backward their gradients too
    allgather   gathered before the core, the same bytes; the backward gathers again and scatters their gradients
    a2a         Ulysses: w T (q + kv) bytes before the core and w T out after it, of which (c-1)/c leave the rank, so
                that each rank has all tokens of some heads; the backward the same

A causal mask leaves the last tokens the most work. In slices one after the other the last rank has 2 - 1/c times the
mean, and the others wait for it. In a zig-zag rank r of c has slices r and 2c - 1 - r of 2c, and all have the same.

Sources: Liu et al. 2023 (ring attention), Jacobs et al. 2023 (Ulysses), Llama 3 (2407.21783, section 3.3.2: gathers,
and slices in a zig-zag).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from parsim.axes.axis import Comm
from parsim.model.dims import Dim, Sizes, length, rows_of
from parsim.model.layer import AttentionCore, Pass, Work

__all__ = ["ContextAxis", "causal_work"]


def causal_work(degree: int, tokens: int, zigzag: bool) -> tuple[int, ...]:
    """Pairs of a query and a key that it sees, on each rank, of a causal sequence of `tokens`."""
    slices = 2 * degree if zigzag else degree
    edges = [tokens * i // slices for i in range(slices + 1)]
    pairs = [(end * (end + 1) - begin * (begin + 1)) // 2 for begin, end in pairwise(edges)]
    return tuple(pairs[r] + pairs[-1 - r] for r in range(degree)) if zigzag else tuple(pairs)


@dataclass(frozen=True)
class ContextAxis:
    """cp of a run, and how it brings queries and keys together."""

    degree: int
    how: Literal["ring", "a2a", "allgather"] = "ring"
    word_bytes: int = 2
    zigzag: bool = True
    name: str = "cp"

    def busiest(self, tokens: int) -> float:
        """Causal work of the busiest rank over the mean; an exchange gives each rank all tokens of some heads."""
        if self.degree == 1 or self.how == "a2a":
            return 1.0
        work = causal_work(self.degree, tokens, self.zigzag)
        return max(work) * self.degree / sum(work)

    @property
    def cuts(self) -> frozenset[Dim]:
        return frozenset({Dim.SEQ})

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        if self.degree == 1 or which == "W":
            return ()
        cores = [item for item in work if isinstance(item, AttentionCore)]
        return tuple(comm for core in cores for comm in self._core(core, sizes, which))

    def _core(self, core: AttentionCore, sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        element = self.word_bytes * rows_of(sizes)
        both = element * length(core.keys_values, sizes)
        if self.how == "ring":
            once = both * (self.degree - 1)
            return (Comm("send", self.name, core.name, once if which == "F" else 2 * once, beside=True),)
        if self.how == "allgather":
            gather = Comm("all_gather", self.name, core.name, both * self.degree, before=True)
            scatter = Comm("reduce_scatter", self.name, core.name, both * self.degree)
            return (gather,) if which == "F" else (gather, scatter)
        opened = element * sizes[Dim.QUERY] + both
        closed = element * sizes[Dim.OUTPUT]
        before, after = (opened, closed) if which == "F" else (closed, opened)
        return (
            Comm("all_to_all", self.name, core.name, before, before=True),
            Comm("all_to_all", self.name, core.name, after),
        )
