"""`python -m executor`: the command line of the executor, alone or under torchrun."""

import io
import os
import sys
import time

from executor.commands import app
from parsim.cli import main

_FIRST_RANK_SPEAKS_S = 3.0


def _main() -> None:
    """What is wrong with the input the first rank says for all, and torchrun ends the others; a rank that is still
    there after a while has an error of its own.
    """
    if os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ:
        main(app, "python -m executor")
    sys.stderr = io.StringIO()
    try:
        main(app, "python -m executor")
    finally:
        if said := sys.stderr.getvalue():
            time.sleep(_FIRST_RANK_SPEAKS_S)
            print(said, end="", file=sys.__stderr__, flush=True)


if __name__ == "__main__":
    _main()
