"""Loading: from a file or the name of a bundled one to a specification, every reference in it resolved."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from parsim.errors import SpecError
from parsim.spec import catalogue
from parsim.spec.cluster import ClusterSpec
from parsim.spec.gpu import GpuSpec
from parsim.spec.hf import model_document
from parsim.spec.model import ModelSpec
from parsim.spec.node import NodeSpec
from parsim.spec.overrides import merged, overridden
from parsim.spec.problem import shown, validated
from parsim.spec.run import Run
from parsim.spec.search import Search
from parsim.spec.yaml_reader import read_document

__all__ = [
    "cluster_from_document",
    "found_anywhere",
    "load_cluster",
    "load_gpu",
    "load_model",
    "load_node",
    "load_run",
    "load_search",
    "run_document",
    "run_from_document",
    "search_from_document",
]

Document = dict[str, Any]
_SUFFIXES = (".yaml", ".yml", ".json")


def load_run(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Run:
    """The run in a file, or a bundled one, with overrides such as "layout.mesh.tp=4" put in first.

    Raises SpecError (LayoutError where the parts do not fit together) of one line.
    """
    document, path = _found(path_or_name, "runs")
    return run_from_document(document, path.parent, overrides, where=str(path_or_name), name=path.stem)


def run_document(path_or_name: str | Path) -> Document:
    """What the file of a sound run says, defaults not filled in; its paths are found from anywhere. Raises as
    `load_run`.
    """
    document, path = _found(path_or_name, "runs")
    run_from_document(document, path.parent, where=str(path_or_name), name=path.stem)
    references = {part: found_anywhere(document[part], path.parent) for part in ("model", "cluster")}
    return {**document, **references}


def run_from_document(
    document: Mapping[str, Any],
    folder: Path = Path(),
    overrides: Sequence[str] = (),
    where: str = "",
    name: str = "run",
) -> Run:
    """The run that plain values spell; paths in it are relative to `folder`. Raises as `load_run`."""
    return validated(Run, _values(document, folder, overrides, where, name), where)


def load_search(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Search:
    """The search in a file, or a bundled one, with overrides such as "space.tp=4" put in first. Raises SpecError."""
    document, path = _found(path_or_name, "searches")
    return search_from_document(document, path.parent, overrides, where=str(path_or_name), name=path.stem)


def search_from_document(
    document: Mapping[str, Any],
    folder: Path = Path(),
    overrides: Sequence[str] = (),
    where: str = "",
    name: str = "search",
) -> Search:
    """The search that plain values spell; paths in it are relative to `folder`. Raises SpecError."""
    return validated(Search, _values(document, folder, overrides, where, name), where)


def _found(path_or_name: str | Path, kind: str) -> tuple[Document, Path]:
    """What a file says, and the file: the one that is named by its path, or a bundled one of a kind."""
    path = _path(path_or_name)
    if path is None:
        path = catalogue.path_of(kind, str(path_or_name))
    return read_document(path, catalogue.noun(kind)), path


def _values(
    document: Mapping[str, Any], folder: Path, overrides: Sequence[str], where: str, name: str
) -> dict[str, Any]:
    """A document with its overrides, and with the model and the cluster that it names."""
    values = {"name": name, **overridden(document, overrides)}
    try:
        if values.get("model") is not None:
            values["model"] = _model(values["model"], folder)
        if values.get("cluster") is not None:
            values["cluster"] = _cluster(values["cluster"], folder)
    except SpecError as error:
        raise SpecError(f"{where}: {error}" if where else str(error)) from None
    return values


def load_model(path_or_name: str | Path) -> ModelSpec:
    """A bundled model, one in a YAML file, or one in a Hugging Face config.json. Raises SpecError."""
    return validated(ModelSpec, _model(str(path_or_name), Path()), _where(path_or_name))


def load_cluster(path_or_name: str | Path) -> ClusterSpec:
    """A bundled cluster, or one in a YAML file. Raises SpecError."""
    return validated(ClusterSpec, _cluster(str(path_or_name), Path()), _where(path_or_name))


def cluster_from_document(value: object, folder: Path = Path()) -> ClusterSpec:
    """The cluster that a run's `cluster:` spells: a name, a path relative to `folder`, or fields. Raises SpecError."""
    return validated(ClusterSpec, _cluster(value, folder), "")


def load_node(name: str) -> NodeSpec:
    """A bundled node. Raises SpecError."""
    return validated(NodeSpec, _node(name, Path()), name)


def load_gpu(name: str) -> GpuSpec:
    """A bundled GPU. Raises SpecError."""
    return validated(GpuSpec, _gpu(name, Path()), name)


def _where(path_or_name: str | Path) -> str:
    return str(path_or_name)


def _path(value: str | Path, folder: Path = Path()) -> Path | None:
    """The file that `value` means, or None if it is a name: a path has a folder or a suffix, or is there."""
    text = str(value)
    if "\0" in text or len(text) > 4096:
        raise SpecError(f"{shown(text)} is neither a name nor a path")
    looks_like_one = isinstance(value, Path) or "/" in text or text.endswith(_SUFFIXES)
    if not looks_like_one:
        return None
    relative = folder / text
    # os.path.exists, unlike Path.exists, takes any text
    return relative if os.path.exists(relative) or not os.path.exists(text) else Path(text)


def found_anywhere(value: object, folder: Path = Path()) -> object:
    """What a run's `model:` or `cluster:` says, with the paths in it that are relative to `folder` made absolute."""
    if isinstance(value, Mapping):
        return {name: found_anywhere(v, folder) if name in ("name", "node", "gpu") else v for name, v in value.items()}
    path = _path(value, folder) if isinstance(value, str) else None
    return value if path is None or not os.path.exists(path) else str(path.absolute())


def _resolved(
    value: object, folder: Path, at: str, kind: str, required: Sequence[str], read: Callable[[Path], Document]
) -> Document:
    """The document behind a name, a path, `{name: a bundled one or a path, changes}`, or the fields themselves."""
    if isinstance(value, str):
        return _named(value, folder, at, kind, read)
    if not isinstance(value, Mapping):
        raise SpecError(f"{at} {shown(value)}: write a bundled name, a path, or a mapping of fields")
    name = value.get("name")
    missing = [field for field in required if field not in value]
    if isinstance(name, str) and (name in catalogue.names(kind) or (missing and _path(name, folder) is not None)):
        return merged(_named(name, folder, at, kind, read), {k: v for k, v in value.items() if k != "name"})
    if isinstance(name, str) and missing:
        raise SpecError(
            f"{at}.name: no bundled {catalogue.noun(kind)} {shown(name)}; {catalogue.unknown(kind, name)}; "
            f"one of your own would also need {', '.join(missing)}"
        )
    return dict(value)


def _named(value: str, folder: Path, at: str, kind: str, read: Callable[[Path], Document]) -> Document:
    path = _path(value, folder)
    if path is not None:
        return read(path)
    try:
        return dict(catalogue.document(kind, value))
    except SpecError as error:
        raise SpecError(f"{at}: {error}") from None


def _model(value: object, folder: Path) -> Document:
    return _resolved(value, folder, "model", "models", _required(ModelSpec), _read_model)


def _read_model(path: Path) -> Document:
    if path.is_dir():
        path = path / "config.json"
    document = read_document(path, "model")
    return model_document(document, str(path), _name_of(path)) if "model_type" in document else document


def _name_of(config: Path) -> str:
    """A Hugging Face config is known by its folder."""
    return (config.absolute().parent.name if config.stem == "config" else config.stem) or "model"


def _cluster(value: object, folder: Path) -> Document | ClusterSpec:
    if isinstance(value, str) and _path(value, folder) is None:
        return _bundled_cluster(value)
    return _cluster_document(value, folder)


@lru_cache(maxsize=64)
def _bundled_cluster(name: str) -> ClusterSpec:
    """A bundled cluster: all runs that name it have the very same parts, so what is found of them is found once."""
    return validated(ClusterSpec, _cluster_document(name, Path()), name)


def _cluster_document(value: object, folder: Path) -> Document:
    cluster = _resolved(value, folder, "cluster", "clusters", _required(ClusterSpec), _reader("cluster"))
    if cluster.get("node") is not None:
        cluster["node"] = _node(cluster["node"], folder)
    return cluster


def _node(value: object, folder: Path) -> Document:
    node = _resolved(value, folder, "cluster.node", "nodes", _required(NodeSpec), _reader("node"))
    if node.get("gpu") is not None:
        node["gpu"] = _gpu(node["gpu"], folder)
    return node


def _gpu(value: object, folder: Path) -> Document:
    return _resolved(value, folder, "cluster.node.gpu", "gpus", _required(GpuSpec), _reader("gpu"))


def _reader(what: str) -> Callable[[Path], Document]:
    return lambda path: read_document(path, what)


def _required(cls: type[ModelSpec] | type[ClusterSpec] | type[NodeSpec] | type[GpuSpec]) -> list[str]:
    return [name for name, field in cls.model_fields.items() if field.is_required() and name != "name"]
