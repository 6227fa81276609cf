"""The command line. Commands import what they need when they run, so that `--help` stays fast.

User errors go to stderr as `error: ...` with exit code 2 and no traceback; outputs are written whole or not at all.
"""

import io
import os
import sys
from collections.abc import Sequence

import typer

from parsim.cli.commands import app
from parsim.errors import ParsimError

__all__ = ["main", "run", "run_app"]

# Typer vendors or depends on click, by release; BadParameter is the one of click's errors that it always exports.
_ClickException: type[Exception] = typer.BadParameter.__mro__[2]


def run(arguments: Sequence[str]) -> int:
    """Run one command of `parsim`; the exit code as of `run_app`."""
    return run_app(app, "parsim", arguments)


def run_app(app: typer.Typer, name: str, arguments: Sequence[str]) -> int:
    """Run one command of an app called `name`; the exit code: 0 done, 1 the reader of our output went away, 2 a user
    error, 130 Ctrl-C.
    """
    if not arguments:
        names = (command.name or str(getattr(command.callback, "__name__", "")) for command in app.registered_commands)
        return _fail(f"name a command: {', '.join(names)}; `{name} --help` explains them")
    try:
        code = app(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except ParsimError as error:
        return _fail(str(error), error.exit_code)
    except _ClickException as error:
        return _fail(getattr(error, "format_message", error.__str__)() or f"{' '.join(arguments)}: see --help")
    except BrokenPipeError:
        _close_stdout()
        return 1
    except OSError as error:
        # Files are read and written with errors of their own; what is left is standard output.
        _close_stdout()
        return _fail(f"standard output cannot be written: {(error.strerror or str(error)).lower()}")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return code if isinstance(code, int) else 0


def _close_stdout() -> None:
    """Keep the interpreter from flushing once more into a pipe whose reader (`| head`) is gone, or a full disk."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int = 2) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")  # in one piece, also where Python is unbuffered
    return code


def main(app: typer.Typer = app, name: str = "parsim") -> None:
    """A console script. A terminal that cannot spell a character of a name or a table shows its code instead."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    raise SystemExit(run_app(app, name, sys.argv[1:]))
