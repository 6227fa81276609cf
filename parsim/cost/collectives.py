"""Collectives inside an op: what those that the axes owe take on a run's links, and what hides them.

    tp, expert_tp  rings at the tensor-parallel rate, in line unless tp_overlap lets the matmuls run beside them
    cp             a ring of keys and values beside the core; Ulysses' exchanges and gathers in line
    ep             dispatch and combine in line, or with ep_overlap beside the compute of other micro-batches

With ep_overlap, F and B of two micro-batches share the streams: max(compute of both, exchanges of both) + 0.15 min of
the two, as weight gradients are put where an exchange would leave a gap. A pair of ops (DualPipe) is played so; where a
schedule does not pair them, each op's own exchanges run beside its own compute, which takes about the same time in a
steady state. Alone, DualPipe's ops have nothing beside their exchanges.
"""

from parsim.axes.axis import Comm
from parsim.cost.segments import Collective
from parsim.cost.sublayout import Sublayout
from parsim.model.layer import Pass
from parsim.network.price import Path, collective_seconds

__all__ = ["inner_collective"]


def inner_collective(comm: Comm, which: Pass, layout: Sublayout, share: float = 1.0) -> Collective:
    """A collective between kernels as a segment, `share` of its full length."""
    if comm.axis in ("tp", "expert_tp"):
        return _tensor(comm, layout, share)
    return _context(comm, which, layout, share) if comm.axis == "cp" else _expert(comm, layout, share)


def _tensor(comm: Comm, layout: Sublayout, share: float) -> Collective:
    constants, dense = layout.constants, comm.axis == "tp"
    overlap = layout.software.tp_overlap if dense else "none"
    path = layout.paths.tensor if dense else layout.paths.expert_tensor
    contention = {
        "none": constants.pair_contention,
        "te_userbuffers": constants.tp_overlapped,
        "async_tp": constants.tp_async,
    }[overlap]
    if comm.regather:
        contention = min(contention, constants.tp_regather) if overlap != "none" else constants.tp_regather
    overlaps = comm.regather or overlap != "none"
    return _segment(comm, path, share, overlaps, contention)


def _context(comm: Comm, which: Pass, layout: Sublayout, share: float) -> Collective:
    constants, path = layout.constants, layout.paths.context
    if comm.kind == "all_to_all":
        slower = constants.cp_exchange_backward if which != "F" else 1.0
        return _segment(comm, path, share * slower, False, constants.pair_contention)
    contention = constants.cp_contention if comm.beside else constants.pair_contention
    return _segment(comm, path, share, comm.beside, contention)


def _expert(comm: Comm, layout: Sublayout, share: float) -> Collective:
    constants, path = layout.constants, layout.paths.expert
    ranks = 1 if path is None else path.ranks
    call = constants.exchange_s * (1 + constants.exchange_rank * ranks)
    return _segment(comm, path, share, layout.hides_exchanges, constants.ep_contention, call)


def _segment(
    comm: Comm, path: Path | None, share: float, overlaps: bool, contention: float, call_s: float = 0.0
) -> Collective:
    assert path is not None, f"{comm.axis} of one rank owes no {comm.kind}"
    seconds = share * collective_seconds(comm.kind, comm.size_bytes, path, call_s, comm.across_bytes)
    return Collective(
        comm.kind, comm.axis, comm.size_bytes, path.ranks, seconds, overlaps, contention, joins=comm.beside
    )
