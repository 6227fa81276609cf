"""The roofline: what the ops of a run cost, from its GPU's rates, its layers' work and its links.

An op's segments, played once on an empty pair of streams, give its duration and the communication that shows; an
overlapped pair plays both lists on one pair of streams. See matmul, attention, elementwise for kernels, links for
collectives, stage for how an op is put together, step_end for what happens once a step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from parsim.cost.constants import ASSUMED, FITTED, Constants
from parsim.cost.layer_segments import LayerSegments
from parsim.cost.layer_table import KernelShape, LayerLookup, LayerTable
from parsim.cost.links import DataPaths, RunLinks, links_of
from parsim.cost.offload import HostCopies, host_copies_of
from parsim.cost.priceable import check_priceable
from parsim.cost.rates import Rates, rates_of
from parsim.cost.run_axes import RunAxes, axes_of
from parsim.cost.segments import Block, Played
from parsim.cost.stage import Part, StageSegments, parts_of_stages
from parsim.cost.stage_prices import StagePrices, stage_prices
from parsim.cost.step_end import EndWork, Holding, StepEnd, end_work, gather_window, straggler_factor
from parsim.cost.sublayout import stage_layout_of, sublayout_of
from parsim.errors import ScheduleError
from parsim.memory.host import moved_by_stage
from parsim.model.dims import Sizes
from parsim.model.layer import layer_kinds
from parsim.model.routing import routing_notes
from parsim.network.estimate import Correction
from parsim.plan.op import COMPUTE, Kind, Op, Slot
from parsim.plan.placement import Placement
from parsim.spec import Run
from parsim.spec.fabric_times import load_fabric_times

__all__ = ["RooflineCost"]


@dataclass(frozen=True)
class RooflineCost:
    """The costs of `run` on the stages of `placement`. Raises LayoutError for what it cannot price."""

    run: Run
    placement: Placement
    constants: Constants = FITTED
    correction: Correction | None = None
    """What was measured of the cluster's collectives; it goes before the fitted formula."""
    layers: LayerTable | None = None
    """What was measured of the layers' kernels; it goes before the roofline where it has the very shape."""
    _played: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_priceable(self.run)
        if self.layers is not None:
            self.layers.check_run(self.run)

    # The Cost protocol

    def seconds(self, slot: Slot) -> float:
        """How long the slot occupies its stream: compute ops, REDUCE_GRAD, STEP, copies. Messages take no stream time
        here: their delay is `hop_seconds`.
        """
        return self._slot(slot).seconds

    def hop_seconds(self, source: int, target: int) -> float:
        """Delay of a micro-batch's activation or gradient from one stage to another; 0 on the same rank."""
        ranks = self.placement.rank_of[source], self.placement.rank_of[target]
        if ranks not in self._played:
            size = self._axes.pipeline.message(self._sizes).size_bytes
            self._played[ranks] = 0.0 if ranks[0] == ranks[1] else self._links.message_seconds(*ranks, size)
        delay: float = self._played[ranks]
        return delay

    def lag_seconds(self, copy: Op, slot: Slot | None) -> float:
        """How a copy to or from the host stands to a slot beside it: see cost.offload."""
        part, moved, copies = self._parts[copy.stage], self._moved[copy.stage], self.copies
        if copies is None or not moved:
            return 0.0
        if slot is None:
            return -copies.window_seconds(part, moved)
        slot_s = self.seconds(slot)
        if copy.kind is Kind.OFFLOAD:
            return copies.out_lag(part, moved, slot_s)
        back = next(op.kind for op in slot.ops if op.stage == copy.stage and op.kind is not Kind.F)
        return copies.in_lag(part, moved, back, slot_s)

    # What else can be asked

    def exposed_seconds(self, slot: Slot) -> Mapping[str, float]:
        """The part of a slot's seconds by cause: axes whose communication shows, and the optimizer in STEP."""
        return self._slot(slot).exposed

    def hidden_seconds(self, slot: Slot) -> Mapping[str, float]:
        """Seconds of communication by axis that compute hides: inside an op, of REDUCE_GRAD in the backward of its
        stage, of STEP in the forwards that follow.
        """
        return self._slot(slot).hidden

    def segments(self, slot: Slot) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each op of a compute slot. ScheduleError for other ops: they have none."""
        for op in slot.ops:
            if op.kind not in COMPUTE:
                raise ScheduleError(f"{op} has no segments: only F, B, I and W have")
        stages = (self._stages if slot.second is None else self._paired_stages).segments
        return tuple(stages.blocks(self._parts[op.stage], op.kind) for op in slot.ops)

    def holdings(self, stage: int) -> list[Holding]:
        """The weights of a stage by who holds the same ones: everyone's, and its experts'."""
        return list(self._holdings(self._parts[stage], self._ranks_of_part[self.placement.part_of[stage]]))

    def end_work(self, stage: int, paths: DataPaths | None = None) -> EndWork:
        """What a stage has to do once a step, whatever hides it; over `paths` instead of its own, if given."""
        holdings = self.holdings(stage)
        holdings = holdings if paths is None else [held._replace(paths=paths) for held in holdings]
        return end_work(self.run, holdings, self._on_rank(stage), self._rates, self.constants)

    @property
    def straggler(self) -> float:
        """What a player multiplies the makespan by: see step_end.straggler_factor."""
        return straggler_factor(self.run.ranks, self.constants)

    @property
    def evidence(self) -> dict[str, str]:
        """Where the numbers come from: the grade of every constant and of what is read from the GPU and the node."""
        node = self.run.cluster.node
        found = {f"constants.{item.name}": "fitted" for item in fields(self.constants)}
        found |= dict.fromkeys((f"constants.{name}" for name in ASSUMED), "assumed")
        found |= {f"gpu.{name}": str(known.grade) for name, known in node.gpu.evidence.items()}
        found |= {f"node.{name}": str(known.grade) for name, known in node.evidence.items()}
        paths = (self._links.tensor, self._links.data.whole)
        classes = {path.reach.kind for path in paths if path.reach is not None and path.ranks > 1}
        found |= {f"network.{name}": str(load_fabric_times(name).evidence["all"].grade) for name in sorted(classes)}
        found |= {"network.collectives": "calibrated"} if self.correction is not None else {}
        if self.run.model.moe is not None and self.run.software.routing != "balanced":
            found["routing.crowding"] = "assumed"
        return found | ({} if self.layers is None else self._asked().evidence)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the run's routing and of measured kernels: how many there are, which are not."""
        return (*routing_notes(self.run), *(() if self.layers is None else (self._asked().note,)))

    @property
    def kernel_shapes(self) -> tuple[KernelShape, ...]:
        """The shape of every kernel of the run, each once: what a layer table can have."""
        return tuple(self._asked().asked)

    # Inside

    @cached_property
    def _axes(self) -> RunAxes:
        return axes_of(self.run, self._links.expert.domains if self.run.model.moe is not None else 1)

    @cached_property
    def _sizes(self) -> Sizes:
        return self._axes.sizes(self.run)

    @cached_property
    def _rates(self) -> Rates:
        return rates_of(self.run, self.constants)

    @cached_property
    def _links(self) -> RunLinks:
        return links_of(self.run, self.constants, self.correction)

    @cached_property
    def _lookup(self) -> LayerLookup | None:
        return None if self.layers is None else LayerLookup(self.layers)

    def _asked(self) -> LayerLookup:
        """The lookup once every kernel of every part has asked; an empty table's where there is none."""
        lookup = LayerLookup(LayerTable(self.run.cluster.node.gpu.name, {})) if self._lookup is None else self._lookup
        stages = self._stage_prices(False, lookup).segments
        for part in self._parts:
            for kind in (Kind.F, Kind.I, Kind.W):
                stages.blocks(part, kind)
        return lookup

    @cached_property
    def _stages(self) -> StagePrices:
        return self._stage_prices(False, self._lookup)

    @cached_property
    def _paired_stages(self) -> StagePrices:
        """Of ops played two at a time: other than alone where there are experts."""
        return self._stages if self.run.model.moe is None else self._stage_prices(True, self._lookup)

    def _stage_prices(self, paired: bool, lookup: LayerLookup | None) -> StagePrices:
        inner = sublayout_of(self.run, self._axes, self._sizes, self._links, self.constants, paired)
        layout = stage_layout_of(self.run, self._axes, self._links, inner)
        if lookup is None:
            return stage_prices(layout)
        return StagePrices(layout, StageSegments(layout, LayerSegments(inner, lookup)))

    @cached_property
    def _ranks_of_part(self) -> Mapping[int, tuple[int, ...]]:
        """The pipeline ranks that hold each part."""
        found: dict[int, set[int]] = {}
        for part, rank in zip(self.placement.part_of, self.placement.rank_of, strict=True):
            found.setdefault(part, set()).add(rank)
        return {part: tuple(sorted(ranks)) for part, ranks in found.items()}

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """The part that each stage is an instance of."""
        run, parts = self.run, self.placement.parts
        return parts_of_stages(self.placement, layer_kinds(run.model), run.layers_of_parts(parts), run.layout.recompute)

    def _slot(self, slot: Slot) -> Played:
        key = tuple([(op.kind, op.stage) for op in slot.ops])
        if key not in self._played:
            self._played[key] = self._price(slot)
        played: Played = self._played[key]
        return played

    def _price(self, slot: Slot) -> Played:
        kinds = {op.kind for op in slot.ops}
        if kinds & {Kind.REDUCE_GRAD, Kind.STEP}:
            return self._end(slot.first)
        if not kinds <= COMPUTE:
            return Played(self._copy_seconds(slot.first), {})
        ops = [(self._parts[op.stage], op.kind) for op in slot.ops]
        alone = self._stages.played(*ops[0]) if slot.second is None else self._paired_stages.played_pair(*ops)
        return alone if self.copies is None else self.copies.beside(alone, ops)

    @cached_property
    def copies(self) -> HostCopies | None:
        """Copies to and from the host beside the ops; None where nothing moves while micro-batches run."""
        return host_copies_of(self.run, self.constants, lambda: self._stages)

    @cached_property
    def _moved(self) -> Mapping[int, int]:
        """Layers of each stage whose activations leave for the host."""
        return moved_by_stage(self.run, self.placement)

    def _copy_seconds(self, copy: Op) -> float:
        """How long an OFFLOAD or RELOAD keeps its stream busy; other ops take no stream."""
        part, moved = self._parts[copy.stage], self._moved[copy.stage]
        if self.copies is None or copy.kind not in (Kind.OFFLOAD, Kind.RELOAD):
            return 0.0
        leaves = copy.kind is Kind.OFFLOAD
        return self.copies.out_seconds(part, moved) if leaves else self.copies.in_seconds(part, moved)

    def _end(self, op: Op) -> Played:
        end = self._step_end(op.stage)
        if op.kind is Kind.REDUCE_GRAD:
            return Played(end.reduce_grad_s, {"dp": end.reduce_grad_s}, {"dp": end.hidden_reduction_s})
        shown = {"dp": end.data_parallel_s, "optimizer": end.optimizer_s}
        if end.copies_s:
            shown["offload"] = end.copies_s
        return Played(end.step_s, shown, {"dp": end.hidden_gather_s})

    def _step_end(self, stage: int) -> StepEnd:
        part, ranks = self._parts[stage], self._ranks_of_part[self.placement.part_of[stage]]
        on_rank = self._on_rank(stage)
        key = ("end", part, on_rank, self._links.place_of(ranks))
        if key not in self._played:
            forward, backward = (self.seconds(Slot(Op(stage, kind, 0))) for kind in (Kind.F, Kind.B))
            in_flight = min(self.run.layout.mesh.pp, self.run.microbatches)
            window = backward, gather_window(forward, on_rank, in_flight)
            self._played[key] = self.end_work(stage).end(self.run.software.dp_overlap, window)
        end: StepEnd = self._played[key]
        return end

    def _on_rank(self, stage: int) -> int:
        """Stages on the pipeline rank of a stage."""
        return len(self.placement.stages_of(self.placement.rank_of[stage]))

    def _holdings(self, part: Part, ranks: tuple[int, ...]) -> Iterator[Holding]:
        """A part's weights by who holds the same ones, on all pipeline ranks that hold the part."""
        axes, links = self._axes, self._links
        yield Holding(axes.data, *self._stages.held(part, False), links.data_paths(ranks))
        if axes.expert_data is not None and (held := self._stages.held(part, True))[0]:
            yield Holding(axes.expert_data, *held, links.expert_data_paths(ranks))
