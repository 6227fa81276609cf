"""`parsim list`: what parsim knows by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from parsim.cli.output import Outputs, json_text
from parsim.errors import SpecError
from parsim.units import format_bytes

__all__ = ["list_command"]

Row = dict[str, Any]


def list_command(what: str, **paths: Path | None) -> None:
    """Print a table of one kind of thing, or its JSON."""
    outputs = Outputs(**paths)
    if what not in _ROWS:
        raise SpecError(f"list {what}: one of {', '.join(_ROWS)}")
    rows = _ROWS[what]()
    if outputs.wants("json"):
        outputs.put("json", json_text({"schema_version": "1.0", what: rows}))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_rows

        print_rows(what, rows)


def _schedules() -> list[Row]:
    from parsim.schedules import get, names

    found = []
    for name in names():
        schedule = get(name)
        stages = schedule.legal_stages
        found.append(
            {
                "name": name,
                "stages_per_rank": str(stages[0]) if len(stages) == 1 else f"{stages[0]}+ ({schedule.default_stages})",
                "backward": schedule.backward,
                "paper": schedule.paper,
            }
        )
    return found


def _gpus() -> list[Row]:
    from parsim.spec import catalogue, load_gpu

    return [
        {
            "name": name,
            "memory": format_bytes(gpu.memory_bytes),
            "bf16_tflops": round(gpu.peak_flops_per_s("bf16") / 1e12, 1),
            "hbm_tb_per_s": round(gpu.hbm_bytes_per_s / 1e12, 3),
            "nvlink_gb_per_s": round(gpu.nvlink_bytes_per_s / 1e9, 1),
        }
        for name in catalogue.names("gpus")
        for gpu in (load_gpu(name),)
    ]


def _clusters() -> list[Row]:
    from parsim.spec import catalogue, load_cluster

    return [
        {
            "name": name,
            "gpu": cluster.node.gpu.name,
            "gpus_per_node": cluster.node.gpus,
            "nodes": "any" if cluster.nodes is None else cluster.nodes,
            "nvlink_domain": cluster.node.nvlink_domain,
            "nic_gb_per_s_per_gpu": round(cluster.node.nic_bytes_per_s_per_gpu / 1e9, 1),
            "fabric": f"{cluster.fabric.kind}, {cluster.fabric.topology}".replace("_", " "),
        }
        for name in catalogue.names("clusters")
        for cluster in (load_cluster(name),)
    ]


def _models() -> list[Row]:
    from parsim.model.weights import active_parameters, parameters
    from parsim.spec import catalogue, load_model

    return [
        {
            "name": name,
            "parameters": f"{parameters(model):,}",
            "active": f"{active_parameters(model):,}",
            "layers": model.layers,
            "hidden": model.hidden,
            "kind": "mixture of experts" if model.moe else "dense",
        }
        for name in catalogue.names("models")
        for model in (load_model(name),)
    ]


def _runs() -> list[Row]:
    from parsim.spec import catalogue, load_run

    return [
        {
            "name": name,
            "model": run.model.name,
            "gpus": f"{run.ranks:,} × {run.cluster.node.gpu.name}",
            "mesh": " ".join(f"{axis} {degree}" for axis, degree in run.layout.mesh if degree > 1),
            "schedule": run.layout.schedule,
        }
        for name in catalogue.names("runs")
        for run in (load_run(name),)
    ]


_ROWS: dict[str, Callable[[], list[Row]]] = {
    "schedules": _schedules,
    "gpus": _gpus,
    "clusters": _clusters,
    "models": _models,
    "runs": _runs,
}
