"""Options that several commands share: the files that they write."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Html", "Json", "Layers", "Png", "Trace"]

# Outputs need not be readable: /dev/stdout may be a pipe of another user.
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", readable=False, help="One offline page with the diagram and the numbers.")
]
Png = Annotated[
    Path | None,
    typer.Option(metavar="FILE", readable=False, help="The diagram as a picture (extra [png], and a Chrome)."),
]
Trace = Annotated[Path | None, typer.Option(metavar="FILE", readable=False, help="Chrome/Perfetto trace.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", readable=False, help="The numbers as JSON; - for standard output."),
]
Layers = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Measured kernels, a table or a torch.profiler trace (JSON): they go before the roofline's.",
    ),
]
