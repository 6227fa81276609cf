"""A run as files of another tool, with a word on everything that they cannot say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.accelerate import ACCELERATE, accelerate_yaml
from parsim.exchange.astra import astra_of_cluster
from parsim.exchange.chakra import chakra_traces
from parsim.exchange.deepspeed import DEEPSPEED, deepspeed_json
from parsim.exchange.megatron import MEGATRON, megatron_script
from parsim.exchange.schedule_csv import schedule_csv
from parsim.exchange.table import Note, Tool
from parsim.exchange.torchtitan import TORCHTITAN, torchtitan_files
from parsim.exchange.unsaid import unsaid
from parsim.spec import Run
from parsim.spec.problem import choose

__all__ = ["TARGETS", "Exported", "export"]


@dataclass(frozen=True)
class Exported:
    """Files of a tool: the `main` one, and those that stand beside it under names of their own. `notes` are in the
    main file as well, where its format has comments.
    """

    main: str | bytes
    beside: Mapping[str, str | bytes]
    notes: tuple[Note, ...]


def _comments(tool: Tool, run: Run, notes: list[Note]) -> list[str]:
    heading = [f"Run {' '.join(run.name.split())}, written by parsim in the names of {tool.release}."]
    return [*heading, "", "What this file does not say of the run:", *(f"  {note}" for note in notes)]


def _configuration(tool: Tool, spelled: Callable[[dict[str, Any], Sequence[str]], str]) -> "Exporter":
    """A tool whose run is one text of settings."""

    def write(run: Run, name: str, every_rank: bool) -> Exported:
        settings, notes = tool.write(run)
        notes += unsaid(tool, run, settings, notes)
        return Exported(spelled(settings, _comments(tool, run, notes)), {}, tuple(notes))

    return write


def _torchtitan(run: Run, name: str, every_rank: bool) -> Exported:
    settings, notes = TORCHTITAN.write(run)
    notes += unsaid(TORCHTITAN, run, {**settings, "release.python": True}, notes)
    main, beside = torchtitan_files(run, settings, _comments(TORCHTITAN, run, notes), name, notes)
    return Exported(main, beside, tuple(notes))


def _schedule(run: Run, name: str, every_rank: bool) -> Exported:
    text, notes = schedule_csv(run)
    return Exported(text, {}, tuple(notes))


def _chakra(run: Run, name: str, every_rank: bool) -> Exported:
    traces, notes = chakra_traces(run, every_rank)
    first, *others = traces
    stem = name.removesuffix(".0")
    if others and stem == name:
        notes.append(Note("files", f"ASTRA-sim looks for {stem}.0.et beside the others: --out {stem}.0.et names it so"))
    beside = {f"{stem}.{rank}.et": trace for rank, trace in enumerate(others, 1)}
    return Exported(first, beside, tuple(notes))


def _astra(run: Run, name: str, every_rank: bool) -> Exported:
    text, notes = astra_of_cluster(run)
    comments = "".join(f"# {note}\n" for note in notes)
    return Exported(comments + text, {}, tuple(notes))


Exporter = Callable[[Run, str, bool], Exported]
"""Takes a run, the stem of the main file for those beside it, and whether every rank is wanted."""

TARGETS: Mapping[str, Exporter] = {
    "megatron": _configuration(MEGATRON, megatron_script),
    "torchtitan": _torchtitan,
    "deepspeed": _configuration(DEEPSPEED, deepspeed_json),
    "accelerate": _configuration(ACCELERATE, accelerate_yaml),
    "torch-csv": _schedule,
    "chakra": _chakra,
    "astra-sim": _astra,
}


def export(run: Run, target: str, name: str = "run", *, every_rank: bool = False) -> Exported:
    """The files of a run in the words of `target` (of TARGETS). `name`: the stem of the main file; `every_rank`: traces
    of every rank, where a target has traces. Raises ParsimError for another target, or a run that has no form in it.
    """
    if target not in TARGETS:
        raise SpecError(f"--to {target}: {choose(target, list(TARGETS))}")
    return TARGETS[target](run, name, every_rank)
