"""zb-auto: sound, within its limit, never slower than the schedules it generalises, and as good as was published."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.cost import UnitCost, parse_times
from parsim.errors import ScheduleError
from parsim.metrics import activation_peaks
from parsim.plan import Kind, Op, Plan, Slot, check
from parsim.schedule_result import ScheduleResult, play_schedule
from parsim.schedules import build
from parsim.schedules.rehearsal import Rehearsal, stage_times
from parsim.schedules.zero_bubble_greedy import Limit, greedy_variants

NO_SLOWER = 1 + 1e-9  # sums of the same times in another order


def automatic(pp: int, m: int, times: UnitCost, limit: float | None = None, weight_share: float = 1.0) -> Plan:
    options = {} if limit is None else {"activation_limit_stages": limit}
    return build("zb-auto", pp, m, timing=lambda placement: times, weight_share=weight_share, **options)


def played(pp: int, m: int, times: UnitCost, limit: float | None = None, weight_share: float = 1.0) -> ScheduleResult:
    return play_schedule(automatic(pp, m, times, limit, weight_share), times)


def most_held(plan: Plan, weight_share: float) -> float:
    """The most that a rank holds: 1 from F to I, the share on to W; an I or W holds what it had until its end."""
    change = {Kind.F: 1.0, Kind.I: weight_share - 1, Kind.W: -weight_share}
    peak = 0.0
    for order in plan.orders:
        held = 0.0
        for slot in order:
            held += change[slot.first.kind]
            peak = max(peak, held)
    return peak


@st.composite
def lines(draw: st.DrawFn, most_ranks: int = 7, most_microbatches: int = 16) -> tuple[int, int, UnitCost]:
    """Ranks, micro-batches, and times that differ from stage to stage: alike, uneven, or without any cost."""
    pp, m = draw(st.integers(1, most_ranks)), draw(st.integers(1, most_microbatches))
    time = draw(
        st.sampled_from([st.integers(1, 3).map(float), st.floats(0.1, 3), st.sampled_from([0.0, 0.3, 1.0, 10.0])])
    )
    hop = draw(st.sampled_from([st.just(0.0), st.floats(0, 0.5), st.floats(0, 4)]))
    times = {name: tuple(draw(st.lists(time, min_size=pp, max_size=pp))) for name in ("F", "I", "W")}
    return pp, m, UnitCost({**times, "P2P": tuple(draw(st.lists(hop, min_size=pp, max_size=pp)))})


@given(line=lines(), limit=st.none() | st.floats(1, 20), weight_share=st.sampled_from([1.0, 0.4, 0.0]))
def test_sound_and_within_its_limit(line: tuple[int, int, UnitCost], limit: float | None, weight_share: float) -> None:
    pp, m, times = line
    plan = automatic(pp, m, times, limit, weight_share)
    check(plan)
    assert most_held(plan, weight_share) <= (pp if limit is None else limit) + 1e-6
    if weight_share == 1:
        assert max(activation_peaks(plan)) <= (pp if limit is None else limit)


@given(line=lines(), more=st.floats(0, 20), weight_share=st.sampled_from([1.0, 0.4]))
def test_never_slower_than_those_it_generalises(
    line: tuple[int, int, UnitCost], more: float, weight_share: float
) -> None:
    pp, m, times = line
    named = {name: play_schedule(build(name, pp, m), times).makespan for name in ("1f1b", "zb-h1", "zb-h2")}
    found = played(pp, m, times, pp + more, weight_share).makespan
    assert found <= min(named["1f1b"], named["zb-h1"]) * NO_SLOWER
    if pp + more >= 2 * pp - 1:
        assert found <= named["zb-h2"] * NO_SLOWER


@given(line=lines(), limit=st.integers(1, 16), weight_share=st.sampled_from([1.0, 0.4]))
def test_rehearsals_keep_the_time_that_players_keep(
    line: tuple[int, int, UnitCost], limit: int, weight_share: float
) -> None:
    pp, m, times = line
    for rehearsal in greedy_variants(stage_times(pp, times), m, Limit(limit, weight_share)):
        plan = replace(build("zb-h1", pp, m), orders=rehearsal.orders())
        assert most_held(plan, weight_share) <= limit + 1e-6
        result = play_schedule(plan, times)
        assert rehearsal.makespan == pytest.approx(result.makespan, rel=1e-12)
        assert rehearsal.span() == pytest.approx(max(use.span for use in result.bubble.ranks), rel=1e-9)
        again = Rehearsal(stage_times(pp, times), m).play(plan.orders)
        assert (again.makespan, again.orders()) == (rehearsal.makespan, plan.orders)


@given(line=lines(), limit=st.integers(1, 16))
def test_the_unit_of_time_does_not_matter(line: tuple[int, int, UnitCost], limit: int) -> None:
    pp, m, times = line
    in_other_unit = UnitCost({name: tuple(value * 1e-3 for value in values) for name, values in times.times.items()})
    here = played(pp, m, times, limit)
    assert play_schedule(automatic(pp, m, in_other_unit, limit), times).makespan == pytest.approx(here.makespan)


def test_unit_times_give_what_the_paper_draws() -> None:
    """F = I = W: with p activations ZB-H1 is the best there is; with 2p no rank waits between its first op and last."""
    for pp, m, makespan in [(4, 8, 27), (8, 32, 103)]:
        assert played(pp, m, UnitCost(), pp).makespan == makespan == 3 * m + pp - 1
        assert automatic(pp, m, UnitCost(), pp).orders == build("zb-h1", pp, m).orders
    for pp, m in [(2, 4), (4, 8), (4, 9), (8, 16), (8, 40), (5, 10)]:
        result = played(pp, m, UnitCost(), 2 * pp)
        assert result.bubble.of_span == 0
        assert result.makespan == 3 * m + pp - 1


def test_the_limit_is_p_and_the_times_are_one_where_nobody_says_so() -> None:
    assert build("zb-auto", 4, 8) == automatic(4, 8, UnitCost(), 4)
    assert build("zb-auto", 4, 8, activation_limit_stages=6.9) == automatic(4, 8, UnitCost(), 6)


def test_less_memory_takes_longer() -> None:
    """One activation at a time is no pipeline; with each more it gets shorter, down to ZB-H1's."""
    makespans = [played(4, 12, UnitCost(), limit).makespan for limit in (1, 2, 3, 4)]
    assert makespans == sorted(makespans, reverse=True)
    assert makespans[0] == 12 * 9  # each (p F, p I, W) after the other
    assert makespans[-1] == 12 * 3 + 3


# Table 5 of arXiv:2401.10241: bubble rates of its schedules at the times of its table 9 (ms), p = 8, of a transformer
# with unfused attention: W keeps 32h of the 34h + 5as bytes of an activation (a heads, s = 1024 tokens).
PUBLISHED = [
    # heads, hidden, m, F, I, W, P2P, rate of ZB-1p, of ZB-2p
    (24, 2304, 24, 18.522, 18.086, 9.337, 0.601, 0.1585, 0.0433),
    (24, 2304, 64, 18.546, 18.097, 9.321, 0.762, 0.0674, 0.0026),
    (32, 4096, 24, 29.718, 29.444, 19.927, 0.527, 0.1323, 0.0029),
    (32, 4096, 32, 29.802, 29.428, 19.530, 0.577, 0.1045, 0.0022),
]


@pytest.mark.parametrize(("heads", "hidden", "m", "f", "i", "w", "hop", "one_p", "two_p"), PUBLISHED)
def test_the_published_bubble_rates(
    heads: int, hidden: int, m: int, f: float, i: float, w: float, hop: float, one_p: float, two_p: float
) -> None:
    times = UnitCost({"F": (f,), "I": (i,), "W": (w,), "P2P": (hop,)})
    share = 32 * hidden / (34 * hidden + 5 * heads * 1024)
    for limit, rate in ((8, one_p), (16, two_p)):
        assert played(8, m, times, limit, share).bubble.of_span == pytest.approx(rate, abs=6e-5)


def test_the_times_decide_the_order() -> None:
    assert automatic(8, 32, parse_times("W=0.2"), 16) != automatic(8, 32, UnitCost(), 16)
    short_weight = parse_times("F=1,I=1.1,W=0.4,P2P=0.1")
    of_unit_times = play_schedule(automatic(8, 32, UnitCost(), 16), short_weight)
    assert played(8, 32, short_weight, 16).makespan < of_unit_times.makespan


def test_asks_only_for_what_it_plans_by() -> None:
    """A cost model is asked for F, I, W of each stage and for the ways between neighbours, once."""
    asked: list[object] = []

    class Asked(UnitCost):
        def seconds(self, slot: Slot) -> float:
            asked.append(slot)
            return super().seconds(slot)

        def hop_seconds(self, source: int, target: int) -> float:
            asked.append((source, target))
            return super().hop_seconds(source, target)

    automatic(3, 6, Asked())
    slots = {Slot(Op(stage, kind, 0)) for stage in range(3) for kind in (Kind.F, Kind.I, Kind.W)}
    assert set(asked) == slots | {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"activation_limit_stages": 0.5},
            "activation_limit_stages 0.5: zb-auto at pp 4 needs at least 1 activation of a stage; 1 would do",
        ),
        ({"activation_limit_stages": -3}, "activation_limit_stages -3: .* at least 1 .*; 1 would do"),
        ({"activation_limit_stages": float("nan")}, "activation_limit_stages nan: zb-auto needs a finite number"),
        ({"activation_limit_stages": True}, "activation_limit_stages True: zb-auto needs a finite number"),
        ({"weight_share": 1.5}, "weight_share 1.5: zb-auto at pp 4 needs 0 to 1; 1 would do"),
        ({"weight_share": -0.5}, "weight_share -0.5: zb-auto at pp 4 needs 0 to 1; 0 would do"),
        ({"group_size": 4}, "zb-auto has no option 'group_size'"),
    ],
)
def test_refused_with_a_way_out(options: dict[str, float], message: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        build("zb-auto", 4, 8, **options)
    assert re.match(message, str(refused.value))


def test_a_huge_limit_is_no_limit() -> None:
    assert automatic(4, 8, UnitCost(), 1e300) == automatic(4, 8, UnitCost(), 8)
