"""Parts: the devices, links and notes that a network is being built from.

Also what is usual where a fabric does not say: the latency from one switch to the next, in seconds, by kind.
InfiniBand 2.8 us below one leaf and 3.7 us across, RoCE 3.6 and 5.6 us, each with two more hops: DeepSeek-V3 hardware
paper, arXiv 2505.09343, table 5. Slingshot 350 ns a switch: De Sensi et al., SC 2020, arXiv 2008.08886. The others
are assumed to be like RoCE.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parsim.network.graph import Link, both_ways
from parsim.spec.cluster import FabricSpec

__all__ = ["Parts", "switch_latency_s"]

_SWITCH_LATENCY_S: Mapping[str, float] = {"ib": 0.45e-6, "slingshot": 0.35e-6, "nvlink": 0.35e-6, "loopback": 0.0}
_OTHER_LATENCY_S = 1.0e-6


@dataclass
class Parts:
    """What has been added so far, in order."""

    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, kind: str, **attributes: Any) -> str:
        """Adds a device and gives its name back."""
        self.devices[name] = {"kind": kind, **attributes}
        return name

    def join(self, one: str, other: str, bytes_per_s: float, latency_s: float, kind: str) -> None:
        """Adds both directions of a link."""
        self.links += both_ways(one, other, bytes_per_s, latency_s, kind)


def switch_latency_s(fabric: FabricSpec) -> float:
    """Seconds from one switch to the next."""
    if fabric.switch_latency_s is not None:
        return fabric.switch_latency_s
    return _SWITCH_LATENCY_S.get(fabric.kind, _OTHER_LATENCY_S)
