"""The slowest stage of a plan: its times of one micro-batch alone, and what it has that the others do not.

A stage consists of its layers, the embedding on the first, head and loss on the last, the prediction layers (MTP) with
a head of their own behind that. What counts as a reason is the time that a stage spends on each beyond the median
stage, in seconds of one micro-batch forward and backward; stages that take the same time have none.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from parsim.cost import StepCost
from parsim.cost.segments import Block, Kernel, play
from parsim.explanation.waterfall import Segmented
from parsim.plan import Kind, Plan
from parsim.plan.op import Op, Slot
from parsim.spec import Run
from parsim.units import format_seconds

__all__ = ["Reason", "SlowestStage", "slowest_stage_of"]

_ALIKE = 1e-9
_KINDS = (Kind.F, Kind.B, Kind.I, Kind.W)
_ENDS = {"embedding": "embedding", "head": "head and loss", "loss": "head and loss", "mtp": "MTP"}


@dataclass(frozen=True)
class Reason:
    """A part of a stage that the median stage does not have, and its seconds (None where nobody measured it)."""

    part: str
    seconds: float | None


@dataclass(frozen=True)
class SlowestStage:
    """The stage with the most work in a micro-batch; `seconds` by kind of op, `over_median` of their sum. `alike`: how
    many of the `stages` take as long, itself among them.
    """

    stage: int
    rank: int
    stages: int
    alike: int
    seconds: Mapping[str, float]
    over_median: float
    why: tuple[Reason, ...]

    @property
    def text(self) -> str:
        """A sentence."""
        times = ", ".join(f"{kind} {format_seconds(seconds)}" for kind, seconds in self.seconds.items())
        where = f"stage {self.stage} on pipeline rank {self.rank}: {times}"
        if self.stages == 1:
            return f"{where}; the only stage"
        if not self.why:
            many = "all stages take" if self.alike == self.stages else f"{self.alike} of {self.stages} stages take"
            return f"{where}; {many} the same"
        parts = [r.part if r.seconds is None else f"{r.part} {format_seconds(r.seconds)}" for r in self.why]
        return f"{where}; {self.over_median:.1%} over the median stage: {', '.join(parts)}"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "stage": self.stage,
            "rank": self.rank,
            "stages_alike": self.alike,
            "seconds": dict(self.seconds),
            "over_median": self.over_median,
            "why": [{"part": reason.part, "seconds": reason.seconds} for reason in self.why],
            "text": self.text,
        }


def slowest_stage_of(run: Run, plan: Plan, cost: StepCost) -> SlowestStage:
    """The slowest stage of `plan` at `cost`; of several alike the first."""
    placement = plan.placement
    played: dict[int, set[Kind]] = {stage: set() for stage in range(placement.stages)}
    for order in plan.orders:
        for slot in order:
            for op in slot.ops:
                played[op.stage].add(op.kind)
    times = {stage: _times(stage, kinds, cost) for stage, kinds in played.items()}
    totals = {stage: sum(seconds.values()) for stage, seconds in times.items()}
    slowest = max(totals, key=lambda stage: (totals[stage], -stage))
    typical = median(totals.values())
    over = totals[slowest] / typical - 1 if typical else 0.0
    why: tuple[Reason, ...] = ()
    if over > _ALIKE:
        parts = {stage: _parts(stage, times[stage], cost) for stage in totals} if isinstance(cost, Segmented) else {}
        why = _by_time(run, plan, slowest, parts) if parts else _by_shape(run, plan, slowest)
    alike = sum(total >= totals[slowest] * (1 - _ALIKE) for total in totals.values())
    return SlowestStage(slowest, placement.rank_of[slowest], placement.stages, alike, times[slowest], over, why)


def _times(stage: int, kinds: set[Kind], cost: StepCost) -> dict[str, float]:
    """Seconds of one micro-batch, forward and backward; a stage that plays B and also its halves is told by B."""
    chosen = [kind for kind in _KINDS if kind in kinds and not (Kind.B in kinds and kind in (Kind.I, Kind.W))]
    return {kind.value: cost.seconds(Slot(Op(stage, kind, 0))) for kind in chosen}


def _parts(stage: int, kinds: Mapping[str, float], cost: Segmented) -> dict[str, float]:
    """Seconds of one micro-batch by part of the stage."""
    found: dict[str, float] = defaultdict(float)
    for kind in kinds:
        for block in cost.segments(Slot(Op(stage, Kind(kind), 0)))[0]:
            found[_part_of(block)] += play([block]).seconds
    return found


def _part_of(block: Block) -> str:
    for segment in block:
        if isinstance(segment, Kernel):
            stem = segment.name.partition("_")[0]
            return _ENDS.get(stem, "loop" if segment.name == "loop" else "layers")
    return "gathers of parameters"


def _by_time(run: Run, plan: Plan, slowest: int, parts: Mapping[int, dict[str, float]]) -> tuple[Reason, ...]:
    own = _with_predictions(run, plan, slowest, parts[slowest])
    names = [name for name in own if name != "loop"]
    others = [_with_predictions(run, plan, stage, found) for stage, found in parts.items()]
    beyond = {name: own[name] - median(other.get(name, 0.0) for other in others) for name in names}
    least = _ALIKE * sum(own.values())
    if beyond.get("layers", 0.0) > least:
        beyond[_layers_words(run, plan, slowest)] = beyond.pop("layers")
    ranked = sorted(beyond.items(), key=lambda item: -item[1])
    return tuple(Reason(name, seconds) for name, seconds in ranked if seconds > least)


def _with_predictions(run: Run, plan: Plan, stage: int, found: dict[str, float]) -> dict[str, float]:
    """The prediction layers apart: their heads and layers are blocks like those of the model."""
    placement, predicted = plan.placement, run.model.mtp_layers
    if not predicted or placement.part_of[stage] != placement.parts - 1:
        return found
    layers = run.layers_of_parts(placement.parts)[-1]
    apart = defaultdict(float, found)
    for name, own in (("head and loss", 1), ("layers", layers)):
        share = found.get(name, 0.0) * predicted / (own + predicted)
        apart[name] -= share
        apart["MTP"] += share
    return apart


def _layers_words(run: Run, plan: Plan, stage: int) -> str:
    """What is special about a stage's layers."""
    placement = plan.placement
    layers = run.layers_of_parts(placement.parts)
    own = layers[placement.part_of[stage]]
    usual = median(layers[part] for part in placement.part_of)
    if own > usual:
        return f"more layers ({own}, the median stage {usual:g})"
    if _experts(run, layers, placement.part_of[stage]) > median(
        _experts(run, layers, part) for part in placement.part_of
    ):
        return "more layers with experts"
    return "dearer layers" if run.layout.recompute.mode == "none" else "more recomputed layers"


def _experts(run: Run, layers: tuple[int, ...], part: int) -> int:
    first = sum(layers[:part])
    return sum(run.model.is_moe_layer(layer) for layer in range(first, first + layers[part]))


def _by_shape(run: Run, plan: Plan, stage: int) -> tuple[Reason, ...]:
    """What a measured stage has beyond others, as its run says: nobody knows what each takes."""
    placement = plan.placement
    part, layers = placement.part_of[stage], run.layers_of_parts(placement.parts)
    found = []
    if part == placement.parts - 1:
        found += ["head and loss", *(["MTP"] if run.model.mtp_layers else [])]
    if part == 0:
        found.append("embedding")
    if layers[part] > median(layers[other] for other in placement.part_of):
        found.append(_layers_words(run, plan, stage))
    return tuple(Reason(name, None) for name in found)
