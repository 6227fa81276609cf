"""What can go wrong, as a tree. Every message is one line: the rule, the numbers, the nearest legal value.

ParsimError
├── SpecError            a specification cannot be read or contradicts itself
│   └── LayoutError      a layout does not fit its model, its cluster or what can be priced
├── ScheduleError        a plan or schedule breaks a rule
│   └── DeadlockError    a plan whose ops wait for each other in a circle
└── DoesNotFit           a run needs more memory than its GPU has
"""

from typing import ClassVar

__all__ = ["DeadlockError", "DoesNotFit", "LayoutError", "ParsimError", "ScheduleError", "SpecError"]


class ParsimError(Exception):
    """The root of everything that parsim raises on purpose; the command line ends with its exit code."""

    exit_code: ClassVar[int] = 2
    """2: the user's input. What goes wrong later, with input that was right, has 1."""


class SpecError(ParsimError):
    """A specification cannot be read, has an unknown or impossible value, or contradicts itself."""


class LayoutError(SpecError):
    """A layout that its model, its cluster or the present cost model does not allow."""


class ScheduleError(ParsimError):
    """A plan that misses, repeats or misplaces an op, or a schedule asked for a size it is not defined at."""


class DeadlockError(ScheduleError):
    """A plan whose ops wait for each other in a circle; the message spells the shortest circle found."""


class DoesNotFit(ParsimError):
    """A run whose peak memory exceeds what its GPU has."""
