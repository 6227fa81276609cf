"""Interleaved 1F1B, and the zero-bubble schedule with the same order of stages.

Micro-batches travel in groups of g: a rank plays a group through its first local stage, then through its second,
and so on; backwards go through the local stages in reverse. PyTorch makes max(1, m div p) groups of equal size;
with `group_size` groups have that size, as in Megatron, and the last may be shorter, but not below p.
"""

from typing import TypeVar

from parsim.plan import Kind, Orders, Slot, looped
from parsim.plan.edges import Counts, Edges, Microbatches
from parsim.schedules.edges import as_array, by_rank, steady_edges
from parsim.schedules.schedule import ANY, Rule, Schedule, Size
from parsim.schedules.steady import stage_slots, steady

__all__ = ["SCHEDULES"]


_Number = TypeVar("_Number", int, "Counts")


def _rounds(pp: int, m: _Number) -> _Number:
    """max(1, m div p), for a number or an array of them."""
    return m // pp + (m < pp)


def _group(pp: int, m: _Number, group_size: int | None) -> _Number | int:
    return m // _rounds(pp, m) if group_size is None else group_size


def _grouped(kind: Kind, stages: range, m: int, group: int) -> list[Slot]:
    """The ops of one kind, group by group, each group through the local stages in the order given."""
    slots = [stage_slots(stage, kind, range(m)) for stage in stages]
    return [slot for start in range(0, m, group) for row in slots for slot in row[start : start + group]]


def _interleaved(pp: int, m: int, v: int, group_size: int | None = None) -> Orders:
    """Warm-up w = min(mv, (v-1)g + 2(p-1-r)). Bubble (p-1)(F+B)/v with F and B of a whole rank."""
    group = _group(pp, m, group_size)
    return tuple(
        steady(
            _grouped(Kind.F, stages, m, group),
            _grouped(Kind.B, stages[::-1], m, group),
            warm_up=min(m * v, (v - 1) * group + 2 * (pp - 1 - rank)),
        )
        for rank, stages in enumerate(_local_stages(pp, v))
    )


def _interleaved_zero_bubble(pp: int, m: int, v: int) -> Orders:
    """Warm-up (v-1)g + (p-1-r), the weight gradients r turns behind. Bubble (p-1)(F+I-W), as ZB-H1's."""
    group = _group(pp, m, None)
    return tuple(
        steady(
            _grouped(Kind.F, stages, m, group),
            _grouped(Kind.I, stages[::-1], m, group),
            _grouped(Kind.W, stages[::-1], m, group),
            warm_up=min(m * v, (v - 1) * group + pp - 1 - rank),
            lag=rank,
        )
        for rank, stages in enumerate(_local_stages(pp, v))
    )


def _local_stages(pp: int, v: int) -> list[range]:
    return [range(rank, pp * v, pp) for rank in range(pp)]


def _interleaved_peak(pp: int, m: int, v: int, rank: int, group_size: int | None = None) -> int:
    """w + 1, for the forward that comes before the first backward; (v-1)p + 2(p-1) + 1 on rank 0 when g = p."""
    return min(m * v, (v - 1) * _group(pp, m, group_size) + 2 * (pp - 1 - rank) + 1)


def _interleaved_zero_bubble_peak(pp: int, m: int, v: int, rank: int) -> int:
    """w + r + 1, reached when the first weight gradient frees one; v p when g = p."""
    return min(m * v, (v - 1) * _group(pp, m, None) + pp)


def _interleaved_edges(pp: int, m: Microbatches, v: int, group_size: int | None = None) -> Edges:
    group = _group(pp, as_array(m), group_size)
    return steady_edges(pp, m, v, warm_up=(v - 1) * group + 2 * (pp - 1 - by_rank(pp)), group=group)


def _interleaved_zero_bubble_edges(pp: int, m: Microbatches, v: int) -> Edges:
    group, rank = _group(pp, as_array(m), None), by_rank(pp)
    return steady_edges(pp, m, v, warm_up=(v - 1) * group + pp - 1 - rank, lag=rank, group=group)


def _period(pp: int, m: int, v: int, group_size: int | None = None) -> int | None:
    """A group; where its size depends on m, plans do not repeat."""
    if group_size is not None:
        return group_size
    return pp if m % pp == 0 else None


def _equal_rounds(size: Size) -> bool:
    return "group_size" in size.options or size.microbatches % _rounds(size.pp, size.microbatches) == 0


_ROUNDS = Rule(
    "microbatches",
    lambda size: f"a multiple of the {_rounds(size.pp, size.microbatches)} rounds it makes",
    holds=_equal_rounds,
)
_WHOLE_GROUP = Rule(
    "microbatches",
    lambda size: f"at least {size.pp} for a group_size",
    least=lambda size: size.pp if "group_size" in size.options else 1,
)
_SHORT_LAST_GROUP = Rule(
    "group_size",
    lambda size: (
        f"groups of {size.pp} (pp) to {size.microbatches} (micro-batches) whose short last one "
        f"has none or at least {size.pp}"
    ),
    least=lambda size: size.pp,
    most=lambda size: size.microbatches,
    holds=lambda size: not 0 < size.microbatches % size.options["group_size"] < size.pp,
)

SCHEDULES = (
    Schedule(
        name="interleaved",
        paper="Efficient Large-Scale Language Model Training Using Megatron-LM (2.2.2), arXiv:2104.04473",
        placement=looped,
        orders=_interleaved,
        peak_activations=_interleaved_peak,
        period=_period,
        edges=_interleaved_edges,
        legal_stages=ANY,
        default_stages=2,
        rules=(_WHOLE_GROUP, _ROUNDS, _SHORT_LAST_GROUP),
        options=("group_size",),
    ),
    Schedule(
        name="interleaved-zb",
        paper="Zero Bubble Pipeline Parallelism, arXiv:2401.10241, interleaved as in torch.distributed.pipelining",
        placement=looped,
        orders=_interleaved_zero_bubble,
        peak_activations=_interleaved_zero_bubble_peak,
        period=_period,
        edges=_interleaved_zero_bubble_edges,
        backward="split",
        legal_stages=ANY,
        default_stages=2,
        rules=(_ROUNDS,),
    ),
)
