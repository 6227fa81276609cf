"""What holds for every schedule that discovery finds, at every size: a new schedule gets these tests by existing."""

import json
import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import ScheduleError
from parsim.metrics import activation_peaks
from parsim.plan import (
    Kind,
    Op,
    Plan,
    add_gradient_reduction,
    add_optimizer_step,
    add_p2p,
    check,
    compute_only,
    parse_csv,
    plan_document,
    plan_from_document,
    write_csv,
)
from parsim.schedules import build, get, names

# Few and many micro-batches, fewer than ranks, no multiple of ranks, a rank alone, odd ranks.
SIZES = [(1, 1), (1, 5), (2, 1), (2, 4), (3, 2), (3, 7), (4, 8), (4, 10), (4, 11), (5, 3), (6, 12), (7, 16), (8, 20)]
CASES = [
    pytest.param(name, pp, m, v, id=f"{name}-p{pp}-m{m}-v{v}")
    for name in names()
    for pp, m in SIZES
    for v in (1, 2, 3, 8)
    if v in get(name).legal_stages
]

ADVICE = re.compile(
    r"^(pp|stages per rank|micro-batches|group_size) (-?\d+): .* needs .*; (\d+)(?: or (\d+))? would do$"
)
ARGUMENT = {"pp": "pp", "stages per rank": "stages_per_rank", "micro-batches": "microbatches"}


def attempt(name: str, size: dict[str, int | None]) -> Plan | re.Match[str]:
    """The plan, or the parsed refusal: the number it judges, its value, one or two ways out."""
    try:
        return build(name, **size)
    except ScheduleError as error:
        return ADVICE.match(str(error)) or pytest.fail(f"no way out in {error}")


def follow_advice(name: str, pp: int, microbatches: int, stages_per_rank: int | None, **options: int) -> Plan:
    """The plan at this size, or at the size that the refusals lead to: each names a way out that is one."""
    size = {"pp": pp, "microbatches": microbatches, "stages_per_rank": stages_per_rank, **options}
    advised: set[str] = set()
    while isinstance(advice := attempt(name, size), re.Match):
        argument = ARGUMENT.get(advice[1], advice[1])
        assert argument not in advised, f"refused its own advice: {advice[0]}"
        assert size[argument] == int(advice[2])
        advised.add(argument)
        if advice[4] is not None:  # the other way out breaks no rule on this number either
            other = attempt(name, {**size, argument: int(advice[4])})
            assert isinstance(other, Plan) or ARGUMENT.get(other[1], other[1]) != argument
        size[argument] = int(advice[3])
    return advice


def every_stage_once(plan: Plan, split: str) -> None:
    """Each micro-batch once forward and once back, in full or in two halves, on every stage."""
    played = Counter(op for _, op in plan.ops())
    assert set(played.values()) == {1}
    expected_halves = {"full": {False}, "split": {True}, "mixed": {True, False}}[split]
    for stage in range(plan.placement.stages):
        for mb in range(plan.microbatches_per_chain):
            kinds = {kind for kind in Kind if Op(stage, kind, mb) in played}
            halved = Kind.I in kinds
            assert halved in expected_halves
            assert kinds == ({Kind.F, Kind.I, Kind.W} if halved else {Kind.F, Kind.B})


@pytest.mark.parametrize(("name", "pp", "m", "v"), CASES)
def test_sound_at_every_size_and_by_its_own_advice(name: str, pp: int, m: int, v: int) -> None:
    plan = follow_advice(name, pp, m, v)
    schedule = get(name)
    assert plan.name == name
    assert len(set(map(len, map(plan.placement.stages_of, range(plan.placement.ranks))))) == 1
    check(plan)
    every_stage_once(plan, schedule.backward)

    lowered = add_optimizer_step(add_gradient_reduction(plan))
    check(lowered)
    with_messages = add_p2p(lowered)
    check(with_messages)
    assert compute_only(with_messages) == lowered

    assert parse_csv(write_csv(plan), name) == plan
    assert parse_csv(write_csv(add_p2p(plan)), name) == add_p2p(plan)
    assert plan_from_document(json.loads(json.dumps(plan_document(with_messages)))) == with_messages

    if schedule.peak_activations is not None:
        peaks = [
            schedule.peak_activations(plan.placement.ranks, plan.microbatches, v, rank)
            for rank in range(plan.placement.ranks)
        ]
        assert tuple(peaks) == activation_peaks(plan)


@given(
    name=st.sampled_from(names()),
    pp=st.integers(-1, 9),
    m=st.integers(-1, 30),
    v=st.none() | st.integers(-1, 5),
    group_size=st.none() | st.integers(-1, 31),
)
def test_any_size_is_played_or_refused_with_a_way_out(
    name: str, pp: int, m: int, v: int | None, group_size: int | None
) -> None:
    takes_it = "group_size" in get(name).options and group_size is not None
    check(follow_advice(name, pp, m, v, **({"group_size": group_size} if takes_it else {})))


@given(
    name=st.sampled_from([name for name in names() if get(name).peak_activations is not None]),
    pp=st.integers(1, 12),
    m=st.integers(1, 60),
    v=st.integers(1, 6),
    group_size=st.none() | st.integers(1, 60),
)
def test_peaks_in_closed_form_are_those_of_the_plan(name: str, pp: int, m: int, v: int, group_size: int | None) -> None:
    schedule = get(name)
    v = v if v in schedule.legal_stages else schedule.default_stages
    options = {"group_size": group_size} if group_size is not None and "group_size" in schedule.options else {}
    plan = follow_advice(name, pp, m, v, **options)
    pp, m = plan.placement.ranks, plan.microbatches
    if options:  # the size that the advice led to
        plan = attempt(name, {"pp": pp, "microbatches": m, "stages_per_rank": v, **options})
        options = options if isinstance(plan, Plan) else {}
        plan = plan if isinstance(plan, Plan) else follow_advice(name, pp, m, v)
    peaks = [schedule.peak_activations(pp, plan.microbatches, v, rank, **options) for rank in range(pp)]
    assert tuple(peaks) == activation_peaks(plan)


@pytest.mark.parametrize("name", names())
def test_only_a_schedule_that_plans_by_times_has_no_closed_peak(name: str) -> None:
    assert (get(name).peak_activations is None) == get(name).timed


@pytest.mark.parametrize("name", names())
def test_played_at_sixty_four_ranks(name: str) -> None:
    plan = build(name, 64, 512)
    every_stage_once(plan, get(name).backward)
    check(plan)


@pytest.mark.parametrize("name", names())
def test_says_where_it_comes_from(name: str) -> None:
    assert re.search(r"\w.*arXiv:\d{4}\.\d{5}", get(name).paper)
    assert get(name).default_stages in get(name).legal_stages
    assert get(name).name == name


@pytest.mark.parametrize("name", names())
def test_ugly_sizes_are_refused_in_a_line(name: str) -> None:
    for pp, m, v, reads in [
        (4, 10**12, None, "10000000 forwards"),
        (10**9, 8, None, "1 to 1024 pipeline ranks"),
        (4, 8, 10**6, "stages per rank 1000000"),
        (4.0, 8, None, "pp 4.0.*whole number"),
        (4, True, None, "micro-batches True.*whole number"),
    ]:
        with pytest.raises(ScheduleError, match=reads) as refused:
            build(name, pp, m, v)
        assert "\n" not in str(refused.value)


def test_the_same_size_gives_the_same_plan() -> None:
    for name in names():
        plan = build(name, 4, 8)
        assert build(name, 4, 8) == plan
        assert replace(plan, name="other") != plan
