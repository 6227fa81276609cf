"""The interpreter against PyTorch's own: one step of `torch.distributed.pipelining`'s runtime and one of ours, in turn.

    python benchmarks/speed/interpreter.py                a table
    python benchmarks/speed/interpreter.py --json -       the figures as JSON

Both sides play the same schedule on the same two ranks with the same modules, micro-batches and backward (PyTorch's
`stage_backward`, and its `stage_backward_input` and `_weight` where the schedule splits); gradients are compared first.
A step lasts from a barrier until the slower rank has ended. Runs alternate, so that a slow moment of a shared machine
hits both alike; the ratio is the median of the pairs'. Below 1 ours is the faster one.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules

from executor.comms import Messages, make_transport, routes_of
from executor.device import CpuDevice
from executor.groups import Groups
from executor.launch import launch
from executor.stage import Stage
from executor.worker import Worker
from parsim.plan import COMPUTE, Plan, add_p2p
from parsim.schedules import build
from parsim.spec import Mesh

SCHEDULES = {
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zb-v": schedules.ScheduleZBVZeroBubble,
    "dualpipe-v": schedules.ScheduleDualPipeV,
}
SIZES = {"small": (2, 128, 64), "large": (2, 1024, 288)}
"""Layers of a stage, width, rows of a micro-batch: ops of less than 1 ms, and of about 20 ms."""
MICROBATCHES = 8
RANKS = 2


@dataclass(frozen=True)
class Job:
    """One comparison."""

    schedule: str
    size: str
    runs: int


def block(layers: int, width: int, seed: int) -> nn.Module:
    """A stage: the same weights on both sides."""
    torch.manual_seed(seed)
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*parts)


class Feed:
    """Micro-batches as PyTorch's runtime cuts them from the whole batch."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self._x, self._y = x.tensor_split(MICROBATCHES), y.tensor_split(MICROBATCHES)

    def tokens(self, stage: int, mb: int) -> torch.Tensor:
        return self._x[mb]

    def targets(self, stage: int, mb: int) -> torch.Tensor:
        return self._y[mb]


def compare(context: Any, job: Job) -> dict[str, Any]:
    """Times of both sides on this rank, and how far their gradients are apart."""
    torch.set_num_threads(1)
    rank = context.rank
    layers, width, rows = SIZES[job.size]
    plan = add_p2p(build(job.schedule, RANKS, MICROBATCHES))
    mine = plan.placement.stages_of(rank)
    modules = {stage: block(layers, width, stage) for stage in mine}
    torch.manual_seed(7)
    x, y = torch.randn(rows * MICROBATCHES, width), torch.randn(rows * MICROBATCHES, width)
    worker = ours(plan, rank, modules, (rows, width))
    step = theirs(job.schedule, plan, modules, x, y)

    def run_ours() -> None:
        worker.play(Feed(x, y))

    apart = _gradients_apart(modules, run_ours, step)
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    for run in range(job.runs + 2):
        for name, play in (("ours", run_ours), ("torch", step)) if run % 2 else (("torch", step), ("ours", run_ours)):
            for module in modules.values():
                module.zero_grad(set_to_none=True)
            dist.barrier()
            began = time.perf_counter()
            play()
            lasted = torch.tensor(time.perf_counter() - began)
            dist.all_reduce(lasted, op=dist.ReduceOp.MAX)
            times[name].append(float(lasted))
    ops = [note.ended - note.began for note in worker.notes if note.slot.first.kind in COMPUTE]
    return {"apart": apart, "op_s": statistics.median(ops), **{name: row[2:] for name, row in times.items()}}


def ours(plan: Plan, rank: int, modules: dict[int, nn.Module], shape: tuple[int, int]) -> Worker:
    """Our interpreter with PyTorch's split of the backward."""
    placement = plan.placement
    players = {
        stage: Stage(
            module,
            loss=nn.functional.mse_loss if placement.after[stage] is None else None,
            first=placement.before[stage] is None,
            split="torch",
        )
        for stage, module in modules.items()
    }
    routes = routes_of(plan, rank)
    transport = make_transport(plan, Groups(Mesh(pp=RANKS), rank), "gloo")
    messages = Messages(routes, transport, shape, torch.float32, torch.device("cpu"))
    return Worker(plan, rank, players, messages, routes.due, CpuDevice())


def theirs(name: str, plan: Plan, modules: dict[int, nn.Module], x: torch.Tensor, y: torch.Tensor) -> Any:
    """One step of PyTorch's schedule class."""
    count, cpu = plan.placement.stages, torch.device("cpu")
    stages = [PipelineStage(module, stage, count, cpu) for stage, module in modules.items()]
    given = stages[0] if name == "1f1b" else stages
    schedule = SCHEDULES[name](given, MICROBATCHES, loss_fn=nn.functional.mse_loss, scale_grads=False)
    placement = plan.placement
    has_first = any(placement.before[stage] is None for stage in modules)
    has_last = any(placement.after[stage] is None for stage in modules)

    def step() -> None:
        losses: list[torch.Tensor] = []
        schedule.step(
            *([x] if has_first else []),
            **({"target": y, "losses": losses} if has_last else {}),
            return_outputs=False,
        )

    return step


def _gradients_apart(modules: dict[int, nn.Module], first: Any, second: Any) -> float:
    """Largest difference of any gradient between the two sides."""
    found = []
    for play in (second, first):
        for module in modules.values():
            module.zero_grad(set_to_none=True)
        dist.barrier()
        play()
        found.append([p.grad.clone() for module in modules.values() for p in module.parameters() if p.grad is not None])
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def figures(runs: int, names: list[str], sizes: list[str]) -> list[dict[str, Any]]:
    """A row for each schedule and size."""
    rows = []
    for size in sizes:
        for name in names:
            ranks = launch(compare, Job(name, size, runs), RANKS)
            pairs = [a / b for a, b in zip(ranks[0]["ours"], ranks[0]["torch"], strict=True)]
            quarter = statistics.quantiles(pairs, n=4)
            rows.append(
                {
                    "schedule": name,
                    "size": size,
                    "op_ms": 1e3 * statistics.median([rank["op_s"] for rank in ranks]),
                    "ours_ms": 1e3 * statistics.median(ranks[0]["ours"]),
                    "torch_ms": 1e3 * statistics.median(ranks[0]["torch"]),
                    "ratio": statistics.median(pairs),
                    "ratio_quartiles": [quarter[0], quarter[2]],
                    "gradients_apart": max(rank["apart"] for rank in ranks),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="alternated runs of each side")
    parser.add_argument("--schedules", nargs="*", default=list(SCHEDULES), choices=list(SCHEDULES))
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--json", type=Path, help="where to write the figures; - for standard output")
    options = parser.parse_args()
    rows = figures(options.runs, options.schedules, options.sizes)
    if options.json is not None:
        text = json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n"
        if str(options.json) == "-":
            sys.stdout.write(text)
        else:
            options.json.write_text(text)
        return
    for row in rows:
        low, high = row["ratio_quartiles"]
        times = f"op {row['op_ms']:6.2f} ms  ours {row['ours_ms']:8.2f} ms  torch {row['torch_ms']:8.2f} ms"
        print(f"{row['schedule']:12s} {times}  ratio {row['ratio']:.3f} (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
