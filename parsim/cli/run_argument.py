"""Runs as `export` and `import` take them: a run, a result that holds one, a file of another tool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsim.errors import SpecError
from parsim.exchange import SOURCES, Elsewhere, Imported, Note, import_run
from parsim.files import parse_json_text, read_text
from parsim.spec import Run, found_anywhere, load_run, run_document, run_from_document
from parsim.spec.problem import choose

__all__ = ["read_run_argument", "run_from_file"]


_READ_ELSEWHERE = {
    "torch-csv": "`parsim simulate RUN --plan FILE`",
    "nccl-tests": "`parsim simulate RUN --calibration FILE`",
    "nccl-xml": "`parsim topology FILE`",
    "astra-sim": "`parsim topology FILE`",
    "chakra": "nothing of parsim yet",
}
"""Files of other tools that are no run, and what takes them."""


def read_run_argument(text: str, overrides: tuple[str, ...]) -> tuple[Run, list[Note]]:
    """The run that RUN or RESULT.json[#RANK] means, and what a reader must know of it. Raises SpecError."""
    name, mark, rank = text.rpartition("#")
    if not mark or not name.endswith(".json"):
        name, rank = text, ""
    if not name.endswith(".json"):
        return load_run(text, overrides), []
    path = Path(name)
    document = parse_json_text(read_text(path, "result"))
    if not isinstance(document, Mapping):
        raise SpecError(f"{name}: neither a run nor a result: the JSON must be an object")
    run, beyond = _run_in(document, rank, name)
    notes = [Note(field, "the search has priced it, and a run cannot say it") for field in beyond]
    if run is None:
        return load_run(name, overrides), notes
    return run_from_document(run, path.parent, overrides, where=text), notes


def _run_in(document: Mapping[str, Any], rank: str, where: str) -> tuple[Mapping[str, Any] | None, list[str]]:
    """The document of the run that a result holds, None if the document is a run itself; and what the search says of
    the layout that no run can.
    """
    if rank and not (rank.isascii() and rank.isdigit() and int(rank[:9]) >= 1):
        raise SpecError(f"{where}#{rank}: the rank of a finalist is a number from 1")
    finalists, best = document.get("top"), document.get("best")
    if "space" in document and best is None:
        raise SpecError(f"{where}: the search has found no layout")
    base = best.get("run") if isinstance(best, Mapping) else document.get("run")
    chosen: object = best if isinstance(best, Mapping) else document
    if rank:
        listed = finalists if isinstance(finalists, list) and finalists else [chosen]
        if int(rank[:9]) > len(listed):
            raise SpecError(f"{where}#{rank}: it has {len(listed)} finalists; 1 to {len(listed)} would do")
        chosen = listed[int(rank[:9]) - 1]
    if not isinstance(chosen, Mapping):
        raise SpecError(f"{where}: its finalist is no object")
    beyond = [str(name) for name in chosen.get("beyond_runs") or []]
    if isinstance(chosen.get("run"), Mapping):
        return chosen["run"], beyond
    if isinstance(base, Mapping) and isinstance(chosen.get("layout"), Mapping):
        return _finalist(base, chosen), beyond
    if chosen is not document or rank:
        raise SpecError(f"{where}: it holds no `run`; a result of `parsim search --json` would do")
    return None, beyond


def _finalist(base: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The run of a finalist: the best one's with the layout, size and overlaps of this one."""
    run = {**base, "layout": chosen["layout"]}
    switches = chosen.get("switches") or {}
    overlaps = {name: switches[name] for name in ("tp_overlap", "dp_overlap", "ep_overlap") if name in switches}
    run["software"] = {**(base.get("software") or {}), **overlaps}
    if "nodes" in chosen:
        run["cluster"] = {**base["cluster"], "nodes": chosen["nodes"]}
    if "sequences" in chosen:
        run["batch"] = {**base["batch"], "global_batch_size": chosen["sequences"]}
    return run


def run_from_file(
    source: str,
    path: Path,
    like: str | None,
    model: str | None,
    cluster: str | None,
    gpus: int | None,
    recipe: str | None,
) -> Imported:
    """The run of another tool's file. Raises SpecError."""
    if source in _READ_ELSEWHERE:
        raise SpecError(f"--from {source}: it says nothing of a run; {_READ_ELSEWHERE[source]} reads it")
    if source not in SOURCES:
        raise SpecError(f"--from {source}: {choose(source, [*SOURCES, 'kineto'])}")
    if gpus is not None and gpus < 1:
        raise SpecError(f"--gpus {gpus}: at least 1")
    base = None if like is None else _base(like)
    elsewhere = Elsewhere(base, _found(model), _found(cluster), gpus, recipe)
    return import_run(source, read_text(path), path, elsewhere)


def _base(like: str) -> Mapping[str, Any]:
    """The document of the run that fills in what a file leaves open, as it is written."""
    return {name: value for name, value in run_document(like).items() if name not in ("evidence", "name")}


def _found(reference: str | None) -> str | None:
    return None if reference is None else str(found_anywhere(reference))
