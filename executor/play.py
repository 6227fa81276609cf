"""What every rank does: build its stages, play warm-up and recorded steps, hand back what happened as plain data."""

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist

from executor.clock import Alignment, measure_offset
from executor.comms import Messages, make_transport, routes_of
from executor.device import Device, open_device
from executor.emulate import NoFeed, Pace, Sleeper
from executor.gradients import Gradients
from executor.groups import Groups
from executor.job import Job
from executor.memory import TensorCount
from executor.precision import activation_dtype
from executor.roles import Position
from executor.worker import Note, Worker
from parsim.axes.mesh import coordinates
from parsim.errors import SpecError

__all__ = ["Context", "Played", "RankRecord", "StepRecord", "play"]


class Context(Protocol):
    """What a rank knows when it starts; its default process group is ready."""

    rank: int
    ranks: int
    local_rank: int
    store: dist.Store
    state: Position


class Played(NamedTuple):
    """A slot (as it prints) with the seconds, on this rank's clock, when it asked for its inputs, began and ended."""

    slot: str
    asked_s: float
    began_s: float
    ended_s: float
    cpu_s: float


@dataclass(frozen=True)
class StepRecord:
    """One step of one rank: when it began and ended, the sum of its losses (None off the last stages), its slots."""

    began_s: float
    ended_s: float
    loss: float | None
    played: tuple[Played, ...]


@dataclass(frozen=True)
class RankRecord:
    """Everything one rank has to tell, without torch: it travels to whoever asked."""

    rank: int
    steps: tuple[StepRecord, ...]
    alignment: Alignment
    gradients: Mapping[str, Any] = field(default_factory=dict)
    """By canonical name, numpy arrays: those of the first step, reduced; of parts and weights this rank holds."""
    losses: tuple[float, ...] = ()
    """Sum of the losses of every step that was played, warm-up too."""
    memory: tuple[tuple[str, Mapping[str, float]], ...] = ()
    """After each slot of a step what the rank holds, bytes by category."""


def play(context: Context, job: Job) -> RankRecord:
    """Play the job on this rank. SpecError if the ranks were not started with the same job."""
    _check_same(context, job)
    device = open_device(job.device, context.local_rank)
    if job.device == "cpu":
        torch.set_num_threads(1)
    mesh = job.run.layout.mesh
    groups = Groups(mesh, context.rank)
    everyone = groups.make("clock", tuple(range(context.ranks)), "gloo")
    pipeline_rank = coordinates(mesh, context.rank).pp
    stages = job.plan.placement.stages_of(pipeline_rank)
    dtype = activation_dtype(job.run)

    weights: Gradients | None = None
    pace: Pace | None = None
    if job.times is None:
        from executor.layers import Feed, build_stages

        players, weights = build_stages(job.run, job.plan.placement, stages, groups, device)
    else:
        pace = Pace(job.times)
        players = {s: Sleeper(s, pace, job.message_shape, dtype, device.torch_device) for s in stages}
    routes = routes_of(job.plan, pipeline_rank)
    messages = Messages(
        routes,
        make_transport(job.plan, groups, device.backend, job.channels),
        job.message_shape,
        dtype,
        device.torch_device,
    )
    worker = Worker(
        job.plan,
        pipeline_rank,
        players,
        messages,
        routes.due,
        device,
        weights=weights,
        position=context.state,
        pair=pace.pair if pace is not None else None,
        faults=[fault for fault in job.faults if fault.rank == context.rank],
    )

    def feed(step: int) -> Any:
        if pace is not None:
            return NoFeed()
        return Feed(job, context.rank, stages, step, device.torch_device)

    before = _offset(everyone, context)
    gc.collect()
    gc.freeze()  # what set-up has made stays; later collections need not look at it
    records: list[StepRecord] = []
    losses: list[float] = []
    gradients: dict[str, Any] = {}
    for step in range(job.warmup + job.steps):
        record = _play_step(worker, feed(step), everyone, weights)
        losses.append(record.loss or 0.0)
        if step == 0 and job.keep_gradients and weights is not None:
            gradients = {name: _plain(tensor) for name, tensor in weights.reduced().items()}
        if step >= job.warmup:
            records.append(record)
    after = _offset(everyone, context)
    memory = _count(worker, feed(job.warmup + job.steps), everyone, weights) if job.count_memory else ()
    alignment = Alignment(before[0], before[1], after[0], after[1], max(before[2], after[2]))
    return RankRecord(context.rank, tuple(records), alignment, gradients, tuple(losses), memory)


def _check_same(context: Context, job: Job) -> None:
    mine = job.digest()
    if context.rank == 0:
        context.store.set("parsim/job", mine)
    elif (other := context.store.get("parsim/job").decode()) != mine:
        raise SpecError(f"rank {context.rank} was started with another run or plan than rank 0 ({mine}, not {other})")


def _offset(group: dist.ProcessGroup | None, context: Context) -> tuple[float, float, float]:
    if group is None:
        return time.perf_counter(), 0.0, 0.0
    return measure_offset(group, context.rank, context.ranks)


def _play_step(worker: Worker, feed: Any, everyone: dist.ProcessGroup | None, weights: Gradients | None) -> StepRecord:
    """All ranks begin together; the step of a rank ends when its device has done everything."""
    device = worker.device
    if weights is not None:
        weights.begin()
    gc.collect()
    device.synchronize()
    if everyone is not None:
        dist.barrier(everyone)
    first = device.mark()
    worker.play(feed)
    last = device.mark()
    notes = [*worker.notes, *(weights.notes() if weights is not None else ())]
    began, ended = device.seconds([first, last])
    loss = float(torch.stack(worker.losses).double().sum()) if worker.losses else None
    return StepRecord(began, ended, loss, _read(device, notes))


def _read(device: Device, notes: list[Note]) -> tuple[Played, ...]:
    times = device.seconds([mark for note in notes for mark in note[1:4]])
    return tuple(
        Played(str(note.slot), times[3 * index], times[3 * index + 1], times[3 * index + 2], note.cpu_s)
        for index, note in enumerate(notes)
    )


def _plain(tensor: torch.Tensor) -> Any:
    wide = tensor if tensor.dtype is torch.float64 else tensor.float()
    return np.ascontiguousarray(wide.cpu().numpy())


def _count(
    worker: Worker, feed: Any, everyone: dist.ProcessGroup | None, weights: Gradients | None
) -> tuple[tuple[str, Mapping[str, float]], ...]:
    """One more step, looking at the memory after every slot that computes."""
    device, samples = worker.device, list[tuple[str, Mapping[str, float]]]()
    if device.memory():

        def look(slot: str) -> None:
            samples.append((slot, device.memory()))

        worker.after_slot = look
        _play_step(worker, feed, everyone, weights)
    else:
        static = weights.bytes if weights is not None else {}
        with TensorCount(weights.tensors() if weights is not None else ()) as count:

            def look(slot: str) -> None:
                communication = float(worker.messages.held_bytes)
                held = {
                    **{name: float(size) for name, size in static.items()},
                    "activations": max(count.live_bytes - communication, 0.0),
                    "communication": communication,
                    "temporaries": float(count.peak_bytes - count.live_bytes),
                }
                samples.append((slot, held))
                count.reset_peak()

            worker.after_slot = look
            _play_step(worker, feed, everyone, weights)
    worker.after_slot = None
    return tuple(samples)
