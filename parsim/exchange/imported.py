"""A run from the files of another tool: what they say, what is taken from elsewhere, what was not read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml

from parsim.errors import SpecError
from parsim.exchange.accelerate import ACCELERATE, read_accelerate
from parsim.exchange.comparable import nested
from parsim.exchange.deepspeed import DEEPSPEED, read_deepspeed
from parsim.exchange.megatron import MEGATRON, read_megatron
from parsim.exchange.shapes import bundled_model
from parsim.exchange.table import Note, Tool
from parsim.exchange.torchtitan import TORCHTITAN, read_torchtitan
from parsim.spec import Run, cluster_from_document, load_model, run_from_document

__all__ = ["SOURCES", "Elsewhere", "Imported", "import_run"]

_ASSUMED_MODEL, _ASSUMED_CLUSTER = "llama3-8b", "dgx-h100"
_ORDER = ("name", "model", "cluster", "layout", "batch", "software", "network", "seed")


@dataclass(frozen=True)
class Elsewhere:
    """What the user says beside the file: a run document that fills in what the file leaves open, the name of a model,
    of a cluster, how many GPUs there are, and which recipe of the file is meant (torchtitan's files have several).
    """

    like: Mapping[str, Any] | None = None
    model: str | None = None
    cluster: str | None = None
    gpus: int | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class Imported:
    """A run, the document that spells it (what was stated, nothing more), and what a reader must know of it."""

    run: Run
    document: Mapping[str, Any]
    notes: tuple[Note, ...]

    def yaml(self) -> str:
        """The run file: notes as comments, then the document."""
        comments = "".join(f"# {note}\n" for note in self.notes)
        return comments + yaml.safe_dump(dict(self.document), sort_keys=False, default_flow_style=None, width=110)


@dataclass(frozen=True)
class _Source:
    tool: Tool
    read: Callable[[str, Path, str | None], tuple[dict[str, Any], list[Note]]]


SOURCES: Mapping[str, _Source] = {
    "megatron": _Source(MEGATRON, lambda text, path, recipe: read_megatron(text)),
    "torchtitan": _Source(TORCHTITAN, read_torchtitan),
    "deepspeed": _Source(DEEPSPEED, lambda text, path, recipe: read_deepspeed(text)),
    "accelerate": _Source(ACCELERATE, lambda text, path, recipe: read_accelerate(text)),
}


def import_run(source: str, text: str, path: Path, elsewhere: Elsewhere | None = None) -> Imported:
    """The run that a file of `source` (of SOURCES) describes. `path` names it, and is where files beside it are looked
    for. Raises SpecError of one line: what is wrong in the file, or what it leaves open and nobody says.
    """
    kind, beside = SOURCES[source], elsewhere or Elsewhere()
    if beside.recipe is not None and source != "torchtitan":
        raise SpecError(f"recipe {beside.recipe}: files of {kind.tool.name} have none")
    settings, notes = kind.read(text, path, beside.recipe)
    if beside.gpus is not None:
        stated = settings.setdefault("WORLD_SIZE", beside.gpus)
        if stated != beside.gpus:
            raise SpecError(f"{beside.gpus} GPUs were named, the file says {stated}")
    if (layers := _layers(kind.tool, settings, beside)) is not None:
        settings["model.layers"] = layers
    fields, more = kind.tool.read(settings)
    notes += more
    document = {"name": path.stem or "imported", **_filled(_open(beside.like or {}, kind.tool), nested(fields))}
    document["cluster"] = _cluster(document, fields, beside, notes)
    document["model"] = _model(document, fields, beside, notes, kind.tool)
    _drop_unknown_kernel(document, notes)
    batch = document["batch"] = dict(document.get("batch", {}))
    if "sequence_length" not in batch:
        batch["sequence_length"] = _assumed_sequence(document, kind.tool, notes)
    if "global_batch_size" not in batch:
        layout = document["layout"]
        batch["global_batch_size"] = layout.get("micro_batch_size", 1) * layout["mesh"].get("dp", 1)
        notes.append(
            Note("batch.global_batch_size", f"{batch['global_batch_size']} is assumed: a micro-batch a replica")
        )
    document = {part: document[part] for part in _ORDER if document.get(part)}
    return Imported(run_from_document(document, where=str(path)), document, tuple(notes))


def _layers(tool: Tool, settings: dict[str, Any], beside: Elsewhere) -> int | None:
    """Layers of the model that the file names, or the user, for tools whose files leave the model to its code."""
    model = tool.value(settings, "model") or beside.model or (beside.like or {}).get("model")
    if isinstance(model, Mapping):
        return model.get("layers") or (load_model(model["name"]).layers if "name" in model else None)
    return None if model is None else load_model(model).layers


def _open(like: Mapping[str, Any], tool: Tool) -> dict[str, Any]:
    """Of a run that fills in what the file leaves open: its layout without what the tool's files decide, stated or by
    the tool's own defaults.
    """
    decided = {field.split(".")[1] for field in tool.fields if field.startswith("layout.")}
    layout = {name: value for name, value in (like.get("layout") or {}).items() if name not in decided}
    return {**like, "layout": layout}


def _filled(base: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what is stated put in, mapping by mapping."""
    result = dict(base)
    for name, value in stated.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = _filled(old, value) if both else value  # type: ignore[arg-type]
    return result


def _cluster(
    document: dict[str, Any], fields: Mapping[str, Any], beside: Elsewhere, notes: list[Note]
) -> dict[str, Any]:
    """The cluster that the user names, with as many nodes as the mesh fills."""
    named = beside.cluster or document.get("cluster")
    if named is None:
        notes.append(Note("cluster", f"{_ASSUMED_CLUSTER} is assumed: the file does not say on which GPUs it runs"))
        named = _ASSUMED_CLUSTER
    cluster = dict(named) if isinstance(named, Mapping) else {"name": named}
    cluster.pop("nodes", None)
    node = cluster_from_document(cluster).node
    per_node = fields.get("network.gpus_per_node")
    if per_node == node.gpus:
        document["network"].pop("gpus_per_node")
    gpus = prod(document["layout"].get("mesh", {}).values())
    return {**cluster, "nodes": -(-gpus // (per_node or node.gpus))}


def _model(
    document: dict[str, Any], fields: Mapping[str, Any], beside: Elsewhere, notes: list[Note], tool: Tool
) -> str | dict[str, Any]:
    """The model by its name where its shape is a bundled one's, else its fields."""
    if isinstance(fields.get("model"), str):
        return str(fields["model"])
    stated = nested({name: value for name, value in fields.items() if name.startswith("model.")}).get("model", {})
    named = beside.model or (beside.like or {}).get("model")
    if named is None and not stated:
        why = tool.outside.get("model", "nothing names one that is known")
        notes.append(Note("model", f"{_ASSUMED_MODEL} is assumed: {why}"))
        return _ASSUMED_MODEL
    if not stated:
        return named  # type: ignore[return-value]
    base: dict[str, Any] = {"name": named} if isinstance(named, str) else dict(named or {})
    missing = [name for name in ("layers", "hidden", "heads", "ffn") if name not in {**stated, **base}]
    if missing and "name" not in base:
        raise SpecError(f"the file does not say model.{missing[0]}; name a model whose it is")
    if "vocab" not in {**stated, **base} and "name" not in base:
        like = bundled_model(stated)
        if like is None:
            raise SpecError("the file does not say the vocabulary, which is its tokenizer's: state it, or name a model")
        notes.append(Note("model.vocab", f"{like.vocab} is assumed, that of {like.name}: the file does not say it"))
        stated = {**stated, "vocab": like.vocab}
    if "name" not in base and (like := bundled_model(stated)) is not None:
        return like.name
    return {"name": "imported", **base, **stated}


def _drop_unknown_kernel(document: dict[str, Any], notes: list[Note]) -> None:
    """An attention kernel whose speed on the cluster's GPU is not known is left to the GPU's own."""
    kernel = document.get("software", {}).get("attention")
    if kernel is None or kernel.startswith("unfused"):
        return
    known = cluster_from_document(document["cluster"]).node.gpu.efficiency.attention
    if kernel not in known:
        document["software"].pop("attention")
        notes.append(Note("software.attention", f"{kernel} on that GPU is not known: {next(iter(known))} is taken"))


def _assumed_sequence(document: Mapping[str, Any], tool: Tool, notes: list[Note]) -> int:
    model = document["model"]
    longest = load_model(model).max_positions if isinstance(model, str) else model.get("max_positions")
    length = min(longest or 4096, 4096)
    notes.append(Note("batch.sequence_length", f"{length} is assumed: the file does not say it"))
    return length
