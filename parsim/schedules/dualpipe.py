"""DualPipe and DualPipeV: micro-batches from both ends, a forward and a backward that hide each other's messages.

The eight phases carry DeepSeek's numbers. Index 0 is the rank's own direction, index 1 the other; B is the full
backward, I its input-gradient half, W the other half. Both schedules play the same phases: DualPipe over two chains
in opposite directions, H = p/2; DualPipeV, "cut in half", over the two arms of one V, H = p.
"""

from parsim.plan import Orders, Slot, mirrored, vee
from parsim.plan.edges import Counts, Edges, Microbatches
from parsim.schedules.edges import as_array
from parsim.schedules.row import Row
from parsim.schedules.schedule import Rule, Schedule, exactly

__all__ = ["SCHEDULES"]


def _order(own: int, other: int, half: int, depth: int, m: int) -> tuple[Slot, ...]:
    """The eight phases of one rank: H = `half` ranks from an end to the middle, this one h = `depth` ranks in, M = `m`
    micro-batches on each of its stages `own` and `other`.
    """
    row = Row(m)
    inner = half - depth - 1  # ranks between this one and the middle (or the turn)
    # 1: 2(H-h-1) × F0
    for _ in range(2 * inner):
        row.forward(own)
    # 2: (h+1) × (F0, F1)
    for _ in range(depth + 1):
        row.forward(own)
        row.forward(other)
    # 3: (H-h-1) × (I1, W, F1)
    for _ in range(inner):
        row.input_gradient(other)
        row.weight_gradient()
        row.forward(other)
    # 4: (M-2H+h+1) × [(F0;B1), (F1;B0)]
    for turn in range(m - 2 * half + depth + 1):
        if turn == 0 and inner == 0:
            row.forward(own)  # one after the other: in the middle, waiting for both would make the bubble larger
            row.backward(other)
        else:
            row.overlap(own, other)
        row.overlap(other, own)
    # 5: (H-h-1) × [B1, (F1;B0)]
    for _ in range(inner):
        row.backward(other)
        row.overlap(other, own)
    # 6: (h+1) × (B1, B0), from half-way on I in the place of B
    for turn in range(2 * (depth + 1)):
        stage = own if turn % 2 else other
        if turn <= depth:
            row.backward(stage)
        else:
            row.input_gradient(stage)
    # 7: (H-h-1) × (W, I0)
    for _ in range(inner):
        row.weight_gradient()
        row.input_gradient(own)
    # 8: (h+1) × W
    for _ in range(depth + 1):
        row.weight_gradient()
    return tuple(row.slots)


def _of_both_ways(pp: int) -> list[tuple[int, int, int]]:
    """Own stage, other stage and depth of each rank: stage r of chain 0 and stage 2p-1-r of chain 1 on rank r."""
    chain_0 = [(rank, 2 * pp - 1 - rank, rank) for rank in range(pp // 2)]
    return chain_0 + [(2 * pp - 1 - rank, rank, pp - 1 - rank) for rank in range(pp // 2, pp)]


def _both_ways(pp: int, m: int, v: int) -> Orders:
    """Bubble (p/2-1)(F&B + B - 3W)."""
    return tuple(_order(own, other, pp // 2, depth, m // 2) for own, other, depth in _of_both_ways(pp))


def _of_the_half(pp: int) -> list[tuple[int, int, int]]:
    return [(rank, 2 * pp - 1 - rank, rank) for rank in range(pp)]


def _cut_in_half(pp: int, m: int, v: int) -> Orders:
    return tuple(_order(own, other, pp, depth, m) for own, other, depth in _of_the_half(pp))


def _edges(ranks: list[tuple[int, int, int]], half: int, microbatches: Microbatches) -> Edges:
    """The eight phases counted, by the letters of `_order`; the last h+1 W wait, of which most are of the own stage."""
    import numpy as np

    m = as_array(microbatches)
    own, other, depth = (np.array(column) for column in zip(*ranks, strict=True))
    h = depth[:, None]
    inner = half - h - 1
    middle = inner == 0
    turns = m - 2 * half + h + 1
    zigzag = np.maximum(h + 1 - inner, 0)  # of the W that wait, those of phase 6, in turn

    def of_stages(of_own: Counts, of_other: Counts) -> Counts:
        found = np.empty((2 * len(ranks), len(m)), int)
        found[own], found[other] = of_own, of_other
        return found

    halves = of_stages((h + 1) - (h + 1) // 2 + inner, inner + h - h // 2)
    waiting = of_stages(h + 1 - zigzag // 2, zigzag // 2)
    forwards = of_stages(2 * inner + h + 1 + middle, h + 1)
    return Edges(
        played={
            "F": forwards + of_stages(0 * h, inner),
            "B": of_stages((h + 1) // 2, middle + inner + h // 2 + 1),
            "I": halves,
            "W": halves,
            "FB": of_stages(turns - middle, turns + inner),
        },
        first_forward=tuple(own.tolist()),
        last_backward=tuple(own.tolist()),
        waiting_least=waiting,
        waiting_most=waiting,
        first_backward=tuple(other.tolist()),
        before=forwards,
    )


_ENOUGH = Rule("microbatches", lambda size: f"at least {2 * size.pp} (2 pp)", least=lambda size: 2 * size.pp)

SCHEDULES = (
    Schedule(
        name="dualpipe",
        paper="DeepSeek-V3 Technical Report (3.2.1), arXiv:2412.19437",
        placement=lambda pp, v: mirrored(pp),
        orders=_both_ways,
        peak_activations=lambda pp, m, v, rank: pp + 1,
        period=lambda pp, m, v: 2,  # one in each direction
        edges=lambda pp, m, v: _edges(_of_both_ways(pp), pp // 2, m // 2),
        backward="mixed",
        # A rank holds two stages, instances of two parts that the mirror rank holds too. Counted as parts it is one
        # a rank; both counts name the same plan.
        legal_stages=range(1, 3),
        default_stages=1,
        rules=(
            Rule("pp", lambda size: "an even number of ranks", least=lambda size: 2, holds=lambda s: s.pp % 2 == 0),
            Rule(
                "microbatches",
                lambda size: "an even number, half for each direction",
                holds=lambda size: size.microbatches % 2 == 0,
            ),
            _ENOUGH,
        ),
    ),
    Schedule(
        name="dualpipe-v",
        paper='DualPipeV, the "cut-in-half" DualPipe: DeepSeek-V3 Technical Report (3.2.1), arXiv:2412.19437',
        placement=lambda pp, v: vee(pp),
        orders=_cut_in_half,
        peak_activations=lambda pp, m, v, rank: 2 * pp + 1,
        period=lambda pp, m, v: 1,
        edges=lambda pp, m, v: _edges(_of_the_half(pp), pp, m),
        backward="mixed",
        legal_stages=exactly(2),
        default_stages=2,
        rules=(_ENOUGH,),
    ),
)
