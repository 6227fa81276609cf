"""Collectives inside an op: what those that the axes owe take on a run's links, and what hides them.

    tp, expert_tp  rings at the tensor-parallel rate, in line unless tp_overlap lets the matmuls run beside them
    cp             a ring of keys and values beside the core; Ulysses' exchanges and gathers in line
    ep             dispatch and combine in line, or with ep_overlap beside the compute of other micro-batches

With ep_overlap, F and B of two micro-batches share the streams: max(compute of both, exchanges of both) + 0.15 min of
the two, as weight gradients are put where an exchange would leave a gap. A pair of ops (DualPipe) is played so; where a
schedule does not pair them, each op's own exchanges run beside its own compute, which takes about the same time in a
steady state. Alone, DualPipe's ops have nothing beside their exchanges.
"""

from dataclasses import dataclass

from parsim.axes.axis import Comm
from parsim.cost.constants import Constants
from parsim.cost.links import RunLinks
from parsim.cost.segments import Collective
from parsim.model.layer import Pass
from parsim.network.price import Path, collective_seconds
from parsim.spec import Run

__all__ = ["InnerCollectives"]

_PAIRED = ("dualpipe", "dualpipe-v")


@dataclass(frozen=True)
class InnerCollectives:
    """Prices of one run's collectives between kernels; `paired`: of ops that share the streams with another's."""

    run: Run
    links: RunLinks
    constants: Constants
    paired: bool = False

    def price(self, comm: Comm, which: Pass, share: float = 1.0) -> Collective:
        """A collective as a segment, `share` of its full length."""
        if comm.axis in ("tp", "expert_tp"):
            return self._tensor(comm, share)
        return self._context(comm, which, share) if comm.axis == "cp" else self._expert(comm, share)

    def _tensor(self, comm: Comm, share: float) -> Collective:
        constants, dense = self.constants, comm.axis == "tp"
        overlap = self.run.software.tp_overlap if dense else "none"
        path = self.links.tensor if dense else self.links.expert_tensor
        contention = {
            "none": constants.pair_contention,
            "te_userbuffers": constants.tp_overlapped,
            "async_tp": constants.tp_async,
        }[overlap]
        if comm.regather:
            contention = min(contention, constants.tp_regather) if overlap != "none" else constants.tp_regather
        overlaps = comm.regather or overlap != "none"
        return self._segment(comm, path, share, overlaps, contention)

    def _context(self, comm: Comm, which: Pass, share: float) -> Collective:
        constants = self.constants
        if comm.kind == "all_to_all":
            slower = constants.cp_exchange_backward if which != "F" else 1.0
            path = self.links.context_exchange
            return self._segment(comm, path, share * slower, False, constants.pair_contention)
        if comm.beside:
            return self._segment(comm, self.links.context_ring, share, True, constants.cp_contention)
        return self._segment(comm, self.links.context, share, False, constants.pair_contention)

    def _expert(self, comm: Comm, share: float) -> Collective:
        constants, path = self.constants, self.links.expert
        overlaps = self.paired or (self.run.software.ep_overlap and self.run.layout.schedule not in _PAIRED)
        call = constants.exchange_s * (1 + constants.exchange_rank * path.ranks)
        return self._segment(comm, path, share, overlaps, constants.ep_contention, call)

    def _segment(
        self, comm: Comm, path: Path, share: float, overlaps: bool, contention: float, call_s: float = 0.0
    ) -> Collective:
        seconds = share * collective_seconds(comm.kind, comm.size_bytes, path, call_s, comm.across_bytes)
        return Collective(
            comm.kind, comm.axis, comm.size_bytes, path.ranks, seconds, overlaps, contention, joins=comm.beside
        )
