"""`python -m executor`: the command line of the executor, alone or under torchrun."""

import io
import os
import sys
import time

from executor.commands import app
from parsim.cli import main

_FIRST_RANK_SPEAKS_S = 3.0


def _alone() -> None:
    """Leave at once when all is said: taking torch down takes a second, and every rank has been seen off by then."""
    try:
        main(app, "python -m executor")
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        if (launched := sys.modules.get("executor.launch")) is not None:
            launched.release()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _one_of_many() -> None:
    """What is wrong with the input the first rank says for all, and torchrun ends the others; a rank that is still
    there after a while has an error of its own.
    """
    sys.stderr = io.StringIO()
    try:
        main(app, "python -m executor")
    finally:
        if said := sys.stderr.getvalue():
            time.sleep(_FIRST_RANK_SPEAKS_S)
            print(said, end="", file=sys.__stderr__, flush=True)


if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _alone()
    elif os.environ.get("RANK") == "0":
        main(app, "python -m executor")
    else:
        _one_of_many()
