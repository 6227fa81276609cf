"""What the ranks of the profiler's test do: training steps with collectives and messages, under torch.profiler."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

STEPS = 2


class Job(NamedTuple):
    """Where the traces go."""

    folder: str


class Profiled(NamedTuple):
    """A trace, and the profiler's own sums in microseconds: operators' self times, and gloo's annotations by name."""

    path: str
    compute_us: float
    gloo_us: dict[str, float]
    annotated_us: float


def profile_rank(context: Any, job: Job) -> Profiled:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.profiler import ProfilerActivity, profile, record_function

    torch.set_num_threads(1)
    rank, world = context.rank, dist.get_world_size()
    model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        for step in range(STEPS):
            with record_function(f"PP:{rank}F{step}"):
                loss = model(torch.randn(32, 64)).sum()
            with record_function(f"PP:{rank}B{step}"):
                loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            dist.all_reduce(gradient)
            dist.all_gather([torch.zeros(8) for _ in range(world)], torch.ones(8))
            dist.broadcast(gradient, 0)
            if rank == 0:
                dist.send(gradient, 1)
            else:
                dist.recv(gradient, 0)
            optimizer.step()
            prof.step()
    path = Path(job.folder) / f"trace{rank}.json"
    prof.export_chrome_trace(str(path))
    gloo: Counter[str] = Counter()
    annotated = 0.0
    for event in prof.profiler.kineto_results.events():
        if event.name().startswith("gloo:"):
            gloo[event.name().removeprefix("gloo:")] += event.duration_ns() / 1e3
        elif event.name().startswith("PP:"):
            annotated += event.duration_ns() / 1e3
    others = ("c10d::", "gloo:", "PP:", "ProfilerStep", "Optimizer.")
    compute = sum(e.self_cpu_time_total for e in prof.events() if not e.name.startswith(others))
    return Profiled(str(path), compute, dict(gloo), annotated)
