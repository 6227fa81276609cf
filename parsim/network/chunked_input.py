"""What `play_chunked` is given, looked at before it plays: numbers in range, rounds whose columns fit.

Every error is a LayoutError of one line that names the place, the value and the rule.
"""

import numpy as np
from numpy.typing import ArrayLike

from parsim.errors import LayoutError
from parsim.network.collectives.rounds import MOST_BYTES, Floats, Round, checked_count

__all__ = ["checked_numbers", "checked_rounds"]


def checked_numbers(values: ArrayLike, what: str, unit: str, least: float, most: float) -> Floats:
    """Numbers as an array. LayoutError unless each is from `least` to `most`."""
    try:
        numbers = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError, OverflowError):
        raise LayoutError(f"{what}: not numbers of {unit}") from None
    if numbers.ndim > 1:
        raise LayoutError(f"{what}: {numbers.ndim} dimensions; a list of numbers is needed")
    wrong = np.flatnonzero(~((numbers >= least) & (numbers <= most)))
    if len(wrong):
        raise LayoutError(f"{what} {wrong[0]} is {numbers[wrong[0]]:g} {unit}: must be from {least:g} to {most:g}")
    return numbers


def checked_rounds(rounds: list[Round]) -> int:
    """The largest endpoint. LayoutError for sizes, shards and endpoints out of range; shared arrays are read once."""
    for number, each in enumerate(rounds):
        checked_count(each.width, f"round {number}: width")
        columns = [each.src, each.dst, each.shard, each.size_bytes]
        columns += [each.queue] if isinstance(each.queue, np.ndarray) else []
        if any(column.shape != (len(each),) for column in columns):
            shapes = ", ".join(str(column.shape) for column in columns)
            raise LayoutError(f"round {number}: columns of shapes {shapes}; one value for each transfer is needed")
    sizes = {id(each.size_bytes): each.size_bytes for each in rounds}.values()
    for size in sizes:
        wrong = np.flatnonzero(~((size >= 0) & (size <= MOST_BYTES)))
        if len(wrong):
            raise LayoutError(f"a transfer of {size[wrong[0]]:g} bytes: must be from 0 to {MOST_BYTES:g}")
    most = 0
    for source, target in {(id(each.src), id(each.dst)): (each.src, each.dst) for each in rounds}.values():
        if min(source.min(), target.min()) < 0:
            raise LayoutError(f"a transfer from rank {source.min()} to rank {target.min()}: ranks are at least 0")
        same = np.flatnonzero(source == target)
        if len(same):
            raise LayoutError(f"a transfer from rank {source[same[0]]} to itself")
        most = max(most, int(source.max()), int(target.max()))
    least = min(int(each.shard.min()) for each in rounds)
    if least < 0:
        raise LayoutError(f"a transfer of shard {least}: shards are at least 0")
    queues = {id(each.queue): each.queue for each in rounds}.values()
    low, high = min(int(np.min(queue)) for queue in queues), max(int(np.max(queue)) for queue in queues)
    if low < 0 or (high + 1) * (most + 1) ** 2 >= 1 << 62:
        raise LayoutError(f"a transfer of queue {low if low < 0 else high}: queues are few, from 0 on")
    return most
