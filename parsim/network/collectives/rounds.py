"""Rounds of transfers: what a collective algorithm is made of, and the group of ranks that it is made for.

The data of a collective is cut into numbered shards. A transfer moves `width` consecutive shards, `shard` the first,
from one endpoint to another, which adds them to its own (`reduces`) or puts them in their place. A round holds
transfers that run together: each sends what its source holds at the start of the round. Endpoints 0 to ranks - 1 are
the group's ranks; domain d's switch, where an algorithm computes in the network, is endpoint ranks + d. A switch has no
memory: what it holds came in the round before.

Sizes are float bytes and shards exact fractions of them, not rounded to elements: a finite number from 0 to 1e24 (a
yottabyte), so that sums stay far from overflow. Anything else is a LayoutError.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parsim.errors import LayoutError

__all__ = [
    "MOST_BYTES",
    "MOST_RANKS",
    "Flags",
    "Floats",
    "Group",
    "Integers",
    "Round",
    "Transfer",
    "checked_bytes",
    "checked_count",
    "received_bytes",
    "round_of",
    "sent_bytes",
    "steps",
]

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MOST_BYTES = 1e24
"""The largest size that is taken: a yottabyte."""


MOST_RANKS = 1 << 20


class Transfer(NamedTuple):
    """A view of one transfer of a round: `size_bytes` are those of all its shards together."""

    src: int
    dst: int
    shard: int
    size_bytes: float
    reduces: bool
    width: int = 1
    queue: int = 0


@dataclass(frozen=True, eq=False)
class Round:
    """Transfers that run together, as columns: element i of each array belongs to transfer i.

    Rounds of one algorithm share arrays that do not change from round to round; nobody writes to them.
    """

    src: Integers
    dst: Integers
    shard: Integers
    size_bytes: Floats
    reduces: Flags
    width: int = 1
    """Consecutive shards of each transfer of this round."""
    queue: int | Integers = 0
    """Transfers between the same two endpoints wait for each other in one queue, not in two. One, or one for each."""

    def __len__(self) -> int:
        return len(self.src)

    def __iter__(self) -> Iterator[Transfer]:
        ends = zip(self.src.tolist(), self.dst.tolist(), self.shard.tolist(), strict=True)
        queue = np.broadcast_to(self.queue, len(self)).tolist()
        what = zip(self.size_bytes.tolist(), self.reduces.tolist(), queue, strict=True)
        for (src, dst, shard), (size, reduces, line) in zip(ends, what, strict=True):
            yield Transfer(src, dst, shard, size, reduces, self.width, line)


@dataclass(frozen=True)
class Group:
    """The ranks of a collective: `domain` consecutive ones share an NVLink domain, the last domain may be smaller."""

    ranks: int
    domain: int = 1

    def __post_init__(self) -> None:
        checked_count(self.ranks, "ranks", MOST_RANKS)
        checked_count(self.domain, "domain")

    @property
    def domains(self) -> int:
        """How many NVLink domains the ranks stand on."""
        return -(-self.ranks // self.domain)

    def check_root(self, root: int) -> int:
        """The rank that sends or ends with the data; LayoutError unless it is of the group."""
        if isinstance(root, bool) or not isinstance(root, int | np.integer) or not 0 <= root < self.ranks:
            raise LayoutError(f"root {root!r}: the group's ranks are 0 to {self.ranks - 1}")
        return root

    def turned(self, by: int) -> Integers:
        """The ranks in order, those of each domain turned: from its `by`-th on, and at its end those before."""
        rank = np.arange(self.ranks)
        first = rank // self.domain * self.domain
        inside = np.minimum(self.domain, self.ranks - first)
        return first + (rank - first + by) % inside

    def even_domains(self, algorithm: str) -> tuple[int, int]:
        """Ranks of a domain and number of domains; LayoutError unless every domain is full."""
        inside, domains = min(self.domain, self.ranks), self.domains
        if self.ranks % inside:
            below = self.ranks // inside * inside
            raise LayoutError(
                f"ranks {self.ranks}: {algorithm} needs a multiple of the domain's {inside}; "
                f"{below} or {below + inside} would do"
            )
        return inside, domains

    def one_domain(self, algorithm: str) -> int:
        """The ranks; LayoutError unless they share one domain."""
        if self.ranks > self.domain:
            raise LayoutError(
                f"ranks {self.ranks}: {algorithm} reduces in the switch of one domain, here of {self.domain}; "
                f"at most {self.domain} would do"
            )
        return self.ranks


def checked_count(count: int, what: str, most: int = 2**62) -> int:
    """A whole number from 1 to `most`; LayoutError where it is not."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise LayoutError(f"{what} {count!r}: a whole number of at least 1")
    if count > most:
        raise LayoutError(f"{what} {count}: at most {most}")
    return int(count)


def checked_bytes(size_bytes: float, what: str = "size") -> float:
    """The size as a float. LayoutError unless it is a number from 0 to 1e24."""
    try:
        size = float(size_bytes)
    except OverflowError:
        size = math.inf
    except (TypeError, ValueError):
        raise LayoutError(f"{what} {size_bytes!r}: not a number of bytes") from None
    if not 0 <= size <= MOST_BYTES:
        shown = f"{size:g}" if math.isfinite(size) or math.isnan(size) else "beyond all floats"
        raise LayoutError(f"{what} {shown} bytes: must be from 0 to {MOST_BYTES:g}")
    return size


def round_of(
    src: ArrayLike,
    dst: ArrayLike,
    shard: ArrayLike,
    size_bytes: ArrayLike,
    reduces: ArrayLike,
    width: int = 1,
    queue: int | Integers = 0,
) -> Round:
    """A round from anything that numpy reads; single values are repeated for every transfer."""
    sources = np.atleast_1d(_column(src, np.int64, "sources"))
    count = len(sources)
    return Round(
        sources,
        _column(dst, np.int64, "targets", count),
        _column(shard, np.int64, "shards", count),
        _column(size_bytes, np.float64, "sizes", count),
        _column(reduces, np.bool_, "reduces", count),
        width,
        queue,
    )


def _column(values: ArrayLike, kind: type[Any], what: str, count: int | None = None) -> NDArray[Any]:
    """Values as an array of this kind, repeated `count` times if there is one. LayoutError where that loses any."""
    try:
        given = np.asarray(values)
        column = given.astype(kind)
    except (TypeError, ValueError, OverflowError):
        raise LayoutError(f"{what} of a round: not numbers that fit {kind.__name__}") from None
    if given.dtype.kind not in ("biufO" if kind is np.float64 else "biu") and given.size:
        raise LayoutError(f"{what} of a round: {given.dtype} where {kind.__name__} is needed")
    if count is None:
        return column
    if column.shape not in ((), (1,), (count,)):
        raise LayoutError(f"{what} of a round: shape {column.shape}; one, or one for each of {count} transfers")
    return np.broadcast_to(column, (count,))


def sent_bytes(rounds: Iterable[Round], ranks: int) -> Floats:
    """Bytes that each of the group's ranks sends in all rounds; what switches send is not counted."""
    total = np.zeros(ranks)
    for each in rounds:
        ours = each.src < ranks
        total += np.bincount(each.src[ours], each.size_bytes[ours], ranks)
    return total


def received_bytes(rounds: Iterable[Round], ranks: int) -> Floats:
    """Bytes that each of the group's ranks receives in all rounds."""
    total = np.zeros(ranks)
    for each in rounds:
        ours = each.dst < ranks
        total += np.bincount(each.dst[ours], each.size_bytes[ours], ranks)
    return total


def steps(rounds: Iterable[Round]) -> int:
    """How many rounds there are: the messages that follow each other."""
    return sum(1 for _ in rounds)
