"""A trace that PyTorch itself writes: its shapes are those that the cost model asks for."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from parsim.cost import RooflineCost
from parsim.cost.profiler_trace import layer_table_from_trace
from parsim.exchange.kineto.events import TraceEvents
from parsim.plan import straight
from parsim.spec import load_run


@pytest.mark.filterwarnings("ignore")  # the profiler's own
def test_a_recorded_linear_and_core_are_kernels_of_the_run(tmp_path: Path) -> None:
    run = load_run("tiny-local")
    model, tokens = run.model, run.batch.sequence_length * run.layout.micro_batch_size
    state = torch.randn(tokens, model.hidden, requires_grad=True)
    packed = torch.nn.Linear(model.hidden, 3 * model.hidden, bias=False)
    heads = [torch.randn(1, model.heads, tokens, model.head_dim, requires_grad=True) for _ in ("query", "key", "value")]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        for _ in range(3):
            packed(state).square().sum().backward()
            scaled_dot_product_attention(*heads, is_causal=True).square().sum().backward()
    path = tmp_path / "trace.json"
    recorded.export_chrome_trace(str(path))
    table = layer_table_from_trace(TraceEvents(path))
    table.check_run(run)
    wanted = set(RooflineCost(run, straight(run.layout.mesh.pp)).kernel_shapes)
    found = wanted & table.seconds.keys()
    assert sorted((shape.name, shape.which) for shape in found) == [
        ("attention", "B"), ("attention", "F"), *[("matmul", "")] * 3
    ]  # fmt: skip
