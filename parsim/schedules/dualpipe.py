"""DualPipe and DualPipeV: micro-batches from both ends, a forward and a backward that hide each other's messages.

The eight phases carry DeepSeek's numbers. Index 0 is the rank's own direction, index 1 the other; B is the full
backward, I its input-gradient half, W the other half. Both schedules play the same phases: DualPipe over two chains
in opposite directions, H = p/2; DualPipeV, "cut in half", over the two arms of one V, H = p.
"""

from parsim.plan import Orders, Slot, mirrored, vee
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


def _both_ways(pp: int, m: int, v: int) -> Orders:
    """Stage r of chain 0 and stage 2p-1-r of chain 1 stand on rank r. Bubble (p/2-1)(F&B + B - 3W)."""
    half = pp // 2

    def order(rank: int) -> tuple[Slot, ...]:
        chain_0, chain_1 = rank, 2 * pp - 1 - rank
        if rank < half:
            return _order(chain_0, chain_1, half, rank, m // 2)
        return _order(chain_1, chain_0, half, pp - 1 - rank, m // 2)

    return tuple(map(order, range(pp)))


def _cut_in_half(pp: int, m: int, v: int) -> Orders:
    return tuple(_order(rank, 2 * pp - 1 - rank, pp, rank, m) for rank in range(pp))


_ENOUGH = Rule("microbatches", lambda size: f"at least {2 * size.pp} (2 pp)", least=lambda size: 2 * size.pp)

SCHEDULES = (
    Schedule(
        name="dualpipe",
        paper="DeepSeek-V3 Technical Report (3.2.1), arXiv:2412.19437",
        placement=lambda pp, v: mirrored(pp),
        orders=_both_ways,
        peak_activations=lambda pp, m, v, rank: pp + 1,
        period=lambda pp, m, v: 2,  # one in each direction
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
        backward="mixed",
        legal_stages=exactly(2),
        default_stages=2,
        rules=(_ENOUGH,),
    ),
)
