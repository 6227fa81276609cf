"""torchtitan's configurations as settings: a Python recipe of release 0.3, or a TOML file of the releases before it.

A recipe is read, never run: functions that return a `Trainer.Config(...)`, what they assign to its fields, and recipes
that start from another one of the same file. TOML files have the fields under the same names, but for those in _OLDER.
"""

import ast
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.documents import flat
from parsim.exchange.table import Note, checked
from parsim.exchange.torchtitan.pipeline import CSV
from parsim.exchange.torchtitan.tool import TORCHTITAN
from parsim.spec.problem import choose

__all__ = ["read_torchtitan"]

_OLDER = {
    "model.name": "model.module",
    "training.data_parallel_degree": "parallelism.data_parallel_shard_degree",
    "training.data_parallel_shard_degree": "parallelism.data_parallel_shard_degree",
    "training.data_parallel_replicate_degree": "parallelism.data_parallel_replicate_degree",
    "training.tensor_parallel_degree": "parallelism.tensor_parallel_degree",
    "experimental.pipeline_parallel_degree": "parallelism.pipeline_parallel_degree",
    "experimental.pipeline_parallel_schedule": "parallelism.pipeline_parallel_schedule",
    "experimental.pipeline_parallel_schedule_csv": "parallelism.pipeline_parallel_schedule_csv",
    "experimental.context_parallel_degree": "parallelism.context_parallel_degree",
    "experimental.context_parallel_rotate_method": "parallelism.context_parallel_rotate_method",
    "experimental.enable_async_tensor_parallel": "parallelism.enable_async_tensor_parallel",
    "experimental.pipeline_parallel_split_points": "parallelism.pipeline_parallel_split_points",
    "experimental.pipeline_parallel_microbatches": "parallelism.pipeline_parallel_microbatches",
    "parallelism.expert_parallel_comm_backend": "model.moe_comm_backend",
    "float8.recipe_name": "quantize.recipe_name",
    "quantize.linear.float8.recipe_name": "quantize.recipe_name",
    "training.deterministic": "debug.deterministic",
}
_READ_ROOMS = ("parallelism", "activation_checkpoint", "compile", "quantize")
"""Rooms in which a name that nobody knows is worth a word; others hold data, learning rates, logging."""
_NO_BEARING = (
    "disable_loss_parallel",
    "early_stop",
    "enable_fsdp_symm_mem",
    "spmd_backend",
    "context_parallel_load_balancer",
    "context_parallel_ptrr_mask_key",
    "per_op_sac_force_recompute_mm_shapes_by_fqns",
    "backend",
    "preserve_rng_state",
    "determinism_check",
    "debug",
)
_MODES = {"FullAC": "full", "SelectiveAC": "selective", "MemoryBudgetAC": "memory_budget", "None": "none"}
_DEEPEST = 20


def read_torchtitan(text: str, path: Path, recipe: str | None = None) -> tuple[dict[str, Any], list[Note]]:
    """The settings that a recipe or a TOML file states, by dotted name; `recipe` is the one that is meant of a file
    with several. Raises SpecError.
    """
    notes: list[Note] = []
    toml = _is_toml(text)
    if toml and recipe is not None:
        raise SpecError(f"recipe {recipe}: a TOML file has none")
    stated = _toml(text) if toml else _Recipes(text, path).settings(notes, recipe)
    settings: dict[str, Any] = {}
    for name, value in stated.items():
        new = _OLDER.get(name, name)
        if new in settings and settings[new] != value:
            raise SpecError(f"{name} {value!r} contradicts {new} {settings[new]!r}")
        settings[new] = value
    settings.pop("quantize.linear.float8.enable_fsdp_float8_all_gather", None)
    if settings.pop("float8.enable_float8_linear", False) is True:  # before there were converters
        settings.setdefault("model.converters", ["float8"])
    _report_unknown(settings, notes)
    if settings.get(CSV):
        settings[CSV] = str(path.parent / str(settings[CSV]))
    return checked(TORCHTITAN, settings) | {n: v for n, v in settings.items() if n == "release.python"}, notes


def _is_toml(text: str) -> bool:
    return any(line.startswith("[") for line in text.splitlines()) and "def " not in text


def _toml(text: str) -> dict[str, Any]:
    try:
        return flat(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not TOML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise SpecError("not TOML that can be read: nested too deeply") from None


def _report_unknown(settings: Mapping[str, Any], notes: list[Note]) -> None:
    for name in settings:
        room, _, field = name.partition(".")
        if name in TORCHTITAN.settings or room not in _READ_ROOMS or field in _NO_BEARING:
            continue
        if near := get_close_matches(name, TORCHTITAN.settings, n=1, cutoff=0.9):
            raise SpecError(f"unknown setting {name}; did you mean {near[0]}?")
        notes.append(Note(name, "not a setting that parsim reads"))


class _Config(dict[str, Any]):
    """Keyword arguments of a configuration's call, and what is called."""

    made_by = ""


class _Recipes:
    """The recipes of a Python file; nothing of it is executed."""

    def __init__(self, text: str, path: Path) -> None:
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise SpecError(f"not Python: {error.msg} in line {error.lineno}") from None
        except (ValueError, RecursionError, MemoryError):
            raise SpecError("not Python that can be read") from None
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._module = _module_of(tree, path)

    def settings(self, notes: list[Note], wanted: str | None) -> dict[str, Any]:
        """The settings of the file's wanted recipe, or of the last one."""
        recipes = {name: config for name in self._functions if (config := self._result(name, 0)) is not None}
        if not recipes:
            raise SpecError("no function in it returns a Trainer.Config(...), and it is no TOML file")
        if wanted is not None and wanted not in recipes:
            raise SpecError(f"recipe {wanted}: {choose(wanted, list(recipes))}")
        *others, name = [wanted] if wanted is not None else recipes
        if others:
            notes.append(Note("recipe", f"the last of {len(recipes)}, {name}, is read: --recipe names another"))
        return {"release.python": True, **self._flat(recipes[name])}

    def _result(self, name: str, depth: int) -> _Config | None:
        """What a function returns, if it is a Trainer.Config."""
        if depth > _DEEPEST:
            raise SpecError(f"{name}: recipes start from each other in a circle")
        known: dict[str, Any] = {}
        for statement in self._functions[name].body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=variable)], value=value):
                    known[variable] = self._value(value, known, depth)
                case ast.Assign(targets=[ast.Attribute() as target], value=value):
                    self._assign(target, self._value(value, known, depth), known)
                case ast.Return(value=ast.expr() as value):
                    result = self._value(value, known, depth)
                    return result if isinstance(result, _Config) and result.made_by.endswith("Trainer.Config") else None
        return None

    def _assign(self, target: ast.Attribute, value: Any, known: Mapping[str, Any]) -> None:
        path = [target.attr]
        inner = target.value
        while isinstance(inner, ast.Attribute):
            path.insert(0, inner.attr)
            inner = inner.value
        config = known.get(inner.id) if isinstance(inner, ast.Name) else None
        for name in path[:-1]:
            config = config.setdefault(name, _Config()) if isinstance(config, dict) else None
        if isinstance(config, dict):
            config[path[-1]] = value

    def _value(self, node: ast.expr, known: Mapping[str, Any], depth: int) -> Any:
        """A plain value, a configuration, or None for what cannot be known without running it."""
        match node:
            case ast.Name(id=name):
                return known.get(name)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self._value(item, known, depth) for item in items]
            case ast.Call(func=ast.Name(id=name), args=[], keywords=[]) if name in self._functions:
                return self._result(name, depth + 1)
            case ast.Call(func=function, args=arguments, keywords=keywords):
                config = _Config({k.arg: self._value(k.value, known, depth) for k in keywords if k.arg is not None})
                config.made_by = ast.unparse(function)
                if arguments:
                    config["flavor"] = self._value(arguments[0], known, depth)
                return config
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None

    def _flat(self, config: _Config) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for room, value in config.items():
            if room == "model_spec" and isinstance(value, _Config):
                found |= self._model(value)
            elif room == "activation_checkpoint":
                kind = value.made_by if isinstance(value, _Config) else "None"
                found["activation_checkpoint.mode"] = _MODES.get(kind.removesuffix(".Config"), kind)
            elif room == "optimizer":
                if isinstance(value, _Config) and "adamw" in value.made_by:
                    found["optimizer.name"] = "AdamW"
            elif isinstance(value, _Config):
                known = ((name, inner) for name, inner in value.items() if inner is not None)
                found |= {f"{room}.{name}": inner for name, inner in known}
        return found

    def _model(self, spec: _Config) -> dict[str, Any]:
        found: dict[str, Any] = {"model.module": self._module} if self._module else {}
        if isinstance(spec.get("flavor"), str):
            found["model.flavor"] = spec["flavor"]
        if isinstance(spec.get("moe_comm_backend"), str):
            found["model.moe_comm_backend"] = spec["moe_comm_backend"]
        made = [each.made_by for each in spec.get("converters") or [] if isinstance(each, _Config)]
        names = {"Float8Linear": "float8", "MXFP8Linear": "mxfp8", "NVFP4Linear": "nvfp4"}
        found["model.converters"] = [word for name, word in names.items() if any(m.startswith(name) for m in made)]
        for each in spec.get("converters") or []:
            if isinstance(each, _Config) and isinstance(each.get("recipe_name"), str):
                found["quantize.recipe_name"] = each["recipe_name"]
        return found


def _module_of(tree: ast.Module, path: Path) -> str:
    """The model's module: where `model_registry` is imported from, or the folder of a file of torchtitan's own."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == "model_registry" for alias in node.names):
            if node.level:
                return path.absolute().parent.name
            return (node.module or "").rpartition(".")[2]
    return ""
