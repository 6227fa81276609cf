"""Overrides: `layout.mesh.tp=4`, a dotted path into a run's document and a YAML value put there."""

from collections.abc import Iterable, Mapping
from typing import Any

from parsim.errors import SpecError
from parsim.spec.yaml_reader import parse_yaml

__all__ = ["merged", "overridden"]

_NAMED = ("model", "cluster", "cluster.node", "cluster.node.gpu")  # a bare name here is the base of what follows
_STATED = {"grade": "assumed", "source": "stated by the run"}


def overridden(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The document with every override put in, in order. SpecError for one that is not PATH=VALUE, or that enters a
    plain value. Whether the path means anything is found when the document is validated.
    """
    result = dict(document)
    for text in overrides:
        path, equals, value = text.partition("=")
        steps = path.strip().split(".")
        if not equals or not all(step and step == step.strip() for step in steps):
            raise SpecError(f"--set {text[:80]!r}: write a dotted path and a value, for example layout.mesh.tp=4")
        _put(result, steps, parse_yaml(value, f"--set {path.strip()}"), text)
    return result


def _put(document: dict[str, Any], steps: list[str], value: object, text: str) -> None:
    current = document
    for depth, step in enumerate(steps[:-1], start=1):
        inner = current.get(step)
        if isinstance(inner, str) and ".".join(steps[:depth]) in _NAMED:
            inner = {"name": inner}
        elif isinstance(inner, str) and ".".join(steps[:depth]) == "layout.recompute":
            inner = {"mode": inner}
        elif inner is None:
            inner = {}
        elif isinstance(inner, Mapping):
            inner = dict(inner)
        else:
            raise SpecError(f"--set {text[:80]!r}: {'.'.join(steps[:depth])} is a plain value and has no fields")
        current[step] = inner
        current = inner
    current[steps[-1]] = value


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put in, mapping by mapping. What a change replaces loses its evidence: the run says so."""
    result = dict(base)
    changed: dict[str, Any] = {}
    for key, value in changes.items():
        old = result.get(key)
        if key in ("node", "gpu") and isinstance(old, str) and isinstance(value, Mapping) and "name" not in value:
            result[key] = {"name": old, **value}  # changes to the named one
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merged(old, value)
            if "evidence" not in old:  # a mapping inside this document, not a document of its own
                changed |= {f"{key}.{inner}": _STATED for inner in value}
        else:
            result[key] = value
            changed[key] = _STATED
    if "evidence" in base and isinstance(result["evidence"], Mapping):
        changed = {path: stated for path, stated in changed.items() if path not in ("evidence", "name")}
        changed = {path: stated for path, stated in changed.items() if not path.startswith("evidence.")}
        result["evidence"] = {**result["evidence"], **changed}
    return result
