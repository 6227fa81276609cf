"""Labels of a plot: at the ends of its lines, so that none covers another, and on an axis of sizes."""

from collections.abc import Sequence
from math import ceil, log2

__all__ = ["apart", "size_ticks"]

_MOST_TICKS = 14


def apart(wanted: Sequence[float], gap: float, height: float) -> list[float]:
    """Places as near to the wanted ones as a gap between neighbours allows, in the same order, none below 0."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    clusters: list[list[int]] = []

    def bottom(cluster: Sequence[int]) -> float:
        middle = sum(wanted[index] for index in cluster) / len(cluster)
        return min(max(middle - gap * (len(cluster) - 1) / 2, 0.0), max(height - gap * (len(cluster) - 1), 0.0))

    for index in order:
        clusters.append([index])
        while len(clusters) > 1 and bottom(clusters[-1]) < bottom(clusters[-2]) + gap * len(clusters[-2]):
            last = clusters.pop()
            clusters[-1] += last
    places = [0.0] * len(wanted)
    for cluster in clusters:
        for step, index in enumerate(cluster):
            places[index] = bottom(cluster) + gap * step
    return places


def size_ticks(low: float, high: float) -> list[float]:
    """Powers of two for the axis: every one of few octaves, else every second, fourth ..."""
    first, last = ceil(log2(low) - 1e-9), int(log2(high) + 1e-9)
    step = max(1, 2 ** ceil(log2(max(last - first, 1) / _MOST_TICKS)))
    return [2.0**power for power in range(first, last + 1, step)] or [low]
