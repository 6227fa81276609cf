"""Runs to price: one maker, with a small dense model on a cluster of 8-GPU nodes unless a test says otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

from parsim.spec import Batch, ClusterSpec, FabricSpec, Layout, Mesh, ModelSpec, NodeSpec, Run, Software, load_gpu

MakeRun = Callable[..., Run]

SMALL = ModelSpec(name="small", layers=8, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256)


def _cluster(gpu: str, ranks: int, domain: int) -> ClusterSpec:
    node = NodeSpec(
        name="node",
        gpu=load_gpu(gpu),
        gpus=8,
        nvlink_domain=domain,
        nics=8,
        nic_bytes_per_s=50e9,
        nic_latency_s=4.5e-6,
        nvlink_latency_s=5.9e-6,
    )
    fabric = FabricSpec(kind="ib", topology="rail_optimised", rails=8)
    return ClusterSpec(name="cluster", node=node, nodes=-(-ranks // 8), fabric=fabric)


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """`make_run(mesh={...}, model=..., gpu=..., software={...}, **layout)`."""

    def make(
        mesh: dict[str, int] | None = None,
        model: ModelSpec = SMALL,
        gpu: str = "h100-80g-sxm",
        software: dict[str, Any] | None = None,
        sequence: int = 2048,
        microbatches: int = 8,
        domain: int = 8,
        **layout: Any,
    ) -> Run:
        shape = Mesh(**(mesh or {}))
        cut = Layout(mesh=shape, **layout)
        batch = microbatches * cut.micro_batch_size * shape.dp
        return Run(
            model=model,
            cluster=_cluster(gpu, shape.size, domain),
            layout=cut,
            batch=Batch(sequence_length=sequence, global_batch_size=batch),
            software=Software(**(software or {})),
        )

    return make
