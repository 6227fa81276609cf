"""`python -m executor`: the command line of the executor, alone or under torchrun."""

from executor.commands import app
from parsim.cli import main

if __name__ == "__main__":
    main(app, "python -m executor")
