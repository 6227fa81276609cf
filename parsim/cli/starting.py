"""`parsim init` and `parsim check` as commands; what they do is in template.py."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["check", "init"]


def init(
    model: Annotated[
        str, typer.Option(help="A model of `parsim list models`, or a path to a config.json.")
    ] = "llama3-70b",
    cluster: Annotated[str, typer.Option(help="A cluster of `parsim list clusters`.")] = "dgx-h100",
    gpus: Annotated[int, typer.Option(help="How many GPUs.")] = 512,
    out: Annotated[
        Path, typer.Option(metavar="FILE", readable=False, help="Where to write the template; - for standard output.")
    ] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Write a commented run file to start from."""
    from parsim.cli.template import init_command

    init_command(model, cluster, gpus, out, force)


def check(
    target: Annotated[
        str | None,
        typer.Argument(metavar="RUN|SEARCH|PLAN", help="A run, a search (YAML or name), or a plan (CSV or JSON)."),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON schema of a run file (`check search --schema`: of a search file)."
        ),
    ] = False,
) -> None:
    """Say what is wrong with a run, a search or a plan.

    Nothing is simulated. A sound run also lists what it assumes.
    """
    from parsim.cli.template import check_command

    check_command(target, schema)
