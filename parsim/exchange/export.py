"""A run as files of another tool, with a word on everything that they cannot say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parsim.errors import SpecError
from parsim.exchange.megatron import MEGATRON, megatron_script
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
    heading = [f"Run {run.name}, written by parsim in the names of {tool.release}."]
    return [*heading, "", "What this file does not say of the run:", *(f"  {note}" for note in notes)]


def _megatron(run: Run, name: str, every_rank: bool) -> Exported:
    settings, notes = MEGATRON.write(run)
    notes += unsaid(MEGATRON, run, settings, notes)
    return Exported(megatron_script(settings, _comments(MEGATRON, run, notes)), {}, tuple(notes))


def _torchtitan(run: Run, name: str, every_rank: bool) -> Exported:
    settings, notes = TORCHTITAN.write(run)
    notes += unsaid(TORCHTITAN, run, {**settings, "release.python": True}, notes)
    main, beside = torchtitan_files(run, settings, _comments(TORCHTITAN, run, notes), name, notes)
    return Exported(main, beside, tuple(notes))


TARGETS: Mapping[str, Callable[[Run, str, bool], Exported]] = {
    "megatron": _megatron,
    "torchtitan": _torchtitan,
}
"""By name; each takes a run, the stem of the main file for those beside it, and whether every rank is wanted."""


def export(run: Run, target: str, name: str = "run", *, every_rank: bool = False) -> Exported:
    """The files of a run in the words of `target` (of TARGETS). `name`: the stem of the main file; `every_rank`: traces
    of every rank, where a target has traces. Raises ParsimError for another target, or a run that has no form in it.
    """
    if target not in TARGETS:
        raise SpecError(f"--to {target}: {choose(target, list(TARGETS))}")
    return TARGETS[target](run, name, every_rank)
