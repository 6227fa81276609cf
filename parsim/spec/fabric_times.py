"""FabricTimes: what collectives were measured to take on one class of links, as a few curves."""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal

from pydantic import Field, model_validator

from parsim.spec import catalogue
from parsim.spec.base import Flag, Name, Spec, StrictMapping
from parsim.spec.evidence import EvidenceMap
from parsim.spec.problem import validated

__all__ = ["Curve", "CurveName", "FabricTimes", "Way", "load_fabric_times"]

CurveName = Literal[
    "base", "ring_step", "ring_across", "tree_inside", "tree_level", "nvls", "nvls_level", "peer", "message"
]
Way = Literal["ring", "pair", "tree", "nvls", "nvls_tree", "collnet", "pairwise", "send"]

_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Curve(Spec):
    """Microseconds over the size of what is sent: straight lines between knots of log2 bytes, level beyond them."""

    log2_bytes: Annotated[tuple[_Number, ...], Field(min_length=1)]
    us: tuple[_Number, ...]

    @model_validator(mode="after")
    def _alike(self) -> "Curve":
        if len(self.us) != len(self.log2_bytes) or list(self.log2_bytes) != sorted(set(self.log2_bytes)):
            raise ValueError(f"{len(self.us)} times for {len(self.log2_bytes)} knots; knots rise, one time for each")
        return self

    def at(self, log2_bytes: float) -> float:
        """Seconds at a size."""
        return 1e-6 * sum(share * self.us[index] for index, share in self.weights(log2_bytes))

    def weights(self, log2_bytes: float) -> Sequence[tuple[int, float]]:
        """The knots on both sides of a size and their shares, which add up to 1."""
        knots = self.log2_bytes
        if log2_bytes <= knots[0]:
            return ((0, 1.0),)
        for index in range(1, len(knots)):
            if log2_bytes <= knots[index]:
                share = (log2_bytes - knots[index - 1]) / (knots[index] - knots[index - 1])
                return ((index - 1, 1.0 - share), (index, share))
        return ((len(knots) - 1, 1.0),)


class FabricTimes(Spec):
    """One class of links: NVLink or PCIe inside a domain, InfiniBand, RoCE, EFA, Slingshot ... across domains.

    A collective takes its steps times the curve of a step, and its bytes over NCCL's bandwidth times `per_byte`.
    """

    name: Name
    ll128: Flag
    """Whether NCCL may use its LL128 protocol, which needs 128 bytes to arrive in order."""
    curves: StrictMapping[CurveName, Curve]
    per_byte: StrictMapping[Way, _Number]
    """Time a byte takes over what NCCL's bandwidth says."""
    evidence: EvidenceMap = Field(min_length=1, validate_default=True)


@cache
def load_fabric_times(kind: str) -> FabricTimes:
    """The bundled times of a class of links. SpecError with the nearest name if there is none."""
    return validated(FabricTimes, dict(catalogue.document("fabrics", kind)), f"fabric {kind}")
