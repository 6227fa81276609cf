"""Labels at the ends of lines: where they go so that none covers another."""

from collections.abc import Sequence

__all__ = ["apart"]


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
