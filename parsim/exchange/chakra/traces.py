"""A run's step as Chakra execution traces: what each rank computes, sends and reduces, and what waits for what.

A rank's nodes are the segments of its ops: kernels between two collectives are one compute node with their FLOP and the
time that the roofline gives them, collectives and messages have their bytes and group and leave the time to the network
of who replays them. Dependencies are parsim's own: a rank plays its slots in order, blocks of an op follow each other,
overlapping collectives let the kernels behind them run, a stage waits for its message.

Folded, ranks that differ in tp, cp and dp alone are one trace for each pipeline rank, and the ranks of messages are
pipeline ranks; else there is a trace for every GPU with its global number.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from parsim.axes.mesh import EXPERT_AXES, coordinates, expert_groups, group_of, rank_at
from parsim.cost import RooflineCost
from parsim.cost.run_axes import axes_of
from parsim.cost.segments import Block, Collective, Kernel
from parsim.errors import LayoutError
from parsim.exchange.chakra.nodes import COLLECTIVES, Attribute, Node, NodeType, trace_bytes
from parsim.exchange.table import Note
from parsim.plan import COMPUTE, Kind, Op, Plan, Slot, add_p2p
from parsim.run_plan import plan_of
from parsim.spec import Run

__all__ = ["chakra_traces"]

_MOST_NODES = 20_000_000
_GPU = Attribute("is_cpu_op", "bool", False)


def chakra_traces(run: Run, every_rank: bool) -> tuple[list[bytes], list[Note]]:
    """The trace of each rank, by number, and what a reader must know. Raises LayoutError for a run that the roofline
    does not price, or with too many nodes; ScheduleError for a schedule that is not defined at this size.
    """
    score, mesh = _Score(run), run.layout.mesh
    folded = [score.nodes(pipeline_rank, None) for pipeline_rank in range(mesh.pp)]
    total = sum(map(len, folded)) * (run.ranks // mesh.pp if every_rank else 1)
    if total > _MOST_NODES:
        raise LayoutError(
            f"{total} nodes in the traces of {run.ranks} ranks: at most {_MOST_NODES}; "
            + ("one of each pipeline rank would do" if every_rank else "fewer micro-batches would do")
        )
    notes = [
        Note("layout", "compute takes the roofline's time: replay it with durations, not with a roofline of its own"),
        Note("software", "what of a collective's time hides beside compute is left to the replay"),
    ]
    if not every_rank and run.ranks > mesh.pp:
        notes.append(Note("layout.mesh", "ranks alike in tp, cp and dp are one trace: --every-rank unfolds them"))
    about = (Attribute("parsim_run", "string", run.name), Attribute("folded", "bool", not every_rank))
    if not every_rank:
        return [trace_bytes(nodes, about) for nodes in folded], notes
    unfolded = (score.nodes(coordinates(mesh, rank).pp, rank) for rank in range(run.ranks))
    return [trace_bytes(nodes, about) for nodes in unfolded], notes


class _Score:
    """The plan, its costs and its groups: what the traces of all ranks are written from."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.plan: Plan = add_p2p(plan_of(run))
        self.cost = RooflineCost(run, self.plan.placement)
        axes = axes_of(run)
        self.message_bytes = round(axes.pipeline.message(axes.sizes(run)).size_bytes)

    def nodes(self, pipeline_rank: int, rank: int | None) -> list[Node]:
        """The nodes of a pipeline rank; with a global `rank` its peers are global ranks too."""
        writer = _Writer(self, pipeline_rank, rank)
        for slot in self.plan.orders[pipeline_rank]:
            writer.play(slot)
        return writer.nodes

    def groups(self, rank: int | None) -> Mapping[str, tuple[int, ...]]:
        """The ranks of a collective by axis; none where the trace stands for several ranks."""
        if rank is None:
            return {}
        mesh = self.run.layout.mesh
        found = {axis: group_of(mesh, rank, axis) for axis in ("tp", "cp")}
        found["dp"] = group_of(mesh, rank, "cp", "dp")
        return found | {axis: group_of_rank[rank] for axis, group_of_rank in self._expert_groups.items()}

    @cached_property
    def _expert_groups(self) -> Mapping[str, Mapping[int, tuple[int, ...]]]:
        """By axis of the experts' view the group of every rank, found for all ranks at once."""
        layout = self.run.layout
        axes = {axis: expert_groups(layout.mesh, layout.ep, layout.expert_tp, axis) for axis in EXPERT_AXES}
        return {axis: {rank: group for group in groups for rank in group} for axis, groups in axes.items()}


class _Writer:
    """Nodes of one rank, in the order in which it plays them. `_last`: what the next slot waits for."""

    def __init__(self, score: _Score, pipeline_rank: int, rank: int | None) -> None:
        self.nodes: list[Node] = []
        self._score, self._pipeline_rank, self._rank = score, pipeline_rank, rank
        self._groups = score.groups(rank)
        self._last: tuple[int, ...] = ()
        self._made: dict[Op, tuple[int, ...]] = {}

    def play(self, slot: Slot) -> None:
        """Write a slot: of a pair both begin after the slot before, and the next one waits for both."""
        kind = slot.first.kind
        if kind in COMPUTE:
            before = self._last
            blocks = self._score.cost.segments(slot)
            ends = [self._op(op, own, before) for op, own in zip(slot.ops, blocks, strict=True)]
            self._last = tuple(dict.fromkeys(number for end in ends for number in end))
        elif kind in (Kind.SEND_F, Kind.SEND_B, Kind.RECV_F, Kind.RECV_B):
            self._message(slot.first)
        else:
            self._end_of_step(slot.first)

    def _op(self, op: Op, blocks: Sequence[Block], before: tuple[int, ...]) -> tuple[int, ...]:
        """The nodes of an op, block after block; what its end is."""
        received = Op(op.stage, Kind.RECV_F if op.kind is Kind.F else Kind.RECV_B, op.mb)
        needs = (*before, *self._made.get(received, ()))
        for block in blocks:
            needs = self._block(str(op), block, needs)
        self._made[op] = needs
        return needs

    def _block(self, name: str, block: Block, needs: tuple[int, ...]) -> tuple[int, ...]:
        """In line, one after the other; what overlaps starts behind the kernels before it and ends within the block."""
        line, beside, joining = needs, list[int](), list[int]()
        kernels: list[Kernel] = []
        for segment in block:
            if isinstance(segment, Kernel):
                kernels.append(segment)
                if joining:  # what joins ends with the next kernel
                    line = (*self._compute(name, kernels, line), *joining)
                    joining = []
                continue
            line = self._compute(name, kernels, line)
            number = self._collective(name, segment, line)
            if segment.joins:
                joining.append(number)
            elif segment.overlaps:
                beside.append(number)
            else:
                line = (number,)
        return (*self._compute(name, kernels, line), *joining, *beside)

    def _compute(self, name: str, kernels: list[Kernel], needs: tuple[int, ...]) -> tuple[int, ...]:
        """One node for kernels in a row, which are taken; nothing for none."""
        if not kernels:
            return needs
        flops = round(sum(kernel.flops for kernel in kernels))
        seconds = sum(kernel.seconds for kernel in kernels)
        kernels.clear()
        return (self._add(name, "compute", needs, seconds, Attribute("num_ops", "int64", flops)),)

    def _collective(self, name: str, segment: Collective, needs: tuple[int, ...]) -> int:
        return self._reduce(f"{name} {segment.kind} {segment.axis}", segment.kind, segment.axis, segment, needs)

    def _reduce(self, name: str, kind: str, axis: str, what: Any, needs: tuple[int, ...]) -> int:
        attributes = [
            Attribute("comm_type", "int64", COLLECTIVES[kind]),
            Attribute("comm_size", "int64", round(what.size_bytes)),
            Attribute("axis", "string", axis),
        ]
        if (group := self._groups.get(axis)) is not None:
            attributes.append(Attribute("pg_name", "string", f"{axis}:{group[0]}"))
            attributes.append(Attribute("ranks", "string", ",".join(map(str, group))))
        return self._add(name, "collective", needs, getattr(what, "seconds", 0.0), *attributes)

    def _message(self, op: Op) -> None:
        """A send follows the op that made its content; a receive waits for nothing but its peer."""
        placement = self._score.plan.placement
        sends = op.kind in (Kind.SEND_F, Kind.SEND_B)
        forward = op.kind in (Kind.SEND_F, Kind.RECV_F)
        other = placement.after[op.stage] if sends == forward else placement.before[op.stage]
        assert other is not None
        source, target = (op.stage, other) if sends else (other, op.stage)
        ranks = [self._number_of(placement.rank_of[stage]) for stage in (source, target)]
        needs: tuple[int, ...] = ()
        if sends:
            made = (Op(op.stage, kind, op.mb) for kind in ((Kind.F,) if forward else (Kind.I, Kind.B)))
            needs = next(self._made[one] for one in made if one in self._made)
        tag = 2 * ((op.mb or 0) * placement.stages + source) + (not forward)
        number = self._add(
            str(op),
            "send" if sends else "receive",
            needs,
            self._score.cost.hop_seconds(source, target),
            Attribute("comm_size", "int64", self._score.message_bytes),
            Attribute("comm_src", "int32", ranks[0]),
            Attribute("comm_dst", "int32", ranks[1]),
            Attribute("comm_tag", "int32", tag),
        )
        self._made[op] = (number,)

    def _number_of(self, pipeline_rank: int) -> int:
        if self._rank is None:
            return pipeline_rank
        mesh = self._score.run.layout.mesh
        return rank_at(mesh, coordinates(mesh, self._rank)._replace(pp=pipeline_rank))

    def _end_of_step(self, op: Op) -> None:
        """Reductions go beside what is played next; the optimizer waits for all of its rank, gathers follow it."""
        cost, layout = self._score.cost, self._score.run.layout
        owed = layout.zero_stage < 3
        holdings = [held for held in cost.holdings(op.stage) if owed and (held.axis.ranks or held.axis.degree) > 1]
        if op.kind is Kind.REDUCE_GRAD:
            needs = self._last
            for held in holdings:
                if not held.axis.scattered:
                    comm = held.axis.reduction(held.parameters, scattered=layout.zero_stage > 0)
                    needs = (self._reduce(f"{op} {comm.kind}", comm.kind, _axis(held.axis), comm, needs),)
            self._made[op] = needs
        elif op.kind is Kind.STEP:
            seconds = cost.end_work(op.stage).optimizer_s
            needs = tuple(dict.fromkeys((*self._last, *self._made.get(Op(op.stage, Kind.REDUCE_GRAD), ()))))
            self._last = (self._add(str(op), "compute", needs, seconds, Attribute("num_ops", "int64", 0)),)
            for held in holdings:
                if layout.zero_stage:
                    comm = held.axis.gather(held.parameters)
                    self._last = (self._reduce(f"{op} {comm.kind}", comm.kind, _axis(held.axis), comm, self._last),)

    def _add(self, name: str, type_: NodeType, needs: Sequence[int], seconds: float, *attributes: Attribute) -> int:
        number = len(self.nodes)
        self.nodes.append(Node(number, name, type_, tuple(dict.fromkeys(needs)), seconds, (_GPU, *attributes)))
        return number


def _axis(axis: Any) -> str:
    return "expert_dp" if axis.experts else "dp"
