"""Calibration: measured op times of every stage, and measured links, as the cost file that `parsim simulate` takes.

The run's own plan is played; and where it does not play full backwards, or their halves, on every stage, the same plan
with each backward cut in two (I, then W) or put together again. So the file prices any schedule on the same parts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from executor.device import open_device
from executor.job import Job, job_of
from executor.kernels import measure_kernels
from executor.links import COLLECTIVES, LinkJob, LinkRecord, MessageTime, bus_factor, measure_links
from executor.precision import activation_dtype
from executor.run_command import load_job, play_job
from parsim.axes.mesh import Coordinates, rank_at
from parsim.cli.output import Outputs, json_text
from parsim.cost import RooflineCost
from parsim.cost.measured import KINDS, durations_of, medians_of
from parsim.errors import SpecError
from parsim.plan import COMPUTE, Kind, Op, Plan, Slot
from parsim.timeline import Timeline

__all__ = [
    "Hop",
    "calibrate_command",
    "collective_rows",
    "cost_document",
    "full_backwards",
    "hop_of",
    "kernel_section",
    "link_job_of",
    "play_links",
    "split_backwards",
    "variants_of",
]

SCHEMA_VERSION = "1.0"
_CPU = "local-cpu"  # the GPU file of a CPU process
_SMALLEST_BYTES = 8
_COLLECTIVE_SIZES = tuple(2**power for power in range(16, 25, 2))  # 64 KiB to 16 MiB


class Hop(NamedTuple):
    """What a message takes: `latency_s + message_bytes / bytes_per_s` is what one of the run's size was measured at."""

    latency_s: float
    bytes_per_s: float | None
    message_bytes: int

    @property
    def seconds(self) -> float:
        """Seconds of a message of the run's size."""
        return self.latency_s + (self.message_bytes / self.bytes_per_s if self.bytes_per_s else 0.0)


def calibrate_command(
    name: str,
    overrides: tuple[str, ...],
    *,
    collectives: bool,
    device: str,
    kernels: bool = False,
    steps: int,
    warmup: int,
    hang_after_s: float,
    **paths: Path | None,
) -> None:
    """Measure, print the table, write the cost file."""
    outputs = Outputs(**paths)
    job = load_job(name, overrides, None, emulate=False, times=None, steps=steps, warmup=warmup, device=device)
    links = play_links(link_job_of(job, collectives=collectives), job.ranks, hang_after_s)
    records = [play_job(each, hang_after_s) for each in (job, *variants_of(job))]
    if links is None or None in records:
        return  # under torchrun rank 0 reports
    shares = [share for record in records for step in range(steps) if (share := record.cpu_share(step)) is not None]
    timelines = [[record.timeline(step) for step in range(steps)] for record in records]
    document = cost_document(job, timelines, links, median(shares) if shares else None)
    document |= kernel_section(job) if kernels else {}
    for output in ("out", "json"):
        if outputs.wants(output):
            outputs.put(output, json_text(document))
    outputs.write()
    if not outputs.quiet:
        from parsim.report.validation_table import print_calibration

        print_calibration(document)


def kernel_section(job: Job) -> dict[str, Any]:
    """The layer table of the job's matmuls and attention (see `parsim.cost.layer_table`), measured on its device."""
    name = job.run.cluster.node.gpu.name
    if job.device == "cpu":
        name = _CPU
    elif name == _CPU:
        raise SpecError("kernels measured on cuda are of one GPU type: name the GPU in the run's cluster")
    rows = (shape.row() for shape in RooflineCost(job.run, job.plan.placement).kernel_shapes)
    return {"gpu": name, "kernels": measure_kernels(rows, open_device(job.device, 0))}


def variants_of(job: Job) -> tuple[Job, ...]:
    """The further jobs that measure what the job's own plan does not play on every stage."""
    stages = range(job.plan.placement.stages)
    played = {(op.kind, op.stage) for _, op in job.plan.ops()}
    found = []
    if not all((kind, stage) in played for kind in (Kind.I, Kind.W) for stage in stages):
        found.append(split_backwards(job.plan))
    if not all((Kind.B, stage) in played for stage in stages):
        found.append(full_backwards(job.plan))
    return tuple(job_of(job.run, plan, steps=job.steps, warmup=job.warmup, device=job.device) for plan in found)


def split_backwards(plan: Plan) -> Plan:
    """The computing of a plan with every B as I and W one after the other, and pairs pulled apart."""
    return _rewritten(
        plan, lambda op: [Op(op.stage, half, op.mb) for half in (Kind.I, Kind.W)] if op.kind is Kind.B else [op]
    )


def full_backwards(plan: Plan) -> Plan:
    """The computing of a plan with a B where an I was, and without W; pairs are pulled apart."""
    return _rewritten(
        plan,
        lambda op: [] if op.kind is Kind.W else [Op(op.stage, Kind.B, op.mb)] if op.kind is Kind.I else [op],
    )


def _rewritten(plan: Plan, rewrite: Any) -> Plan:
    orders = tuple(
        tuple(Slot(new) for slot in order for op in slot.ops if op.kind in COMPUTE for new in rewrite(op))
        for order in plan.orders
    )
    return replace(plan, orders=orders)


def link_job_of(job: Job, *, collectives: bool = False, rounds: int = 50) -> LinkJob:
    """What to measure of the links of a job: messages between pipeline neighbours, of the run's size and of others."""
    placement, mesh = job.plan.placement, job.run.layout.mesh
    near = {
        tuple(sorted((placement.rank_of[a], placement.rank_of[b])))
        for a, b in enumerate(placement.after)
        if b is not None and placement.rank_of[a] != placement.rank_of[b]
    }
    pairs = tuple((rank_at(mesh, Coordinates(pp=a)), rank_at(mesh, Coordinates(pp=b))) for a, b in sorted(near))
    size = _message_bytes(job)
    counts = sorted({2**power for power in range(1, job.ranks.bit_length()) if 2**power <= job.ranks} | {job.ranks})
    return LinkJob(
        device=job.device,
        pairs=pairs,
        sizes=tuple(sorted({_SMALLEST_BYTES, size, 2**16, 2**20})),
        rounds=rounds,
        collective_ranks=tuple(count for count in counts if count > 1) if collectives else (),
        collective_sizes=_COLLECTIVE_SIZES if collectives else (),
    )


def _message_bytes(job: Job) -> int:
    batch, sequence, hidden = job.message_shape
    return batch * sequence * hidden * activation_dtype(job.run).itemsize


def play_links(job: LinkJob, ranks: int, hang_after_s: float) -> tuple[LinkRecord, ...] | None:
    """What all ranks measured of a link job; None on every rank of a torchrun but the first. Raises RunFailed."""
    from executor.launch import launch

    if ranks < 2:
        return (LinkRecord(0, (), ()),)
    results = launch(
        measure_links, job, ranks, device=job.device, hang_after_s=hang_after_s, labels=(job.labels(),) * ranks
    )
    return None if results is None else tuple(results)  # type: ignore[arg-type]


def hop_of(job: Job, links: Sequence[LinkRecord]) -> Hop:
    """What a message of the job's size takes: medians over the pairs of neighbours."""
    size = _message_bytes(job)
    messages = [message for record in links for message in record.messages]
    if not messages:
        return Hop(0.0, None, size)
    smallest = min(message.bytes for message in messages)
    latency, whole = (
        median(message.seconds for message in messages if message.bytes == wanted) for wanted in (smallest, size)
    )
    return Hop(min(latency, whole), size / (whole - latency) if whole > latency else None, size)


def cost_document(
    job: Job, timelines: Sequence[Sequence[Timeline]], links: Sequence[LinkRecord], cpu_share: float | None
) -> dict[str, Any]:
    """The cost file (see `parsim.cost.measured`). `timelines` are the steps of the job's plan, then of its variants: a
    kind is taken from the first plan that plays it on a stage. `spread` is the 10th and 90th percentile.
    """
    stages = job.plan.placement.stages
    ops: dict[str, list[float | None]] = {}
    for steps in timelines:
        for kind, row in medians_of(steps, stages).items():
            known = ops.setdefault(kind, [None] * stages)
            ops[kind] = [new if old is None else old for old, new in zip(known, row, strict=True)]
    if not ops:
        raise SpecError(f"{job.plan.name}: nothing was measured; at least 1 step would do")
    hop = hop_of(job, links)
    rate = {} if hop.bytes_per_s is None else {"bytes_per_s": hop.bytes_per_s, "message_bytes": hop.message_bytes}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "cost",
        "evidence": "calibrated",
        "device": job.device,
        "plan": job.plan.name,
        "cpu_share": cpu_share,
        "ops": {kind: ops[kind] for kind in KINDS if kind in ops},
        "spread": _spread(timelines, stages),
        "p2p": {"latency_s": hop.latency_s, **rate, "messages": _message_rows(links)},
        "collectives": collective_rows(links),
        "run": job.run.document(),
    }


def _spread(timelines: Sequence[Sequence[Timeline]], stages: int) -> dict[str, list[list[float] | None]]:
    """10th and 90th percentile of the seconds of single ops, by kind and stage, over all plans that played them."""
    found: dict[str, list[list[float]]] = {}
    for timeline in (timeline for steps in timelines for timeline in steps):
        durations = durations_of(timeline)
        paired = {span.op for span in timeline.spans if "pair" in span.detail}
        for op, seconds in durations.items():
            if op not in paired:
                found.setdefault(op.kind.value, [[] for _ in range(stages)])[op.stage].append(seconds)
    return {
        kind: [_percentiles(sorted(values)) if values else None for values in found[kind]]
        for kind in KINDS
        if kind in found
    }


def _percentiles(ordered: Sequence[float]) -> list[float]:
    return [ordered[round(share * (len(ordered) - 1))] for share in (0.1, 0.9)]


def _message_rows(links: Sequence[LinkRecord]) -> list[Mapping[str, Any]]:
    messages: Iterable[MessageTime] = (message for record in links for message in record.messages)
    return [message._asdict() for message in messages]


def collective_rows(links: Sequence[LinkRecord]) -> list[dict[str, Any]]:
    """A row for each collective, its slowest rank's time; rates in GB/s (1e9 bytes) as nccl-tests defines them."""
    slowest: dict[tuple[int, str, int], float] = {}
    for record in links:
        for one in record.collectives:
            key = one.ranks, one.kind, one.bytes
            slowest[key] = max(slowest.get(key, 0.0), one.seconds)
    return [
        {
            "kind": kind,
            "ranks": ranks,
            "bytes": size,
            "seconds": seconds,
            "algbw_gbps": size / seconds / 1e9,
            "busbw_gbps": size / seconds / 1e9 * bus_factor(kind, ranks),
        }
        for (ranks, kind, size), seconds in sorted(
            slowest.items(), key=lambda item: (COLLECTIVES.index(item[0][1]), item[0][0], item[0][2])
        )
        if seconds
    ]
