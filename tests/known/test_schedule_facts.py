"""The figures that the papers give for their schedules, played by a player of this file's own.

Unit times F = I = W = 1 and B = 2 unless said otherwise, no communication. Peaks are stage-activations held from F
to B (or W); the peak over all sizes is in the contract tests.
"""

from itertools import pairwise

import pytest

from parsim.metrics import activation_peaks
from parsim.plan import Kind, Plan, add_p2p
from parsim.schedules import build

Spans = list[list[tuple[float, float]]]


def play(plan: Plan, **given: float) -> Spans:
    """Start and end of every slot of every rank: each op as early as its rank and its inputs allow."""
    times = {"F": 1.0, "I": 1.0, "W": 1.0} | given
    times.setdefault("B", times["I"] + times["W"])
    source = {}  # (direction, stage) -> the stage it hears from
    for chain in plan.placement.chains:
        for stage, following in pairwise(chain):
            source["F", following], source["back", stage] = stage, following
    ended: dict[tuple[str, int, int], float] = {}
    spans: Spans = [[] for _ in plan.orders]
    progress = True
    while progress:
        progress = False
        for order, row in zip(plan.orders, spans, strict=True):
            while len(row) < len(order):
                ops = order[len(row)].ops
                inputs = [("back" if kind == "W" else "F", stage, mb) for stage, kind, mb in ops if kind != "F"]
                heard = [("F" if kind == "F" else "back", stage, mb) for stage, kind, mb in ops if kind != "W"]
                inputs += [(way, source[way, stage], mb) for way, stage, mb in heard if (way, stage) in source]
                if not all(key in ended for key in inputs):
                    break
                start = max([row[-1][1] if row else 0.0, *(ended[key] for key in inputs)])
                pair = times.get("FB") if len(ops) == 2 else None
                time = sum(times[kind] for _, kind, _ in ops) if pair is None else pair
                ended.update((key, start + time) for key in heard)
                row.append((start, start + time))
                progress = True
    assert [len(row) for row in spans] == [len(order) for order in plan.orders]
    return spans


def makespan(spans: Spans) -> float:
    return max(row[-1][1] for row in spans)


def idle(spans: Spans) -> list[float]:
    """Idle time of each rank inside the makespan."""
    return [makespan(spans) - sum(end - start for start, end in row) for row in spans]


def idle_in_span(spans: Spans) -> list[float]:
    """Idle time of each rank between its own first start and last end."""
    return [row[-1][1] - row[0][0] - sum(end - start for start, end in row) for row in spans]


def span_over_work(spans: Spans) -> float:
    return max((row[-1][1] - row[0][0]) / sum(end - start for start, end in row) for row in spans)


def test_model_parallelism_without_a_pipeline_uses_one_rank_in_p() -> None:
    spans = play(build("gpipe", 4, 1))
    assert [sum(end - start for start, end in row) / makespan(spans) for row in spans] == [1 / 4] * 4


@pytest.mark.parametrize(("pp", "m", "steps"), [(4, 8, 33), (8, 32, 117)])
def test_gpipe_and_1f1b_take_the_same_time_and_different_memory(pp: int, m: int, steps: int) -> None:
    """(m+p-1)(F+B); bubble over ideal (p-1)/m; in flight m against min(m, p-r). 1811.06965, 2104.04473."""
    for name in ("gpipe", "1f1b"):
        spans = play(build(name, pp, m))
        assert makespan(spans) == steps == (m + pp - 1) * 3
        assert idle(spans) == [3 * (pp - 1)] * pp
    assert 3 * (pp - 1) / (steps - 3 * (pp - 1)) == {4: 3 / 8, 8: 7 / 32}[pp]
    assert activation_peaks(build("gpipe", pp, m)) == (m,) * pp
    assert activation_peaks(build("1f1b", pp, m)) == tuple(range(pp, 0, -1))


@pytest.mark.parametrize(("pp", "m", "v", "share"), [(4, 8, 2, 3 / 16), (4, 8, 4, 3 / 32), (8, 32, 2, 7 / 64)])
def test_interleaving_divides_the_bubble_by_v(pp: int, m: int, v: int, share: float) -> None:
    """Bubble over ideal (p-1)/(vm): 3(p-1) units of one stage; peak (v-1)p + 2(p-1) + 1 stages. 2104.04473 2.2.2."""
    spans = play(build("interleaved", pp, m, v))
    assert idle(spans) == [3 * (pp - 1)] * pp
    assert 3 * (pp - 1) / (3 * m * v) == share
    assert makespan(spans) == 3 * m * v + 3 * (pp - 1)
    assert activation_peaks(build("interleaved", pp, m, v))[0] == (v - 1) * pp + 2 * (pp - 1) + 1


def test_interleaving_costs_memory() -> None:
    """Rank 0 of p = 4, v = 2 holds 11 half-stages, 5.5 against 1F1B's 4."""
    assert activation_peaks(build("interleaved", 4, 8, 2))[0] / 2 == 5.5
    assert activation_peaks(build("1f1b", 4, 8))[0] == 4


@pytest.mark.parametrize("v", [2, 4])
def test_interleaving_sends_every_stage_boundary(v: int) -> None:
    """p v - 1 boundaries, each crossed by every micro-batch forth and back; 1F1B has p - 1."""
    for plan, boundaries in [(build("interleaved", 4, 8, v), 4 * v - 1), (build("1f1b", 4, 8), 3)]:
        sends = [op for _, op in add_p2p(plan).ops() if op.kind in (Kind.SEND_F, Kind.SEND_B)]
        assert len(sends) == 2 * 8 * boundaries


def test_interleaving_takes_ten_micro_batches_on_four_ranks() -> None:
    assert build("interleaved", 4, 10, 2).microbatches == 10


def test_breadth_first_has_the_interleaved_bubble_at_gpipes_memory() -> None:
    """2211.05953."""
    assert idle(play(build("looped-bfs", 4, 8, 2))) == [9] * 4
    assert activation_peaks(build("looped-bfs", 4, 8, 2)) == (16,) * 4


@pytest.mark.parametrize(("pp", "m", "steps"), [(4, 8, 27), (8, 32, 103)])
def test_zb_h1_leaves_a_third_of_the_bubble(pp: int, m: int, steps: int) -> None:
    """(p-1)(F+I-W), 1F1B's peak p on every rank; the ranks' spans are a slant. 2401.10241 2.1."""
    plan = build("zb-h1", pp, m)
    spans = play(plan)
    assert makespan(spans) == steps
    assert idle(spans) == [pp - 1] * pp
    assert [row[-1][1] - row[0][0] for row in spans] == [steps - rank for rank in range(pp)]
    assert activation_peaks(plan) == (pp,) * pp
    assert idle(play(plan, F=1, I=1.5, W=1))[0] == pytest.approx((pp - 1) * (1 + 1.5 - 1))


def test_interleaved_zero_bubble() -> None:
    """p-1 stage units, peak v p stages on every rank."""
    for pp, m in [(4, 8), (8, 16)]:
        plan = build("interleaved-zb", pp, m, 2)
        assert idle(play(plan)) == [pp - 1] * pp
        assert activation_peaks(plan) == (2 * pp,) * pp


@pytest.mark.parametrize(("name", "peak"), [("zb-h2", lambda pp: 2 * pp - 1), ("zb-v", lambda pp: 2 * pp)])
def test_no_bubble_inside_a_ranks_own_span(name, peak) -> None:
    """2401.10241 2.2 and 6; the makespan still shows p-1, for ranks start one after the other."""
    for pp, m in [(4, 8), (8, 16), (8, 32)]:
        plan = build(name, pp, m)
        spans = play(plan)
        assert idle_in_span(spans) == [0] * pp
        assert idle(spans) == [pp - 1] * pp
        assert activation_peaks(plan) == (peak(pp),) * pp


def test_zero_bubble_has_bubbles_when_passes_differ() -> None:
    """I = 1.2 and W = 0.6 at p = 8, m = 16: span over work 1.094 for ZB-V, about 1.15 for ZB-H2."""
    assert span_over_work(play(build("zb-v", 8, 16), I=1.2, W=0.6)) == pytest.approx(1.094, abs=5e-4)
    assert span_over_work(play(build("zb-h2", 8, 16), I=1.2, W=0.6)) == pytest.approx(1.15, abs=0.01)


def test_zero_bubble_loses_to_1f1b_under_recomputation() -> None:
    """Recomputing adds F to I, and again to W where a split backward recomputes in both halves."""
    split, whole = play(build("zb-h1", 8, 16), I=2, W=2), play(build("1f1b", 8, 16), B=3)
    assert makespan(split) > makespan(whole)


@pytest.mark.parametrize("FB", [3, 2.5, 2])
@pytest.mark.parametrize(("pp", "m"), [(4, 8), (8, 16), (8, 20), (16, 32)])
def test_dualpipe_bubble_on_the_middle_ranks(pp: int, m: int, FB: float) -> None:
    """(p/2-1)(F&B + B - 3W), B the full backward; outer ranks idle no more. 2412.19437 3.2.1."""
    left = idle(play(build("dualpipe", pp, m), FB=FB))
    expected = (pp / 2 - 1) * (FB + 2 - 3)
    assert left[pp // 2 - 1] == left[pp // 2] == expected
    assert max(left) == expected


@pytest.mark.parametrize("pp", [4, 8])
def test_dualpipe_memory(pp: int) -> None:
    """Peak p+1 activations, every part's weights twice; the V holds 2p+1 stages and no weights twice."""
    both_ways, cut_in_half = build("dualpipe", pp, 2 * pp), build("dualpipe-v", pp, 2 * pp)
    assert activation_peaks(both_ways) == (pp + 1,) * pp
    assert activation_peaks(cut_in_half) == (2 * pp + 1,) * pp
    assert [len(both_ways.placement.twins(stage)) for stage in range(2 * pp)] == [2] * 2 * pp
    assert [len(cut_in_half.placement.twins(stage)) for stage in range(2 * pp)] == [1] * 2 * pp


def test_evaluation_without_backwards_is_a_pipeline_of_forwards() -> None:
    """With B = 0 the schedule is (m+p-1) forwards long."""
    assert makespan(play(build("gpipe", 4, 8), B=0)) == 8 + 4 - 1
