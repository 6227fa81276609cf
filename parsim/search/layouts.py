"""From a shape and a point of the grid to a run, which `simulate` plays: what the search prices, spelled as a run."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from parsim.search.shape import Mesh, Shape
from parsim.spec import Batch, ClusterSpec, Layout, Run, Search, Software
from parsim.spec import Mesh as MeshSpec
from parsim.spec.network import NetworkOverrides
from parsim.spec.offload import Offload
from parsim.spec.search import OFFLOADS

__all__ = ["cluster_of", "priced_cut", "run_of", "run_on"]


def run_of(search: Search, shape: Shape, switches: Mapping[str, Any]) -> Run:
    """The run of a layout. What no run can say (`beyond_runs`) is left out. LayoutError where it is no layout."""
    several = len(shape.layers) > shape.mesh.pp  # more stages than ranks: v is not the default of every schedule
    pipeline = {
        "schedule": shape.schedule,
        "stages_per_rank": shape.stages_per_rank if several else None,
        "split": shape.split,
    }
    return run_on(search, shape.mesh, shape.micro_batch_size, switches, **pipeline)


def run_on(search: Search, mesh: Mesh, micro_batch_size: int, switches: Mapping[str, Any], **pipeline: Any) -> Run:
    """A run on a mesh; `pipeline` are fields of the layout that say what is played."""
    fields = {name: switches[name] for name in ("recompute", "precision", "cp_comm") if name in switches}
    layout = Layout(
        mesh=MeshSpec(tp=mesh.tp, cp=mesh.cp, dp=mesh.dp, pp=mesh.pp),
        micro_batch_size=micro_batch_size,
        zero=switches.get("zero", 0),
        sequence_parallel=_cut_sequence(switches),
        ep=mesh.ep,
        expert_tp=mesh.expert_tp,
        offload=_offload(switches),
        **fields,
        **{name: value for name, value in pipeline.items() if value is not None},
    )
    batch = Batch(sequence_length=search.batch.sequence_length, global_batch_size=mesh.sequences)
    return Run.model_validate(
        {
            "name": search.name,
            "model": search.model,
            "cluster": cluster_of(search, mesh.nodes),
            "network": NetworkOverrides(),
            "layout": layout,
            "batch": batch,
            "software": _software(
                search.software,
                switches.get("tp_overlap", "none"),
                switches.get("dp_overlap", True),
                switches.get("ep_overlap", False),
            ),
            "seed": search.seed,
        }
    )


def _offload(switches: Mapping[str, Any]) -> Offload | None:
    said = {name: True for name in OFFLOADS if switches.get(f"offload_{name}")}
    return Offload(**said) if said else None


def _cut_sequence(switches: Mapping[str, Any]) -> bool:
    return str(switches.get("tp_comm", "")).startswith("sequence_parallel")


def priced_cut(search: Search, mesh: Mesh, comm: str) -> bool:
    """Whether a way of summing is priced as one that cuts the sequence: experts behind tp know no other, and what the
    layouts would take that are refused for it, nobody reads.
    """
    return comm.startswith("sequence_parallel") or (search.model.moe is not None and mesh.tp > 1)


@lru_cache(maxsize=256)
def cluster_of(search: Search, nodes: int) -> ClusterSpec:
    """The cluster with so many nodes, the search's overrides applied."""
    cluster: ClusterSpec = search.network.applied_to(search.cluster).model_copy(update={"nodes": nodes})
    return cluster


@lru_cache(maxsize=256)
def _software(software: Software, tp_overlap: str, dp_overlap: bool, ep_overlap: bool) -> Software:
    stated = software.model_fields_set
    update = {"tp_overlap": tp_overlap, "dp_overlap": dp_overlap, "ep_overlap": ep_overlap}
    copy = software.model_copy(update=update)
    copy.model_fields_set.intersection_update(stated | set(update))
    return copy
