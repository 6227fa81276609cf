"""A torchtitan recipe: a Python module with one function that returns a Trainer.Config, and the schedule beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

from parsim.errors import ParsimError
from parsim.exchange.schedule_csv import compute_csv
from parsim.exchange.table import Note
from parsim.exchange.torchtitan.pipeline import CSV
from parsim.run_plan import plan_of
from parsim.spec import Run

__all__ = ["torchtitan_files"]

_CLASSES = {
    "parallelism": "ParallelismConfig",
    "training": "TrainingConfig",
    "compile": "CompileConfig",
    "debug": "DebugConfig",
}
_RECOMPUTE = {"full": "FullAC", "selective": "SelectiveAC"}
_CONVERTERS = {"float8": "Float8LinearConverter", "mxfp8": "MXFP8LinearConverter", "nvfp4": "NVFP4LinearConverter"}


def torchtitan_files(
    run: Run, settings: dict[str, Any], comments: Sequence[str], stem: str, notes: list[Note]
) -> tuple[str, dict[str, str]]:
    """The recipe, and the CSV of the run's plan, which the recipe names, if the run has a pipeline."""
    beside = {}
    if run.layout.mesh.pp > 1 and run.layout.schedule != "dualpipe":
        try:
            plan = plan_of(run)
        except ParsimError as error:
            notes.append(Note(CSV, f"no plan could be made: {error}"))
        else:
            beside[f"{stem}.csv"] = compute_csv(plan)
            settings = {**settings, CSV: f"{stem}.csv"}
    return _recipe(settings, comments), beside


def _recipe(settings: Mapping[str, Any], comments: Sequence[str]) -> str:
    rooms: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        room, _, field = name.partition(".")
        rooms.setdefault(room, {})[field] = value
    model, mode = rooms.get("model", {}), settings.get("activation_checkpoint.mode", "none")
    configs = [room for room in _CLASSES if room in rooms]
    lines = [*(f"# {comment}".rstrip() for comment in comments), ""]
    lines += ["from torchtitan.components.optimizer import default_adamw"]
    converters = [_CONVERTERS[name] for name in model.get("converters", [])]
    if converters:
        lines.append(f"from torchtitan.components.quantization import {', '.join(converters)}")
    lines.append(f"from torchtitan.config import {', '.join(sorted(_CLASSES[room] for room in configs))}")
    if mode in _RECOMPUTE:
        lines.append(f"from torchtitan.distributed.activation_checkpoint import {_RECOMPUTE[mode]}")
    if "flavor" in model:
        lines.append(f"from torchtitan.models.{model['module']} import model_registry")
    lines += ["from torchtitan.trainer import Trainer", "", ""]
    lines.append(f"def parsim_run({'' if 'flavor' in model else 'model_spec'}) -> Trainer.Config:")
    lines.append("    return Trainer.Config(")
    lines += [f"        {line}" for line in _model_lines(model, converters, settings.get("compile.enable", False))]
    if "optimizer" in rooms:
        lines.append("        optimizer=default_adamw(),")
    for room in configs:
        lines.append(f"        {room}={_CLASSES[room]}(")
        lines += [f"            {field}={value!r}," for field, value in rooms[room].items()]
        lines.append("        ),")
    recompute = f"{_RECOMPUTE[mode]}.Config()" if mode in _RECOMPUTE else "None"
    lines += [f"        activation_checkpoint={recompute},", "    )", ""]
    return "\n".join(lines)


def _model_lines(model: Mapping[str, Any], converters: Sequence[str], compiles: bool) -> list[str]:
    if "flavor" not in model:
        return ["model_spec=model_spec,"]
    lines = ["model_spec=model_registry(", f"    {model['flavor']!r},"]
    if "moe_comm_backend" in model:
        lines.append(f"    moe_comm_backend={model['moe_comm_backend']!r},")
    if converters:
        made = [f"{name}.Config(model_compile_enabled={compiles!r})" for name in converters]
        lines.append(f"    converters=[{', '.join(made)}],")
    return [*lines, "),"]
