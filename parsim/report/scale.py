"""The scale of time: seconds as a reader wants them, or the units of unit costs."""

from dataclasses import dataclass

__all__ = ["Scale", "scale_of"]


@dataclass(frozen=True)
class Scale:
    """How time is shown: recorded times a `factor` are in `unit`."""

    factor: float
    unit: str


def scale_of(end_s: float, unit: str = "s") -> Scale:
    """Seconds as s, ms or µs by the length of the recording; any other unit (of unit costs) as it is."""
    if unit != "s":
        return Scale(1.0, unit)
    for factor, name in ((1.0, "s"), (1e3, "ms")):
        if end_s * factor >= 10:
            return Scale(factor, name)
    return Scale(1e6, "µs")
