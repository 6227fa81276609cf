"""What of a run can matter, as flat values: two runs with the same are the same run, however they are written."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from parsim.errors import ParsimError
from parsim.schedules import get
from parsim.spec import Offload, Run
from parsim.spec.run import ONLY_WITH_EXPERTS

__all__ = ["comparable", "nested", "stages_per_rank"]


def comparable(run: Run) -> dict[str, Any]:
    """Values by dotted name: defaults that depend on other fields filled in, and what cannot matter left out.

    Left out are names, evidence, and switches of what the run does not have. A split is the layers of each part.
    """
    found = dict(_leaves(run.document()))
    layout, mesh = run.layout, run.layout.mesh
    stages = stages_per_rank(run)
    found["layout.stages_per_rank"] = stages
    with suppress(ParsimError):  # a split that does not fit is compared as it is written
        found["layout.split"] = run.layers_of_parts(mesh.pp * stages if layout.schedule != "dualpipe" else mesh.pp)
    if layout.recompute.mode == "full" and layout.recompute.group_layers == 1 and layout.recompute.method == "uniform":
        found |= {"layout.recompute.method": None, "layout.recompute.layers": None}  # which is what it does anyway
    offload = layout.offload or Offload()
    found |= {f"layout.offload.{name}": value for name, value in offload.model_dump(mode="json").items()}
    found["layout.offload.modules"] = offload.modules
    found.pop("layout.offload", None)
    if layout.schedule == "interleaved":
        found["layout.group_size"] = layout.group_size or mesh.pp
    found["layout.zero"] = layout.zero_stage
    if layout.zero_stage:
        found["layout.zero_group"] = layout.zero_group or mesh.dp * mesh.cp
    else:
        found.pop("layout.zero_group")
    if not layout.fsdp:
        found.pop("layout.reshard_after_forward")
        found.pop("software.fsdp_unit")
        found.pop("software.fsdp_root")
    if mesh.cp == 1:
        found.pop("layout.cp_comm")
    if run.model.moe is None:
        for name in ONLY_WITH_EXPERTS:
            found.pop(name)
    return found


def stages_per_rank(run: Run) -> int:
    layout = run.layout
    if layout.stages_per_rank is not None:
        return layout.stages_per_rank
    try:
        return get(layout.schedule).default_stages
    except ParsimError:
        return 1


def _leaves(document: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in ("evidence", "name"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", tuple(value) if isinstance(value, list) else value


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The document of dotted fields: {"layout.mesh.tp": 4} is {"layout": {"mesh": {"tp": 4}}}."""
    document: dict[str, Any] = {}
    for field, value in fields.items():
        *path, last = field.split(".")
        inner = document
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return document
