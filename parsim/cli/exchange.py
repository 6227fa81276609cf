"""`parsim export` and `parsim import`: runs, plans and recordings as the files of other tools, and back."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parsim.cli.options import Json
from parsim.cli.output import STDOUT, Outputs, json_text
from parsim.errors import SpecError

if TYPE_CHECKING:
    from parsim.exchange import Note

__all__ = ["export", "import_"]

_TARGETS = "megatron|torchtitan|deepspeed|accelerate|torch-csv|chakra|astra-sim"
_SOURCES = "megatron|torchtitan|deepspeed|accelerate|kineto"
_Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", readable=False, help="Where to write it (default, and -: standard output)."),
]


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
    out: _Out = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what belongs beside FILE if it exists.")] = False,
    json: Json = None,
) -> None:
    """Write a run as the configuration of another tool.

    What the tool cannot express is said: in the file where it has comments, and on the terminal.
    """
    from parsim.cli.run_argument import read_run_argument
    from parsim.exchange import export as write

    delivery = _Delivery(out, json)
    spec, notes = read_run_argument(run, tuple(overrides or ()))
    exported = write(spec, to, delivery.stem, every_rank=every_rank)
    delivery.put(exported.main, exported.beside, (*notes, *exported.notes), {"to": to, "run": spec.document()}, force)


class _Delivery:
    """Where a file, what belongs beside it, and the notes go. Refuses before the work what cannot be written."""

    def __init__(self, out: Path | None, json: Path | None) -> None:
        self._out = None if out == STDOUT else out
        if self._out is None and json == STDOUT:
            raise SpecError("--json -: standard output cannot hold both; name a file with --out")
        self._outputs = Outputs(out=self._out, json=json)

    @property
    def stem(self) -> str:
        """What files beside the main one are called after."""
        return "run" if self._out is None else self._out.stem

    def put(
        self,
        main: str | bytes,
        beside: Mapping[str, str | bytes],
        notes: Iterable["Note"],
        document: Mapping[str, Any],
        force: bool = False,
    ) -> None:
        """Write everything, then say what a reader must know; `document` are further keys of the JSON."""
        from parsim.files import check_writable, write_all

        out, found = self._out, tuple(notes)
        files = {} if out is None else {out.parent / name: content for name, content in beside.items()}
        if not force and (there := [path for path in files if path.exists()]):
            raise SpecError(f"{there[0]} exists; give --force to overwrite it, or another --out")
        if out is None and isinstance(main, bytes):
            raise SpecError("what is written is binary: name a file with --out")
        check_writable(files)
        names = [] if out is None else [out, *files]
        if self._outputs.wants("json"):
            spoken = [{"about": note.about, "text": note.text} for note in found]
            listed = {"schema_version": "1.0", "files": [str(name) for name in names], "notes": spoken, **document}
            self._outputs.put("json", json_text(listed))
        if out is not None:
            self._outputs.put("out", main)
        write_all(files)
        self._outputs.write()
        if out is None:
            sys.stdout.write(str(main))
            if beside:
                sys.stderr.write(f"note: {', '.join(beside)} belongs beside it: --out FILE writes both\n")
        for line in (*(f"note: {note}" for note in found), *(f"wrote {name}" for name in names)):
            sys.stderr.write(f"{line}\n")


def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="The tool's file; for kineto one a rank.")],
    source: Annotated[str, typer.Option("--from", metavar=_SOURCES, help="The tool whose file it is.")],
    like: Annotated[
        str | None, typer.Option(metavar="RUN", help="A run that says what the file leaves open (cluster, model, ...).")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model, where the file is silent.")] = None,
    cluster: Annotated[str | None, typer.Option(metavar="NAME", help="The cluster it runs on.")] = None,
    gpus: Annotated[int | None, typer.Option(help="How many GPUs, where no launcher in the file tells.")] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="torchtitan: the recipe of the file that is meant.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="NAME", help="kineto: only what begins in this annotation, as ProfilerStep#3.")
    ] = None,
    out: _Out = None,
    json: Json = None,
) -> None:
    """Read another tool's configuration as a run, or a profiler's traces as a timeline.

    What was assumed, and what was not read, stands in comments of the run and on the terminal.
    """
    from parsim.cli.run_argument import run_from_file
    from parsim.cli.traces import timeline_text

    delivery = _Delivery(out, json)
    if source == "kineto":
        text, notes = timeline_text(files, step)
        delivery.put(text, {}, notes, {"from": source})
        return
    if len(files) > 1:
        raise SpecError(f"{len(files)} files: a run is read from one")
    imported = run_from_file(source, files[0], like, model, cluster, gpus, recipe)
    delivery.put(imported.yaml(), {}, imported.notes, {"from": source, "run": imported.run.document()})
