"""Prices of a stage layout's parts: what was played once is remembered, for all runs that share the layout.

Times and weights are kept for many layouts, the blocks behind them for the latest alone: these are many small objects.
"""

from functools import lru_cache

from parsim.cost.segments import Played, play_pair
from parsim.cost.stage import Part, StageSegments, stage_segments
from parsim.cost.sublayout import StageLayout
from parsim.plan.op import Kind

__all__ = ["StagePrices", "stage_prices"]

_LAYOUTS = 16_384
_MOST = 4096  # prices of one layout


class StagePrices:
    """Played ops and held weights of the parts of a layout; `own` prices it in another way than the roofline."""

    __slots__ = ("_held", "_layout", "_own", "_played")

    def __init__(self, layout: StageLayout, own: StageSegments | None = None) -> None:
        self._layout, self._own = layout, own
        self._played: dict[object, Played] = {}
        self._held: dict[tuple[Part, bool], tuple[float, float]] = {}

    @property
    def segments(self) -> StageSegments:
        """The blocks behind the prices."""
        return stage_segments(self._layout) if self._own is None else self._own

    def played(self, part: Part, kind: Kind) -> Played:
        """An op alone on an empty pair of streams."""
        key = part, kind
        if key not in self._played:
            self._remember(key, self.segments.played(part, kind))
        return self._played[key]

    def played_pair(self, first: tuple[Part, Kind], second: tuple[Part, Kind]) -> Played:
        """Two ops together."""
        key = first, second
        if key not in self._played:
            self._remember(key, play_pair(self.segments.blocks(*first), self.segments.blocks(*second)))
        return self._played[key]

    def held(self, part: Part, experts: bool) -> tuple[float, float]:
        """Weights of a part on a rank, everyone's or its experts', and FLOP that Muon (if it is used) takes for
        their matrices.
        """
        key = part, experts
        if key not in self._held:
            segments, muon = self.segments, self._layout.inner.software.optimizer == "muon"
            flops = segments.orthogonalised_flops(part, experts) if muon else 0.0
            self._held[key] = segments.parameters(part, experts), flops
        return self._held[key]

    def _remember(self, key: object, played: Played) -> None:
        if len(self._played) >= _MOST:
            self._played.clear()
            self._held.clear()
        self._played[key] = played


@lru_cache(maxsize=_LAYOUTS)
def stage_prices(layout: StageLayout) -> StagePrices:
    """The prices of a layout by the roofline, the same for everyone who asks."""
    return StagePrices(layout)
