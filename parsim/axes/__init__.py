"""The axes of a mesh: which ranks form their groups, what each cuts and what it owes."""

from parsim.axes.axis import Axis, Comm
from parsim.axes.mesh import AXES, EXPERT_AXES, Coordinates, coordinates, expert_groups, group_of, groups, rank_at

__all__ = [
    "AXES",
    "EXPERT_AXES",
    "Axis",
    "Comm",
    "Coordinates",
    "coordinates",
    "expert_groups",
    "group_of",
    "groups",
    "rank_at",
]
