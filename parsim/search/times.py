"""Times: what the ops of a shape take, the messages between its stages, and the end of its step; over the grid.

Put together from unit prices: seconds(stage, pass) = loop + sum over layers + ends, B = I + W.
"""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.run_axes import axes_of
from parsim.cost.step_end import beside, gather_window, straggler_factor
from parsim.model.layer import LayerKind
from parsim.plan import Kind
from parsim.schedules import get
from parsim.search.grid import Floats, Grid, grid_of
from parsim.search.layouts import priced_cut, run_on
from parsim.search.networks import data_paths, message_links
from parsim.search.shape import Shape
from parsim.search.stages import StageClass, stages_of
from parsim.search.units import LOOP_S, Units, kinds_of, unit_key, units_of, whole_stage
from parsim.spec import Run, Search

__all__ = ["ZERO_SHARDS", "Times"]

_WHOLLY_CUT = 3  # the ZeRO stage at which a rank fetches its shard of the weights alone

ZERO_SHARDS = 2
"""From this ZeRO stage on, without a pipeline, collectives of parameters or gradients run inside the ops."""


class Times:
    """The times of one shape, all before the step's straggler factor. Each is priced when it is first asked for."""

    def __init__(self, search: Search, shape: Shape) -> None:
        self.search, self.shape = search, shape
        self.grid = grid_of(search, shape.mesh)
        self.stages = stages_of(search, shape)
        self._ops: dict[tuple[int, Kind], Floats] = {}
        self._hops: dict[tuple[int, int], Floats] = {}
        self._ends: dict[int, tuple[Floats, Floats]] = {}
        self._costs: dict[object, RooflineCost] = {}

    @cached_property
    def straggler(self) -> float:
        """What a whole step is stretched by."""
        return straggler_factor(self.shape.mesh.gpus, FITTED)

    @property
    def scale(self) -> float:
        """From seconds of the plan to those of a step with the search's own global batch."""
        return self.straggler * self.search.batch.global_batch_size / self.shape.mesh.sequences

    def op(self, number: int, kind: Kind) -> Floats:
        """Seconds of an op of a stage of class `number`."""
        if (number, kind) not in self._ops:
            self._ops[number, kind] = self._op(number, kind) + self._waits(number, kind)
        return self._ops[number, kind]

    def _op(self, number: int, kind: Kind) -> Floats:
        if self._whole is not None:
            return self._whole[kind]
        if kind is Kind.B:
            return self._op(number, Kind.I) + self._op(number, Kind.W)
        return _composed(self.units, self.stages.classes[number], kind, self.grid)

    def _waits(self, number: int, kind: Kind) -> Floats:
        """What the layers of an op wait for weights of the next one that come from the host: as HostCopies.beside."""
        waits = np.zeros((1,) * len(self.grid.shape))
        if kind is Kind.W or True not in self.grid.of("offload_weights"):
            return waits
        stage = self.stages.classes[number]
        for layer, count in stage.layers:
            again = self.grid.along("recompute", [dict(counts).get(layer, 0) for counts in stage.again])
            waits = waits + (count - again) * self._wait(layer, kind, False)
            waits = waits + again * self._wait(layer, kind, kind is not Kind.F)
        return waits

    def _wait(self, layer: LayerKind, kind: Kind, again: bool) -> Floats:
        """The same of one layer, recomputed or not."""
        units = self.units
        alone = units.again[layer] if again else units.layers[layer, Kind.F if kind is Kind.F else Kind.I]
        if kind is Kind.B:
            alone = alone + units.layers[layer, Kind.W]
        return np.maximum(self._fetches[layer] - alone, 0.0) * self.grid.where("offload_weights", True)

    @cached_property
    def _fetches(self) -> dict[LayerKind, Floats]:
        """Seconds of each kind's weights from the host, over the grid."""
        shape, points = self.grid.over(*(("zero",) if _WHOLLY_CUT in self.grid.of("zero") else ()))
        found = {layer: np.zeros(shape) for layer in kinds_of(self.search)}
        for index, switches in points:
            copies = self.roofline({**switches, "offload_weights": True}).copies
            assert copies is not None
            for layer, column in found.items():
                column[index] = copies.fetch_seconds(layer)
        return found

    @cached_property
    def units(self) -> Units:
        return units_of(self.search, unit_key(self.search, self.shape.mesh, self.shape.micro_batch_size))

    @cached_property
    def _whole(self) -> Mapping[Kind, Floats] | None:
        mesh = self.shape.mesh
        if mesh.pp > 1 or max(self.grid.of("zero")) < ZERO_SHARDS:
            return None
        return whole_stage(self.search, mesh, self.shape.micro_batch_size)

    def hop(self, source: int, target: int) -> Floats:
        """Delay of a message between two stages."""
        rank_of = self.stages.placement.rank_of
        ranks = rank_of[source], rank_of[target]
        if ranks not in self._hops:
            self._hops[ranks] = self._hop(*ranks)
        return self._hops[ranks]

    def _hop(self, source: int, target: int) -> Floats:
        shape, points = self.grid.over("tp_comm", "precision", "pp_network")
        found = np.zeros(shape)
        if source == target:
            return found
        for index, switches in points:
            links = message_links(self.search, self.shape.mesh, switches["pp_network"])
            size = self._message_bytes[switches["precision"], switches["tp_comm"].startswith("sequence")]
            found[index] = links.message_seconds(source, target, size)
        return found

    @cached_property
    def _message_bytes(self) -> dict[tuple[str, bool], float]:
        cuts = {comm.startswith("sequence") for comm in self.grid.of("tp_comm")}
        return {
            (precision, cut): _message_bytes(self._cost(0, precision, cut).run)
            for precision in self.grid.of("precision")
            for cut in cuts
        }

    def reduction(self, number: int) -> Floats:
        """Seconds of REDUCE_GRAD of a stage of class `number`."""
        return self._end(number)[0]

    def step(self, number: int) -> Floats:
        """Seconds of STEP."""
        return self._end(number)[1]

    def _end(self, number: int) -> tuple[Floats, Floats]:
        if number not in self._ends:
            self._ends[number] = self._end_of(number)
        return self._ends[number]

    def _end_of(self, number: int) -> tuple[Floats, Floats]:
        """As cost.step_end.EndWork.end, for all points at once."""
        mesh, grid = self.shape.mesh, self.grid
        reduce, gather, once, optimizer = self._end_work(number)
        on_rank = len(self.stages.placement.stages_of(self.stages.placement.rank_of[self.stages.example(number)]))
        in_flight = min(mesh.pp, self.shape.microbatches)
        forward, backward = self.op(number, Kind.F), self.op(number, Kind.B)
        hideable = FITTED.dp_window * backward, FITTED.dp_window * gather_window(forward, on_rank, in_flight)
        hidden_reduce, _, left = beside(reduce, gather, hideable, FITTED)
        overlaps = grid.where("dp_overlap", True)
        shown = np.where(overlaps, left, reduce + gather) + FITTED.fsdp_pipeline * once
        return np.where(overlaps, reduce - hidden_reduce, 0.0), shown + optimizer

    def _end_work(self, number: int) -> tuple[Floats, Floats, Floats, Floats]:
        """Of a stage: the same for all micro-batches and schedules whose stages hold as much."""
        stage, placement = self.stages.classes[number], self.stages.placement
        example = self.stages.example(number)
        on_rank = len(placement.stages_of(placement.rank_of[example]))
        twins = len({placement.rank_of[twin] for twin in placement.twins(example)})
        key = self.shape.mesh, stage.layers, stage.first, stage.last, stage.offset, on_rank, twins
        known = _known_ends(self.search)
        if key not in known:
            known[key] = self._priced_end(example)
        return known[key]

    def _priced_end(self, stage: int) -> tuple[Floats, Floats, Floats, Floats]:
        shape, points = self.grid.over("zero", "precision", "tp_network", "dp_network", "pp_network")
        reduce, gather, once = (np.zeros(shape) for _ in range(3))
        for index, switches in points:
            networks = switches["tp_network"], switches["dp_network"], switches["pp_network"]
            paths = None if networks == ("usual",) * 3 else data_paths(self.search, self.shape.mesh, networks)
            work = self._cost(switches["zero"], switches["precision"], False).end_work(stage, paths)
            reduce[index], gather[index], once[index] = work.reduce_s, work.gather_s, work.once_s
        shape, points = self.grid.over("zero", "precision", "offload_weights", "offload_optimizer")
        optimizer = np.zeros(shape)  # with its copies; what it updates does not depend on networks
        for index, switches in points:
            work = self.roofline(switches).end_work(stage)
            optimizer[index] = work.optimizer_s + work.copies_s
        return reduce, gather, once, optimizer

    def _cost(self, zero: int, precision: str, cut: bool) -> RooflineCost:
        comm = "sequence_parallel" if cut else "all_reduce"
        return self.roofline({"zero": zero, "precision": precision, "tp_comm": comm})

    def roofline(self, switches: Mapping[str, Any]) -> RooflineCost:
        """A cost of a layout on the stages of the shape, for what does not lie inside its ops."""
        key = tuple((name, value) for name, value in sorted(switches.items()) if value is not False)
        if key not in self._costs:
            comm = switches.get("tp_comm", "all_reduce")
            cut = priced_cut(self.search, self.shape.mesh, comm)
            stated = {**switches, "tp_comm": "sequence_parallel" if cut else comm}
            run = run_on(self.search, self.shape.mesh, self.shape.micro_batch_size, stated, split=self.shape.layers)
            self._costs[key] = RooflineCost(run, self.stages.placement)
        return self._costs[key]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of compute ops that the plan plays."""
        backward = get(self.shape.schedule).backward if self.shape.mesh.pp > 1 else "full"
        gradients = {"full": (Kind.B,), "split": (Kind.I, Kind.W), "mixed": (Kind.B, Kind.I, Kind.W)}[backward]
        return Kind.F, *gradients


@lru_cache(maxsize=16)
def _known_ends(search: Search) -> dict[object, tuple[Floats, Floats, Floats, Floats]]:
    """What was found of the ends of a search's stages."""
    return {}


def _message_bytes(run: Run) -> float:
    axes = axes_of(run)
    return axes.pipeline.message(axes.sizes(run)).size_bytes


def _composed(units: Units, stage: StageClass, kind: Kind, grid: Grid) -> Floats:
    """loop + layers + ends; what is recomputed differs along the recompute switch."""
    seconds = np.full((1,) * len(grid.shape), LOOP_S[kind])
    for layer, count in stage.layers:
        if kind is not Kind.I:
            seconds = seconds + count * units.layers[layer, kind]
            continue
        again = grid.along("recompute", [dict(counts).get(layer, 0) for counts in stage.again])
        seconds = seconds + (count - again) * units.layers[layer, kind] + again * units.again[layer]
    for name, held in (("embedding", stage.first), ("head", stage.last)):
        if held:
            seconds = seconds + units.ends[name, kind]
    return seconds
