"""Direct: one message from one rank to another, as pipeline stages send it."""

from collections.abc import Iterator

from parsim.network.collectives.rounds import Group, Round, checked_bytes, round_of

__all__ = ["send"]


def send(group: Group, size_bytes: float, source: int = 0, target: int | None = None) -> Iterator[Round]:
    """One round, S bytes, from `source` to `target` (by default the group's last rank); to oneself it is nothing."""
    size = checked_bytes(size_bytes)
    to = group.check_root(group.ranks - 1 if target is None else target)
    if group.check_root(source) != to:
        yield round_of(source, to, 0, size, False)
