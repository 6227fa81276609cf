"""`python -m executor`: the command line of the executor, alone or under torchrun."""

import os
import sys

from executor.commands import app
from parsim.cli import main

if __name__ == "__main__":
    if os.environ.get("RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  What is wrong with the input, the first rank says for all
    main(app, "python -m executor")
