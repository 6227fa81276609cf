"""What a stage does once a step: its gradient reduction, the gather of updated parameters, the optimizer.

    reduce    = gradient bytes of the part over its data-parallel group, in buckets of 40 M elements
    gather    = 2 bytes a parameter (ZeRO-1 alone)
    optimizer = 1.3*30 bytes * params/shard / hbm_eff + gradient bytes/hbm_eff (norm, clip) + 38 ms a rank

How overlap maps to ops. A reduction starts when the last backward of its stage has ended, on a stream of its own.
With dp_overlap most of it really runs beside that very backward, whose layers are ready one by one: REDUCE_GRAD
lasts max(0, reduce - 0.9 B), and what the backwards of a rank's other stages hide, the plan shows by itself. The
gather hides in the forwards of the next step's first micro-batches: what is left is part of STEP, and so is the
contention of both, 0.13 (reduce + gather). Without dp_overlap nothing starts before the last backward of the rank:
REDUCE_GRAD lasts nothing and STEP holds it all. With parameters cut by FSDP the micro-batches have reduced already;
inside a pipeline FSDP gathers and scatters once a step, of which 0.36 shows.
"""

import math
from dataclasses import dataclass

from parsim.axes.axis import Comm
from parsim.axes.dp import DataAxis
from parsim.cost.constants import Constants
from parsim.cost.links import DataPaths
from parsim.cost.rates import Rates
from parsim.network.price import Latency, Path, collective_seconds
from parsim.spec import Run

__all__ = ["StepEnd", "step_end", "straggler_factor"]


@dataclass(frozen=True)
class StepEnd:
    """Seconds of one stage at the end of a step: `reduce_grad` on the collective stream, the rest in STEP."""

    reduce_grad_s: float
    data_parallel_s: float
    optimizer_s: float

    @property
    def step_s(self) -> float:
        """How long STEP lasts."""
        return self.data_parallel_s + self.optimizer_s


def straggler_factor(gpus: int, constants: Constants) -> float:
    """By how much a whole step is longer than its longest path: 1 + 0.0068 log2(GPUs/8), 1 up to 8 GPUs. It stands for
    stragglers and the barrier at the flush; a player multiplies the makespan by it.
    """
    return 1.0 + constants.straggler * math.log2(max(gpus / 8, 1.0))


def step_end(
    run: Run,
    dp: DataAxis,
    parameters: float,
    paths: DataPaths,
    window_s: tuple[float, float],
    stages_on_rank: int,
    rates: Rates,
    constants: Constants,
) -> StepEnd:
    """The end of a step for a stage of `parameters` per rank.

    `window_s`: what can hide a reduction (the stage's own backward), and a gather (its forwards in the first
    micro-batches).
    """
    zero = run.layout.zero_stage
    shard = paths.inside.ranks if zero else 1
    held = parameters / shard if zero == 3 else parameters
    traffic = constants.optimizer_overhead * constants.optimizer_bytes * parameters / shard + dp.gradient_bytes * held
    optimizer = traffic / rates.memory_bytes_per_s + constants.step_s / stages_on_rank
    if zero == 3:
        once = 0.0
        if run.layout.mesh.pp > 1 and paths.whole.ranks > 1:
            once = constants.fsdp_pipeline * (dp.word_bytes + dp.gradient_bytes) * parameters / paths.whole.bytes_per_s
        return StepEnd(0.0, once, optimizer)
    reduce, gather = _reduce(dp, parameters, zero, paths, constants), 0.0
    if zero:
        gather = _seconds(dp.gather(parameters), parameters, paths.inside, paths.latency, constants)
    if not run.software.dp_overlap:
        return StepEnd(0.0, reduce + gather, optimizer)
    hidden_reduce, hidden_gather = (constants.dp_window * window for window in window_s)
    left = max(0.0, gather - hidden_gather) + constants.dp_contention * (reduce + gather)
    return StepEnd(max(0.0, reduce - hidden_reduce), left, optimizer)


def _reduce(dp: DataAxis, parameters: float, zero: int, paths: DataPaths, constants: Constants) -> float:
    """An all-reduce, or with cut optimizer states a scatter inside each set of ranks and an all-reduce across sets."""
    if not zero:
        return _seconds(dp.reduction(parameters, scattered=False), parameters, paths.whole, paths.latency, constants)
    share = parameters / paths.inside.ranks
    scatter = _seconds(dp.reduction(parameters, scattered=True), parameters, paths.inside, paths.latency, constants)
    return scatter + _seconds(dp.reduction(share, scattered=False), share, paths.across, paths.latency, constants)


def _seconds(comm: Comm, parameters: float, path: Path, latency: Latency, constants: Constants) -> float:
    buckets = max(1, -(-int(parameters) // int(constants.bucket_elements)))
    each = comm.size_bytes / buckets
    return buckets * collective_seconds(comm.kind, each, path, latency)
