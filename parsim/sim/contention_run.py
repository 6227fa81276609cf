"""A run's loads on shared links: what its collectives, reductions and messages are to `contention`.

A collective's bytes/s by itself are the bytes that each rank sends over the seconds it is priced at, a message's
likewise. A gradient reduction is priced as what the backwards leave of it, so its rate is that of its links: the
capacity times the share that collectives reach. Each activity has at least its price: where the formula is faster than
the links of the graph, the price stands.
"""

from functools import cached_property

from parsim.cost.roofline import RooflineCost
from parsim.cost.run_axes import axes_of
from parsim.cost.segments import Block, Collective
from parsim.network.graph import Network
from parsim.network.price import ring_bytes
from parsim.network.traffic import Activity, Traffic, traffic_of
from parsim.plan.op import COMPUTE, Kind, Slot
from parsim.sim.contention import Load, play_loads
from parsim.sim.played import Played
from parsim.sim.prices import Floats, Prices
from parsim.sim.program import Program

__all__ = ["RunLoads", "play_contended"]


def play_contended(
    program: Program,
    prices: Prices,
    cost: RooflineCost,
    multipliers: Floats | None = None,
    network: Network | None = None,
) -> Played:
    """Play a run's program with contention; `cost` says what happens inside ops and between ranks.

    `prices` may be stretched or measured: segments are stretched with them. `network` is the cluster's, unless given.
    LayoutError where ranks cannot reach each other on it, ScheduleError for more than one lane.
    """
    return play_loads(program, prices, RunLoads(program, cost, network), multipliers)


class RunLoads:
    """What a run's rows do to the links of its cluster."""

    def __init__(self, program: Program, cost: RooflineCost, network: Network | None = None) -> None:
        self._program, self._cost, self._network = program, cost, network
        self._loads: dict[tuple[int, Collective], Load | None] = {}
        self._slots: dict[Slot, tuple[tuple[Block, ...], ...]] = {}

    @cached_property
    def traffic(self) -> Traffic:
        """The links that activities of this run share."""
        found: set[Activity] = set()
        rank_of = self._cost.placement.rank_of
        for slot in self._program.priced:
            rank = rank_of[slot.first.stage]
            for op in self.segments(slot):
                for block in op:
                    found.update(
                        self._activity(rank, segment)
                        for segment in block
                        if isinstance(segment, Collective) and segment.seconds
                    )
            if slot.first.kind is Kind.REDUCE_GRAD and self._cost.seconds(slot):
                found.add(self._reduction(slot))
        found.update(self._message(*boundary) for boundary in self._program.boundaries)
        return traffic_of(self._cost.run, found, self._network)

    def segments(self, slot: Slot) -> tuple[tuple[Block, ...], ...]:
        """The blocks of each op; none for what happens once a step."""
        key = Slot(slot.first._replace(mb=0), None if slot.second is None else slot.second._replace(mb=0))
        if key not in self._slots:
            inside = all(op.kind in COMPUTE for op in slot.ops)
            self._slots[key] = self._cost.segments(slot) if inside else ()
        return self._slots[key]

    def collective(self, rank: int, segment: Collective) -> Load | None:
        """At the rate of its bytes over its seconds."""
        key = rank, segment
        if key not in self._loads:
            sent = ring_bytes(segment.kind, segment.size_bytes, segment.group)
            self._loads[key] = self._load(self._activity(rank, segment), sent / segment.seconds)
        return self._loads[key]

    def reduction(self, slot: Slot, seconds: float) -> Load | None:
        """At the rate that collectives reach on its links."""
        mesh, node = self._cost.run.layout.mesh, self._cost.run.cluster.node
        share = node.gpu.efficiency
        across = mesh.tp * mesh.cp * mesh.dp > node.nvlink_domain
        activity = self._reduction(slot)
        use = self.traffic.uses[activity]
        return self._load(activity, use.most_bytes_per_s * (share.nic if across else share.nvlink))

    def message(self, source: int, target: int, seconds: float) -> Load | None:
        """At the rate of its bytes over its seconds."""
        return self._load(self._message(source, target), self._message_bytes / seconds)

    @cached_property
    def _message_bytes(self) -> float:
        axes = axes_of(self._cost.run)
        return axes.pipeline.message(axes.sizes(self._cost.run)).size_bytes

    def _load(self, activity: Activity, bytes_per_s: float) -> Load | None:
        use = self.traffic.uses[activity]
        return Load(use, bytes_per_s) if use.links and bytes_per_s > 0 else None

    def _activity(self, rank: int, segment: Collective) -> Activity:
        run, axis = self._cost.run, segment.axis
        holders = run.layout.mesh.dp * run.layout.mesh.cp
        if axis == "dp" and run.model.moe is not None and segment.group == run.expert_dp != holders:
            axis = "expert_dp"
        return Activity(axis, (rank,), segment.group, segment.kind == "all_to_all")

    def _reduction(self, slot: Slot) -> Activity:
        """The ranks that hold the same weights, on all pipeline ranks that do; a row plays what its own ranks send."""
        placement, stage = self._cost.placement, slot.first.stage
        rank = placement.rank_of[stage]
        others = {placement.rank_of[twin] for twin in placement.twins(stage)} - {rank}
        return Activity("dp", (rank, *sorted(others)), label="reduction")

    def _message(self, source: int, target: int) -> Activity:
        rank_of = self._cost.placement.rank_of
        return Activity("pp", (rank_of[source], rank_of[target]))
