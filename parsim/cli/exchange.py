"""`parsim export` and `parsim import`: runs, plans and recordings as the files of other tools, and back."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parsim.cli.output import STDOUT
from parsim.errors import SpecError

if TYPE_CHECKING:
    from parsim.exchange import Exported, Note

__all__ = ["export", "import_"]

_TARGETS = "megatron|torchtitan|deepspeed|accelerate|torch-csv|chakra|astra-sim"
_SOURCES = "megatron|torchtitan|deepspeed|accelerate|kineto"


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RESULT.json[#RANK]",
            help="A run, or a result of `search` (its finalist of that rank, from 1) or of `simulate`.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar=_TARGETS, help="The tool whose files are written.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Change a field, e.g. layout.mesh.tp=4.")
    ] = None,
    every_rank: Annotated[
        bool, typer.Option("--every-rank", help="chakra: a trace of every GPU, not one of each pipeline rank.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", readable=False, help="Where to write it (default, and -: standard output)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what belongs beside FILE if it exists.")] = False,
) -> None:
    """Write a run as the configuration of another tool.

    What the tool cannot express is said: in the file where it has comments, and on the terminal.
    """
    from parsim.cli.run_argument import read_run_argument
    from parsim.exchange import export as write

    spec, notes = read_run_argument(run, tuple(overrides or ()))
    _say(notes)
    stem = "run" if out is None or out == STDOUT else out.stem
    _deliver(write(spec, to, stem, every_rank=every_rank), None if out == STDOUT else out, force)


def _deliver(exported: "Exported", out: Path | None, force: bool) -> None:
    """The main file to `out` or to standard output, what belongs beside it into the same folder."""
    from parsim.files import check_writable, write_all

    if out is None:
        if isinstance(exported.main, bytes):
            raise SpecError("what is written is binary: name a file with --out")
        sys.stdout.write(exported.main)
        if exported.beside:
            sys.stderr.write(f"note: {', '.join(exported.beside)} belongs beside it: --out FILE writes both\n")
    else:
        beside = {out.parent / name: text for name, text in exported.beside.items()}
        if not force and (there := [path for path in beside if path.exists()]):
            raise SpecError(f"{there[0]} exists; give --force to overwrite it, or another --out")
        contents = {out: exported.main, **beside}
        check_writable(contents)
        write_all(contents)
    _say(exported.notes)
    if out is not None:
        for name in (out, *(out.parent / name for name in exported.beside)):
            sys.stderr.write(f"wrote {name}\n")


def _say(notes: "Iterable[Note]") -> None:
    for note in notes:
        sys.stderr.write(f"note: {' '.join(str(note).split())}\n")


def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The tool's file; for kineto one a rank.")],
    source: Annotated[str, typer.Option("--from", metavar=_SOURCES, help="The tool whose file it is.")],
    like: Annotated[
        str | None, typer.Option(metavar="RUN", help="A run that says what the file leaves open (cluster, model, ...).")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model, where the file is silent.")] = None,
    cluster: Annotated[str | None, typer.Option(metavar="NAME", help="The cluster it runs on.")] = None,
    gpus: Annotated[int | None, typer.Option(help="How many GPUs, where no launcher in the file tells.")] = None,
    step: Annotated[
        str | None, typer.Option(metavar="NAME", help="kineto: only what begins in this annotation, as ProfilerStep#3.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", readable=False, help="Where to write it (default, and -: standard output)."),
    ] = None,
) -> None:
    """Read another tool's configuration as a run, or a profiler's traces as a timeline.

    What was assumed, and what was not read, stands in comments of the run and on the terminal.
    """
    from parsim.cli.run_argument import run_from_file
    from parsim.cli.traces import timeline_text
    from parsim.files import check_writable, write_all

    target = None if out == STDOUT else out
    if target is not None:
        check_writable([target])
    if source == "kineto":
        text, notes = timeline_text(files, step)
    elif len(files) > 1:
        raise SpecError(f"{len(files)} files: a run is read from one")
    else:
        text, notes = run_from_file(source, files[0], like, model, cluster, gpus)
    if target is None:
        sys.stdout.write(text)
    else:
        write_all({target: text})
    _say(notes)
    if target is not None:
        sys.stderr.write(f"wrote {target}\n")
