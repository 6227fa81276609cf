"""The catalogue: GPUs, nodes, clusters, models and runs that ship with parsim, one YAML file each."""

import re
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import parsim
from parsim.errors import SpecError
from parsim.spec.problem import choose
from parsim.spec.yaml_reader import read_document

__all__ = ["KINDS", "document", "names", "noun", "path_of", "root", "unknown"]

KINDS = ("gpus", "nodes", "clusters", "models", "runs", "searches", "nccl", "fabrics")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@cache
def root() -> Path:
    """The folder of the catalogue: inside the installed package, else beside it in a checkout."""
    package = Path(parsim.__file__).parent
    inside = package / "topologies"
    return inside if inside.is_dir() else package.parent / "topologies"


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of one kind (of `KINDS`), in alphabetical order."""
    if kind not in KINDS:
        raise SpecError(f"the catalogue has no {kind!r}; {choose(kind, KINDS)}")
    return tuple(sorted(path.stem for path in (root() / kind).glob("*.yaml")))


def noun(kind: str) -> str:
    """What one of a kind is called."""
    return "search" if kind == "searches" else kind.removesuffix("s")


def path_of(kind: str, name: str) -> Path:
    """The file of a name. SpecError with the nearest name if there is none."""
    if not _NAME.match(name) or name not in names(kind):
        raise SpecError(f"no bundled {noun(kind)} {name[:60]!r}; {unknown(kind, name)}")
    return root() / kind / f"{name}.yaml"


def unknown(kind: str, name: str) -> str:
    """Where to look instead of an unknown name."""
    hint = choose(name, names(kind))
    listed = f"`parsim list {kind}` shows all" if kind != "nodes" else "a cluster's file names its node"
    return f"{hint} ({listed})" if hint.startswith("did") else listed


@cache
def document(kind: str, name: str) -> MappingProxyType[str, Any]:
    """The plain values of a catalogue file; not to be changed. SpecError as in `path_of`."""
    return MappingProxyType(read_document(path_of(kind, name), noun(kind)))
