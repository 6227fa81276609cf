"""Evidence: where a number comes from."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import StringConstraints

from parsim.spec.base import Name, Spec, StrictMapping

__all__ = ["Evidence", "EvidenceMap", "Grade", "evidence_of"]

Grade = Literal["datasheet", "fitted", "calibrated", "assumed"]


class Evidence(Spec):
    """The grade and the source of a number.

    `datasheet`: its maker publishes it; `fitted` to published training runs; `calibrated`: measured on this
    machine; `assumed`: carried over from something like it, or remembered.
    """

    grade: Grade
    source: Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=3)]


EvidenceMap = StrictMapping[Name, Evidence]
"""By dotted field path; an entry also speaks for the fields below it unless they have their own, `all` for the rest."""


def evidence_of(path: str, evidence: Mapping[str, Evidence]) -> Evidence | None:
    """The evidence of the field at a dotted path: its own entry, else the nearest one above it, else `all`."""
    while path:
        if path in evidence:
            return evidence[path]
        path = path.rpartition(".")[0]
    return evidence.get("all")
