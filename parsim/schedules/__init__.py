"""Pipeline schedules, one file each: every one picks a placement and an order of ops for each rank."""

from parsim.schedules.registry import build, get, names
from parsim.schedules.schedule import Rule, Schedule, Size, Timing

__all__ = ["Rule", "Schedule", "Size", "Timing", "build", "get", "names"]
