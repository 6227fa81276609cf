"""A Megatron-LM training script: written from a run, and read from whatever script or command line a user has."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.megatron.flags import settings_of_words
from parsim.exchange.megatron.parallel import NODES, PER_NODE, WORLD
from parsim.exchange.megatron.tool import MEGATRON
from parsim.exchange.shell import Script, read_script
from parsim.exchange.table import Note

__all__ = ["megatron_script", "read_megatron"]

_LAUNCH = {
    "--nnodes": NODES,
    "--nodes": NODES,
    "-N": NODES,
    "--num-nodes": NODES,
    "--nproc-per-node": PER_NODE,
    "--gpus-per-node": PER_NODE,
    "--ntasks-per-node": PER_NODE,
    "--num-gpus": PER_NODE,
    "--gres": PER_NODE,
    "-np": WORLD,
    "-n": WORLD,
    "--ntasks": WORLD,
}
"""Flags of torchrun, srun, mpirun and deepspeed that say how many GPUs there are."""
_VARIABLES = {
    NODES: ("NNODES", "NUM_NODES", "SLURM_NNODES"),
    PER_NODE: ("GPUS_PER_NODE", "NPROC_PER_NODE"),
    WORLD: ("WORLD_SIZE",),
}


def megatron_script(settings: Mapping[str, Any], comments: Sequence[str]) -> str:
    """The bash script of these settings: comments first, then one array of flags for each concern, then torchrun."""
    flags = {name: value for name, value in settings.items() if name not in (NODES, PER_NODE, WORLD)}
    lines = ["#!/bin/bash", *(f"# {comment}".rstrip() for comment in comments), ""]
    names = []
    for title, wanted in _concerns(flags):
        names.append(f"{title}_ARGS")
        lines += [f"{title}_ARGS=(", *(f"    {_spelled(name, flags[name])}" for name in wanted), ")"]
    arrays = " ".join(f'"${{{name}[@]}}"' for name in names)
    launcher = f"torchrun {NODES} {settings[NODES]} {PER_NODE} {settings[PER_NODE]} pretrain_gpt.py"
    return "\n".join([*lines, "", f"{launcher} \\", f'    {arrays} "$@"', ""])


def _concerns(flags: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The flags of the model, of the layout, and the others; each flag stands once."""
    parallel = ("-parallel", "-size", "-pipeline", "-stage", "recompute", "optimizer", "fsdp", "offload", "seq-length")
    model = {s.name for e in MEGATRON.entries if all(f.startswith("model.") for f in e.fields) for s in e.settings}
    kinds: dict[str, list[str]] = {"MODEL": [], "LAYOUT": [], "SOFTWARE": []}
    for name in flags:
        kind = "MODEL" if name in model else "LAYOUT" if any(word in name for word in parallel) else "SOFTWARE"
        kinds[kind].append(name)
    return [(title, names) for title, names in kinds.items() if names]


def _spelled(name: str, value: Any) -> str:
    if value is True:
        return name
    words = value if isinstance(value, list | tuple) else [value]
    return shlex.join([name, *(f"{word:g}" if isinstance(word, float) else str(word) for word in words)])


def read_megatron(text: str) -> tuple[dict[str, Any], list[Note]]:
    """The settings that a script or a command line states, and what was not read of it. Raises SpecError."""
    script = read_script(text)
    notes = [Note("script", line) for line in script.left_out]
    best: tuple[int, dict[str, Any], list[Note], Sequence[str]] | None = None
    problem: SpecError | None = None
    for command in script.commands:
        program, flags = _parts(command.words)
        mine: list[Note] = []
        try:
            settings, count = settings_of_words(flags, MEGATRON.settings, mine)
        except SpecError as error:
            # Another program's flags may look like these: only the command that is chosen may complain.
            problem = problem or SpecError(f"line {command.line}: {error}")
            continue
        if best is None or count >= best[0]:
            best = count, settings, mine, program
    if problem is not None and (best is None or best[0] < 3):
        raise problem
    if best is None or best[0] == 0:
        why = f" ({script.left_out[0]})" if script.left_out else ""
        raise SpecError(f"no command with Megatron-LM flags, such as --tensor-model-parallel-size, is in it{why}")
    _, settings, more, program = best
    return _launched(program, script, notes) | settings, notes + more


def _parts(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The launcher's words and the training program's: cut behind the Python file or the module; flags alone are the
    program's."""
    for index, word in enumerate(words):
        if word.endswith(".py"):
            return words[: index + 1], words[index + 1 :]
    return (), words


def _launched(program: Sequence[str], script: Script, notes: list[Note]) -> dict[str, Any]:
    """How many nodes and GPUs the launcher's words, `#SBATCH` lines or usual variables tell of."""
    found: dict[str, Any] = {}
    stated: set[str] = set()
    for name, variables in _VARIABLES.items():
        for variable in variables:
            _take(found, name, next(iter(script.variables.get(variable, [])), None), variable, None)
    if NODES in found and PER_NODE in found:
        found.pop(WORLD, None)
    for words, into in ((script.batch_options, None), (program, notes)):
        for name, value in _launch_flags(words):
            _take(found, name, value, name, into)
            stated.add(name)
            if name != WORLD:
                found.pop(WORLD, None)
    if PER_NODE not in found or (NODES in stated and NODES not in found):  # `--nnodes $SLURM_NNODES`: nobody knows
        found.pop(NODES, None)
        found.pop(PER_NODE, None)
    return found


def _launch_flags(words: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        name = _LAUNCH.get(flag.replace("_", "-") if flag.startswith("--") else flag)
        if name is not None and (equals or index + 1 < len(words)):
            found.append((name, value if equals else words[index + 1]))
    return found


def _take(found: dict[str, Any], name: str, text: str | None, where: str, notes: list[Note] | None) -> None:
    number = (text or "").rpartition(":")[2]  # gpu:8, 1:4
    if number.isascii() and number.isdigit() and 0 < int(number) < 10**9:
        found[name] = int(number)
    elif text is not None and notes is not None:
        notes.append(Note(where, f"{text[:60]} is no number of nodes or GPUs"))
