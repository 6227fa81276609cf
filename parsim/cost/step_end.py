"""What a stage does once a step: its gradient reduction, the gather of updated parameters, the optimizer.

    reduce    = gradient bytes of the part over its data-parallel group, in buckets of 40 M elements
    gather    = 2 bytes a parameter (ZeRO-1 and 2)
    optimizer = its step (see optimizer) + gradient bytes/hbm_eff (norm, clip) + 37 ms a rank

How overlap maps to ops. A reduction starts when the last backward of its stage has ended, on a stream of its own.
With dp_overlap most of it really runs beside that very backward, whose layers are ready one by one: REDUCE_GRAD
lasts max(0, reduce - 0.9 B), and what the backwards of a rank's other stages hide, the plan shows by itself. The
gather hides in the forwards of the next step's first micro-batches: what is left is part of STEP, and so is the
contention of both, 0.13 (reduce + gather), at most what is hidden. Without dp_overlap nothing starts before the last
backward of the rank: REDUCE_GRAD lasts nothing and STEP holds it all. With parameters cut by FSDP, or gradients by
ZeRO-2, the micro-batches have reduced already; inside a pipeline FSDP gathers and scatters once a step, of which 0.36
shows, and ZeRO-2 reduces a stage's gradients once, after its last backward (MegaScale, arXiv:2402.15627, 3.2), as
ZeRO-1 does.

A run may state its buckets (PyTorch DDP: a first one of 1 MiB, then 25 MiB). They are ready one by one, the gradients
of the last layer first, and each waits for those before it: what shows is how long after the backward the last one
ends. A single bucket has nothing to hide behind, many small ones pay their latency many times.

Optimizer states on the host are updated there: see offload.

Experts are reduced over the ranks that hold the same ones, everything else over dp and cp.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from parsim.axes.axis import Comm
from parsim.axes.dp import DataAxis
from parsim.cost.constants import Constants
from parsim.cost.links import DataPaths
from parsim.cost.offload import HostUpdate, host_update
from parsim.cost.optimizer import optimizer_seconds
from parsim.cost.rates import Rates
from parsim.memory.host import states_on_host
from parsim.network.price import Path, collective_seconds
from parsim.spec import Run

__all__ = ["Bucket", "EndWork", "Holding", "StepEnd", "beside", "end_work", "gather_window", "straggler_factor"]

_Seconds = TypeVar("_Seconds", float, npt.NDArray[np.float64])


@dataclass(frozen=True)
class StepEnd:
    """Seconds of one stage at the end of a step: `reduce_grad` on the collective stream, the rest in STEP; and what of
    reduction and gather its own backward and forwards hide.
    """

    reduce_grad_s: float
    data_parallel_s: float
    optimizer_s: float
    hidden_reduction_s: float = 0.0
    hidden_gather_s: float = 0.0
    copies_s: float = 0.0
    """Copies to and from the host that the update does not hide."""

    @property
    def step_s(self) -> float:
        """How long STEP lasts."""
        return self.data_parallel_s + self.optimizer_s + self.copies_s


def straggler_factor(gpus: int, constants: Constants) -> float:
    """By how much a whole step is longer than its longest path: 1 + 0.0068 log2(GPUs/8), 1 up to 8 GPUs. It stands for
    stragglers and the barrier at the flush; a player multiplies the makespan by it.
    """
    return 1.0 + constants.straggler * math.log2(max(gpus / 8, 1.0))


def gather_window(forward_s: _Seconds, stages_on_rank: int, in_flight: int) -> _Seconds:
    """What can hide a stage's gather: its part of the forwards of the first `in_flight` micro-batches, which the
    stages of a rank share.
    """
    return forward_s * ((stages_on_rank - 1) * in_flight + 1) / stages_on_rank


def beside(
    reduce_s: _Seconds, gather_s: _Seconds, hideable_s: tuple[_Seconds, _Seconds], constants: Constants
) -> tuple[_Seconds, _Seconds, _Seconds]:
    """With overlap: what is hidden of a reduction and of a gather, no more than `hideable_s` of each, and what both of
    them leave in STEP. Seconds, or arrays of them.
    """
    hidden_reduce, hidden_gather = np.minimum(reduce_s, hideable_s[0]), np.minimum(gather_s, hideable_s[1])
    contention = constants.dp_contention * (reduce_s + gather_s)
    # What runs beside nothing meets nothing: overlap costs no more than it hides.
    left = gather_s - hidden_gather + np.minimum(contention, hidden_reduce + hidden_gather)
    return hidden_reduce, hidden_gather, left


class Holding(NamedTuple):
    """Weights of a stage on a rank, what Muon multiplies for them, and the ranks that hold the same."""

    axis: DataAxis
    parameters: float
    orthogonalised_flops: float
    paths: DataPaths


class Bucket(NamedTuple):
    """Gradients that are reduced together, when the `ready` share of a backward is over."""

    ready: float
    seconds: float
    size_bytes: float


@dataclass(frozen=True)
class EndWork:
    """What a stage has to do once a step, whatever hides it: seconds of reduction, gather, FSDP's gather and scatter
    inside a pipeline (`once`), and the optimizer.
    """

    reduce_s: float
    gather_s: float
    once_s: float
    optimizer_s: float
    constants: Constants
    buckets: tuple["Bucket", ...] = ()
    """Of the reduction, by when they are ready; where none are stated, gradients are ready as they are reduced."""
    copies_s: float = 0.0

    def end(self, overlap: bool, window_s: tuple[float, float]) -> StepEnd:
        """The end of a step. `window_s`: what can hide a reduction (the stage's own backward), and a gather (its
        forwards in the first micro-batches).
        """
        return replace(self._on_device(overlap, window_s), copies_s=self.copies_s)

    def _on_device(self, overlap: bool, window_s: tuple[float, float]) -> StepEnd:
        constants = self.constants
        once, optimizer = self.once_s, self.optimizer_s
        if once:
            return StepEnd(0.0, constants.fsdp_pipeline * once, optimizer, 0.0, (1 - constants.fsdp_pipeline) * once)
        if not overlap:
            return StepEnd(0.0, self.reduce_s + self.gather_s, optimizer)
        hidden_reduce, hidden_gather = (constants.dp_window * window for window in window_s)
        if self.buckets:
            hidden_reduce = self.reduce_s - _late(self.buckets, hidden_reduce)
        found = beside(self.reduce_s, self.gather_s, (hidden_reduce, hidden_gather), constants)
        hidden_reduce, hidden_gather, left = map(float, found)
        return StepEnd(self.reduce_s - hidden_reduce, left, optimizer, hidden_reduce, hidden_gather)


def end_work(run: Run, holdings: Sequence[Holding], stages_on_rank: int, rates: Rates, constants: Constants) -> EndWork:
    """The work of a stage that holds `holdings`: everyone's weights, and those of its experts."""
    optimizer = constants.step_s / stages_on_rank
    once = reduce = gather = copies = 0.0
    buckets: list[Bucket] = []
    for held in holdings:
        update = _update(run, held, rates, constants)
        optimizer, copies = optimizer + update.optimizer_s, copies + update.copies_s
        if run.layout.zero_stage == 3:
            once += _once(run, held)
        else:
            own = _buckets(run, held)
            reduce += sum(bucket.seconds for bucket in own) if own else _reduce(run, held, constants)
            gather += _gather(run, held, constants)
            buckets += own
    return EndWork(reduce, gather, once, optimizer, constants, tuple(sorted(buckets)), copies)


def _update(run: Run, held: Holding, rates: Rates, constants: Constants) -> HostUpdate:
    zero, parameters = run.layout.zero_stage, held.parameters
    shard = held.paths.inside.ranks if zero else 1
    kept = parameters / shard if zero >= 2 else parameters
    norm = held.axis.gradient_bytes * kept / rates.memory_bytes_per_s
    host = host_update(run, parameters / shard, held.axis.gradient_bytes, constants)
    if not states_on_host(run):
        flops = held.orthogonalised_flops / shard
        updated = optimizer_seconds(run.software.optimizer, parameters / shard, flops, rates, constants)
        return HostUpdate(updated + norm, host.copies_s)
    return HostUpdate(host.optimizer_s + norm, host.copies_s)


def _once(run: Run, held: Holding) -> float:
    """FSDP inside a pipeline: one gather and one scatter a step, of which a share shows."""
    axis, paths = held.axis, held.paths
    if run.layout.mesh.pp == 1 or paths.whole.ranks == 1:
        return 0.0
    path = paths.whole if axis.sets == 1 else paths.inside
    seconds = (axis.word_bytes + axis.gradient_bytes) * held.parameters / path.bytes_per_s
    if axis.sets > 1:
        shares = axis.reduction(held.parameters / paths.inside.ranks, scattered=False)
        seconds += collective_seconds(shares.kind, shares.size_bytes, paths.across)
    return seconds


def _reduce(run: Run, held: Holding, constants: Constants) -> float:
    """An all-reduce, or with cut optimizer states a scatter inside each set of ranks and an all-reduce across sets;
    nothing is left of it where gradients are cut: the micro-batches have reduced them.
    """
    axis, parameters, paths = held.axis, held.parameters, held.paths
    if not run.layout.zero_stage:
        return _seconds(axis.reduction(parameters, scattered=False), parameters, paths.whole, constants)
    if axis.scattered:
        return 0.0
    share = parameters / paths.inside.ranks
    scatter = _seconds(axis.reduction(parameters, scattered=True), parameters, paths.inside, constants)
    return scatter + _seconds(axis.reduction(share, scattered=False), share, paths.across, constants)


def _buckets(run: Run, held: Holding) -> list[Bucket]:
    """The buckets that a run states, in which DDP reduces gradients in the order of the backward; else none."""
    axis, software = held.axis, run.software
    if software.bucket_bytes is None or axis.scattered or not held.parameters or held.paths.whole.ranks == 1:
        return []
    whole = axis.gradient_bytes * held.parameters
    first = min(software.first_bucket_bytes or software.bucket_bytes, whole)
    more, rest = divmod(whole - first, software.bucket_bytes)
    sizes = [first, *([software.bucket_bytes] * int(more)), *([rest] if rest >= 1 else [])]
    lasting = {size: _bucket_seconds(run, held, size / axis.gradient_bytes) for size in set(sizes)}
    ready = accumulate(sizes)
    return [Bucket(min(done / whole, 1.0), lasting[size], size) for size, done in zip(sizes, ready, strict=True)]


def _bucket_seconds(run: Run, held: Holding, elements: float) -> float:
    axis, paths = held.axis, held.paths
    if not run.layout.zero_stage:
        comm = axis.reduction(elements, scattered=False)
        return collective_seconds(comm.kind, comm.size_bytes, paths.whole)
    scatter = axis.reduction(elements, scattered=True)
    share = axis.reduction(elements / paths.inside.ranks, scattered=False)
    return collective_seconds(scatter.kind, scatter.size_bytes, paths.inside) + collective_seconds(
        share.kind, share.size_bytes, paths.across
    )


def _late(buckets: Sequence[Bucket], window_s: float) -> float:
    """By how much the last bucket ends after the backward, if each is reduced when it is ready and those before it are
    through.
    """
    ended = 0.0
    for bucket in buckets:
        ended = max(ended, bucket.ready * window_s) + bucket.seconds
    return ended - window_s


def _gather(run: Run, held: Holding, constants: Constants) -> float:
    if not run.layout.zero_stage:
        return 0.0
    paths, parameters = held.paths, held.parameters
    return _seconds(held.axis.gather(parameters), parameters, paths.inside, constants)


def _seconds(comm: Comm, parameters: float, path: Path, constants: Constants) -> float:
    buckets = max(1, -(-int(parameters) // int(constants.bucket_elements)))
    each = comm.size_bytes / buckets
    return buckets * collective_seconds(comm.kind, each, path)
