"""Runs as `export` and `import` take them: a run, a result that holds one, a file of another tool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsim.errors import SpecError
from parsim.exchange import SOURCES, Elsewhere, Note, import_run
from parsim.files import parse_json_text, read_text
from parsim.spec import Run, catalogue, load_run, run_from_document
from parsim.spec.problem import choose
from parsim.spec.yaml_reader import read_document

__all__ = ["read_run_argument", "run_from_file"]


def read_run_argument(text: str, overrides: tuple[str, ...]) -> Run:
    """The run that RUN or RESULT.json[#RANK] means. Raises SpecError."""
    name, mark, rank = text.rpartition("#")
    if not mark or not name.endswith(".json"):
        name, rank = text, ""
    if not name.endswith(".json"):
        return load_run(text, overrides)
    path = Path(name)
    document = parse_json_text(read_text(path, "result"))
    if not isinstance(document, Mapping):
        raise SpecError(f"{name}: neither a run nor a result: the JSON must be an object")
    run = _run_in(document, rank, name)
    return load_run(name, overrides) if run is None else run_from_document(run, path.parent, overrides, where=text)


def _run_in(document: Mapping[str, Any], rank: str, where: str) -> Mapping[str, Any] | None:
    """The document of the run that a result holds; None if the document is a run itself."""
    if rank and not (rank.isascii() and rank.isdigit() and int(rank[:9]) >= 1):
        raise SpecError(f"{where}#{rank}: the rank of a finalist is a number from 1")
    finalists = document.get("top")
    if isinstance(finalists, list) and finalists:
        place = int(rank[:9] or 1)
        if place > len(finalists):
            raise SpecError(
                f"{where}#{place}: the search kept {len(finalists)} finalists; 1 to {len(finalists)} would do"
            )
        chosen = finalists[place - 1]
    elif rank and rank != "1":
        raise SpecError(f"{where}#{rank}: it holds one run; without #{rank} it would do")
    else:
        chosen = document.get("best", document)
    run = chosen.get("run") if isinstance(chosen, Mapping) else None
    if isinstance(run, Mapping):
        return run
    if chosen is not document or rank:
        raise SpecError(f"{where}: its finalist holds no `run`; a result of this parsim's `search --json` would do")
    return None


def run_from_file(
    source: str, path: Path, like: str | None, model: str | None, cluster: str | None, gpus: int | None
) -> tuple[str, tuple[Note, ...]]:
    """The run file (YAML) of another tool's file, and what a reader must know of it. Raises SpecError."""
    if source not in SOURCES:
        raise SpecError(f"--from {source}: {choose(source, [*SOURCES, 'kineto'])}")
    if gpus is not None and gpus < 1:
        raise SpecError(f"--gpus {gpus}: at least 1")
    elsewhere = Elsewhere(_base(like), model and _absolute(model, Path()), cluster and _absolute(cluster, Path()), gpus)
    imported = import_run(source, read_text(path), path, elsewhere)
    return imported.yaml(), imported.notes


def _base(like: str | None) -> Mapping[str, Any] | None:
    """The document of the run that fills in what a file leaves open, as it is written."""
    if like is None:
        return None
    load_run(like)  # says what is wrong with it
    path = Path(like) if Path(like).exists() else catalogue.path_of("runs", like)
    document = {name: value for name, value in read_document(path, "run").items() if name not in ("evidence", "name")}
    return {name: _absolute(value, path.parent) for name, value in document.items()}


def _absolute(value: Any, folder: Path) -> Any:
    """A path relative to `folder`, as it is found from anywhere; any other value as it is."""
    if isinstance(value, str) and "/" in value and (folder / value).exists():
        return str((folder / value).absolute())
    return value
