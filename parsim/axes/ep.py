"""Expert parallelism: the experts of a layer spread over ranks, to which their tokens travel and come back.

ep borrows ranks: dp * cp * tp = expert_dp * ep * expert_tp. It cuts the experts, and with them the rows that are sent
to each, so it owes no reduction of weight gradients: those of an expert are summed over the ranks that hold the same
one (expert_dp). What it owes are two exchanges in a forward, dispatch before the experts and combine behind them, and
the same in a backward. With P bytes of the tokens a rank has (P = word * T/tp * hidden), of R ranks on N domains:

    alltoall           each token goes once for each of its k experts: k P bytes, less those that stay on the rank
    deepep, hybridep   once to each distinct rank of the domain, of R (1 - (1-1/R)^k) expected in all, and once to each
                       distinct other domain, (N-1) (1 - (1-1/N)^k), where it is copied on
    allgather          every rank gathers the tokens of all, and the results are reduced and scattered

Expected numbers hold for balanced routing. An exchange ends when the busiest rank has its rows: with uneven routing so
many times the mean (`crowding`), and of copies that go once to a rank or domain no more than all tokens of all. Where
experts stand in groups of which a token may use g of G, its k experts are on the ranks and domains of g groups alone
(DeepSeek's node-limited routing). Sources: GShard (2006.16668), DeepSeek-V3 (2412.19437, section 3.2.2) and its DeepEP
library.
"""

from dataclasses import dataclass
from typing import Literal

from parsim.axes.axis import CollectiveKind, Comm
from parsim.model.dims import Dim, Sizes
from parsim.model.layer import Elementwise, Pass, Work

__all__ = ["Dispatcher", "ExpertAxis", "distinct"]

Dispatcher = Literal["alltoall", "allgather", "deepep", "hybridep"]


def distinct(places: float, draws: float) -> float:
    """Expected number of distinct places that `draws` independent, even draws hit; all of fewer than two."""
    return places * (1 - (1 - 1 / places) ** draws) if places > 1 else places


@dataclass(frozen=True)
class ExpertAxis:
    """ep of a run: `degree` ranks on `domains` NVLink domains; a token goes to `topk` experts, cut by expert_tp.

    `crowding`: rows on the busiest rank over the even share, which sizes have; `domain_crowding`: of domains.
    """

    degree: int
    topk: int
    dispatcher: Dispatcher = "alltoall"
    domains: int = 1
    expert_tp: int = 1
    word_bytes: int = 2
    groups: int = 1
    topk_groups: int = 1
    crowding: float = 1.0
    domain_crowding: float = 1.0
    name: str = "ep"

    @property
    def cuts(self) -> frozenset[Dim]:
        return frozenset({Dim.EXPERTS, Dim.ROUTED})

    def comms(self, work: tuple[Work, ...], sizes: Sizes, which: Pass) -> tuple[Comm, ...]:
        """Dispatch behind the permutation and combine before its reverse, or in the backward their gradients."""
        ends = [item.name for item in work if isinstance(item, Elementwise) and item.role == "permute"]
        if self.degree == 1 or which == "W" or not ends:
            return ()
        forward = which == "F"
        return (self._exchange(sizes, ends[0], forward, True), self._exchange(sizes, ends[-1], forward, False))

    def _exchange(self, sizes: Sizes, at: str, forward: bool, dispatch: bool) -> Comm:
        tokens = sizes[Dim.ROUTED] / (self.topk * self.expert_tp)
        payload = self.word_bytes * tokens * sizes[Dim.HIDDEN]
        before = forward != dispatch
        if self.dispatcher == "allgather":
            kind: CollectiveKind = "all_gather" if forward == dispatch else "reduce_scatter"
            return Comm(kind, self.name, at, payload * self.degree, before)
        if self.dispatcher == "alltoall":
            return Comm("all_to_all", self.name, at, payload * self.topk * self.crowding, before)
        met = min(self.reached(self.domains) * self.domain_crowding, self.domains)
        elsewhere = met * (self.domains - 1) / self.domains
        copies = min(self.reached(self.degree) * self.crowding, self.degree)
        return Comm("all_to_all", self.name, at, payload * copies, before, across_bytes=payload * elsewhere)

    def reached(self, places: int) -> float:
        """How many of `places` (ranks or domains), over which the groups are spread, a token's experts are on."""
        if places < self.groups:
            return distinct(places, distinct(self.topk_groups, self.topk))
        return distinct(places * self.topk_groups / self.groups, self.topk)
