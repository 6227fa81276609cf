"""What ends a run: one rank, what it was playing, and why."""

from parsim.errors import ParsimError

__all__ = ["RunFailed"]


class RunFailed(ParsimError):
    """A run that was ended because of one rank. `op` is what it was playing, None during set-up or between steps."""

    exit_code = 1

    def __init__(self, rank: int, op: str | None, cause: str) -> None:
        place = f"rank {rank}" if op is None else f"rank {rank}, playing {op}"
        super().__init__(f"{place}: {cause}")
        self.rank, self.op, self.cause = rank, op, cause

    def __reduce__(self) -> tuple[type["RunFailed"], tuple[int, str | None, str]]:
        return RunFailed, (self.rank, self.op, self.cause)
