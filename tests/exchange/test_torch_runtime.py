"""PyTorch's own pipeline runtime loads the CSV of every plan with one chain; its gradients are right: 4 processes."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from parsim.exchange import export
from parsim.plan import parse_csv
from parsim.schedules import build, get, names
from parsim.spec import load_run

RANKS, MICROBATCHES, ROWS, WIDTH = 4, 8, 3, 8


class Job(NamedTuple):
    """Files of schedules by name."""

    files: dict[str, str]


def csv_of(name: str) -> str:
    """What `parsim export --to torch-csv` writes of a run with this schedule."""
    schedule = get(name)
    overrides = [
        f"layout.mesh.pp={RANKS}",
        "layout.mesh.dp=1",
        f"layout.schedule={name}",
        f"layout.stages_per_rank={schedule.default_stages}",
        "layout.split=balanced",
        "layout.micro_batch_size=1",
        f"batch.global_batch_size={MICROBATCHES}",
    ]
    return str(export(load_run("tiny-local", overrides), "torch-csv").main)


SINGLE_CHAIN = [name for name in names() if len(build(name, RANKS, MICROBATCHES).placement.chains) == 1]


@pytest.mark.parametrize("name", names())
def test_the_csv_is_the_plan(name: str) -> None:
    plan = parse_csv(csv_of(name))
    assert (plan.placement.ranks, plan.microbatches) == (RANKS, MICROBATCHES)
    if not get(name).timed:
        assert plan.orders == build(name, RANKS, MICROBATCHES).orders


def play(context: Any, job: Job) -> dict[str, float]:
    """On each rank: the largest difference of a gradient from the single process's, by schedule."""
    import torch
    from torch import nn
    from torch.distributed.pipelining import PipelineStage, schedules

    torch.set_num_threads(1)
    found = {}
    for name, path in job.files.items():
        plan = parse_csv(Path(path).read_text())
        stages = plan.placement.stages

        def block(stage: int) -> nn.Module:
            torch.manual_seed(stage)
            return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)).double()

        torch.manual_seed(1000)
        x, y = torch.randn(2, ROWS * MICROBATCHES, WIDTH, dtype=torch.float64)
        alone = [block(stage) for stage in range(stages)]
        for inputs, targets in zip(x.tensor_split(MICROBATCHES), y.tensor_split(MICROBATCHES), strict=True):
            nn.functional.mse_loss(nn.Sequential(*alone)(inputs), targets).backward()

        modules = {stage: block(stage) for stage in plan.placement.stages_of(context.rank)}
        cpu = torch.device("cpu")
        mine = [PipelineStage(module, stage, stages, cpu) for stage, module in modules.items()]
        runtime = schedules._PipelineScheduleRuntime(
            mine, MICROBATCHES, loss_fn=nn.functional.mse_loss, scale_grads=False
        )
        runtime._load_csv(path, format="compute_only")
        ends = {"target": y, "losses": []} if stages - 1 in modules else {}
        runtime.step(*([x] if 0 in modules else []), **ends, return_outputs=False)
        found[name] = max(
            float((ours.grad - expected.grad).abs().max())
            for stage, module in modules.items()
            for ours, expected in zip(module.parameters(), alone[stage].parameters(), strict=True)
        )
    return found


@pytest.mark.timeout(280)
def test_pytorchs_runtime_plays_every_single_chain_plan_with_the_right_gradients(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install parsim-train[run]")
    from executor.launch import launch

    assert len(SINGLE_CHAIN) >= 10
    files = {}
    for name in SINGLE_CHAIN:
        path = tmp_path / f"{name}.csv"
        path.write_text(csv_of(name))
        files[name] = str(path)
    for rank, apart in enumerate(launch(play, Job(files), RANKS, hang_after_s=120.0)):
        assert set(apart) == set(SINGLE_CHAIN)
        assert all(difference < 1e-12 for difference in apart.values()), (rank, apart)
