"""`parsim list`: what parsim knows by name, as numbers in JSON and as a table for people."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from parsim.cli.output import Outputs, json_text
from parsim.errors import SpecError
from parsim.units import format_bytes

__all__ = ["list_command"]

Row = dict[str, Any]


class _Kind(NamedTuple):
    """How to find the rows of a kind, and for each field of them that is shown its heading and how it is written."""

    rows: Callable[[], list[Row]]
    shown: Mapping[str, tuple[str, Callable[[Any], str]]]


def list_command(what: str, **paths: Path | None) -> None:
    """Print a table of one kind of thing, or its JSON."""
    outputs = Outputs(**paths)
    if what not in _KINDS:
        raise SpecError(f"list {what}: one of {', '.join(_KINDS)}")
    kind = _KINDS[what]
    rows = kind.rows()
    if outputs.wants("json"):
        outputs.put("json", json_text({"schema_version": "1.0", what: rows}))
    outputs.write()
    if not outputs.quiet:
        from parsim.report import print_rows

        print_rows(what, [{head: write(row[field]) for field, (head, write) in kind.shown.items()} for row in rows])


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
            "memory_bytes": gpu.memory_bytes,
            "bf16_tflops": gpu.peak_flops_per_s("bf16") / 1e12,
            "hbm_tb_per_s": gpu.hbm_bytes_per_s / 1e12,
            "nvlink_gb_per_s": gpu.nvlink_bytes_per_s / 1e9,
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
            "nodes": cluster.nodes,
            "nvlink_domain": cluster.node.nvlink_domain,
            "nic_gb_per_s_per_gpu": cluster.node.nic_bytes_per_s_per_gpu / 1e9,
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
            "parameters": parameters(model),
            "active_parameters": active_parameters(model),
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
            "gpus": run.ranks,
            "gpu": run.cluster.node.gpu.name,
            "mesh": dict(run.layout.mesh),
            "schedule": run.layout.schedule,
        }
        for name in catalogue.names("runs")
        for run in (load_run(name),)
    ]


def _searches() -> list[Row]:
    from parsim.search.space import size_of
    from parsim.spec import catalogue, load_search

    return [
        {
            "name": name,
            "model": search.model.name,
            "gpus": [nodes * search.cluster.node.gpus for nodes in search.sizes],
            "gpu": search.cluster.node.gpu.name,
            "layouts": size_of(search),
            "objective": list(search.objective),
        }
        for name in catalogue.names("searches")
        for search in (load_search(name),)
    ]


def _number(value: float) -> str:
    return f"{value:.5g}"


def _count(value: int | None) -> str:
    return "any" if value is None else f"{value:,}"


def _billions(value: int) -> str:
    return f"{value / 1e9:.4g} B"


def _mesh(degrees: Mapping[str, int]) -> str:
    return " ".join(f"{axis} {degree}" for axis, degree in degrees.items() if degree > 1)


_KINDS = {
    "schedules": _Kind(
        _schedules,
        {
            "name": ("name", str),
            "stages_per_rank": ("stages/rank", str),
            "backward": ("backward", str),
            "paper": ("paper", str),
        },
    ),
    "gpus": _Kind(
        _gpus,
        {
            "name": ("name", str),
            "memory_bytes": ("memory", format_bytes),
            "bf16_tflops": ("bf16 TFLOP/s", _number),
            "hbm_tb_per_s": ("HBM TB/s", _number),
            "nvlink_gb_per_s": ("NVLink GB/s", _number),
        },
    ),
    "clusters": _Kind(
        _clusters,
        {
            "name": ("name", str),
            "gpu": ("GPU", str),
            "gpus_per_node": ("GPUs/node", _count),
            "nodes": ("nodes", _count),
            "nvlink_domain": ("NVLink domain", _count),
            "nic_gb_per_s_per_gpu": ("NIC GB/s per GPU", _number),
            "fabric": ("fabric", str),
        },
    ),
    "models": _Kind(
        _models,
        {
            "name": ("name", str),
            "parameters": ("parameters", _billions),
            "active_parameters": ("active", _billions),
            "layers": ("layers", str),
            "hidden": ("hidden", str),
            "kind": ("kind", str),
        },
    ),
    "searches": _Kind(
        _searches,
        {
            "name": ("name", str),
            "model": ("model", str),
            "gpus": ("GPUs", lambda counts: ", ".join(f"{count:,}" for count in counts)),
            "gpu": ("GPU", str),
            "layouts": ("layouts", _count),
            "objective": ("objective", ", ".join),
        },
    ),
    "runs": _Kind(
        _runs,
        {
            "name": ("name", str),
            "model": ("model", str),
            "gpus": ("GPUs", _count),
            "gpu": ("GPU", str),
            "mesh": ("mesh", _mesh),
            "schedule": ("schedule", str),
        },
    ),
}
