"""What `check` refuses, and how it says so: missing, repeated and misplaced ops, lost messages, circles."""

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan import (
    Kind,
    Op,
    Placement,
    Plan,
    Slot,
    add_gradient_reduction,
    add_optimizer_step,
    add_p2p,
    check,
    levels,
    looped,
    mirrored,
    needs,
    parse_slot,
    straight,
    vee,
)
from parsim.schedules import build, get, names


def plan(*rows: str, placement: Placement | None = None, microbatches: int = 1) -> Plan:
    orders = tuple(tuple(map(parse_slot, row.split())) for row in rows)
    return Plan("test", placement or straight(len(rows)), microbatches, orders)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("0F0", "1F0 1B0"), "rank 0 never plays 0B0 (nor its I and W)"),
        (("0B0", "1F0 1B0"), "rank 0 never plays 0F0"),
        (("0F0 0I0", "1F0 1B0"), "rank 0 never plays 0W0"),
        (("0F0 0W0", "1F0 1B0"), "rank 0 never plays 0I0"),
        (("0F0 0B0 0W0", "1F0 1B0"), "rank 0 plays 0B0 and also 0W0: B is I and W in one"),
        (("0F0 0B0 0I0 0W0", "1F0 1B0"), "rank 0 plays 0B0 and also 0W0: B is I and W in one"),
        (("0F0 0B0 0F0", "1F0 1B0"), "rank 0 plays 0F0 twice"),
        (("0F0 0B0 1B0", "1F0"), "rank 0 plays 1B0, but stage 1 is on rank 1"),
        (("0F0 0B0 2F0", "1F0 1B0"), "rank 0 plays 2F0, but the plan has stages 0 to 1"),
        (("0F0 0B0 0F1", "1F0 1B0"), "rank 0 plays 0F1, but micro-batches go from 0 to 0"),
        (
            ("0F0 0SEND_F0 0B0", "1F0 1B0"),
            "rank 0 plays 0SEND_F0, but rank 1 never plays 1RECV_F0",
        ),
        (
            ("0F0 0B0", "1RECV_F0 1F0 1B0"),
            "rank 1 plays 1RECV_F0, but rank 0 never plays 0SEND_F0",
        ),
        (
            ("0F0 0RECV_B0 0B0", "1F0 1B0"),
            "rank 0 plays 0RECV_B0, but rank 1 never plays 1SEND_B0",
        ),
        (
            ("0F0 0B0", "1F0 1B0 1SEND_F0"),
            "rank 1 plays 1SEND_F0, but it faces an end of the chain: nothing is sent there",
        ),
        (
            ("0RECV_F0 0F0 0B0", "1F0 1B0"),
            "rank 0 plays 0RECV_F0, but it faces an end of the chain: nothing is sent there",
        ),
        (("0F0 0OFFLOAD0 0B0", "1F0 1B0"), "rank 0 plays 0OFFLOAD0, but never 0RELOAD0"),
        (("0F0 0RELOAD0 0B0", "1F0 1B0"), "0RELOAD0 on rank 0 needs 0OFFLOAD0, which no rank plays"),
    ],
)
def test_what_is_wrong_is_named(rows: tuple[str, ...], message: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        check(plan(*rows))
    assert str(refused.value) == message


def test_a_message_between_stages_of_one_rank_is_refused() -> None:
    with pytest.raises(ScheduleError, match="0SEND_F0, but it faces stage 1 on the same rank"):
        check(plan("0F0 0SEND_F0 1RECV_F0 1F0 1B0 0B0", placement=vee(1)))


def test_ops_that_only_code_can_write_are_refused_too() -> None:
    """Python would read stage -1 as the last one."""
    sound = plan("0F0 0B0", "1F0 1B0")
    for stranger in (Op(-1, Kind.F, 0), Op(1, Kind.F, -1), Op(1, Kind.F), Op(1, Kind.STEP, 0)):
        orders = (sound.orders[0], (*sound.orders[1], Slot(stranger)))
        with pytest.raises(ScheduleError, match="is no op"):
            check(replace(sound, orders=orders))
    with pytest.raises(ScheduleError, match="only a forward and a backward overlap"):
        check(replace(sound, orders=((Slot(sound.orders[0][0].first, Op(0, Kind.W, 0)),), sound.orders[1])))


@pytest.mark.parametrize(
    ("rows", "microbatches", "circle"),
    [
        (("0B0 0F0",), 1, ["rank 0 waits at 0B0 for 0F0, which stands at or behind 0B0 on rank 0"]),
        (("0F0 0W0 0I0",), 1, ["rank 0 waits at 0W0 for 0I0, which stands at or behind 0W0 on rank 0"]),
        (
            ("(0F0;0B0)OVERLAP_F_B",),
            1,
            ["rank 0 waits at (0F0;0B0)OVERLAP_F_B for 0F0, which stands in the same slot on rank 0"],
        ),
        (
            ("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"),
            2,
            [
                "rank 0 waits at 0B0 for 1B0, which stands at or behind 1F1 on rank 1",
                "rank 1 waits at 1F1 for 0F1, which stands at or behind 0B0 on rank 0",
            ],
        ),
        (
            # Rank 3 waits for rank 2, and ranks 1 and 2 for each other: the circle is those two alone.
            ("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1", "2F0 2F1 2B0 2B1", "3F0 3F1 3B0 3B1"),
            2,
            [
                "rank 1 waits at 1B0 for 2B0, which stands at or behind 2F1 on rank 2",
                "rank 2 waits at 2F1 for 1F1, which stands at or behind 1B0 on rank 1",
            ],
        ),
        (
            ("0F0 0SEND_F0 0B0", "1F0 1RECV_F0 1B0"),
            1,
            ["rank 1 waits at 1F0 for 1RECV_F0, which stands at or behind 1F0 on rank 1"],
        ),
    ],
)
def test_a_deadlock_spells_its_shortest_circle(rows: tuple[str, ...], microbatches: int, circle: list[str]) -> None:
    with pytest.raises(DeadlockError) as refused:
        check(plan(*rows, microbatches=microbatches))
    steps = str(refused.value).removeprefix("plan deadlocks: ").split("; ")
    assert steps == circle


def test_stages_may_be_gathered_again_and_again() -> None:
    """FSDP frees a stage between forward and backward; PyTorch's lowered tables repeat both ops."""
    check(plan("0UNSHARD 0F0 0RESHARD 0UNSHARD 0B0 0RESHARD 0REDUCE_GRAD"))


def test_levels_are_a_play_of_the_plan() -> None:
    for name in names():
        score = add_p2p(add_optimizer_step(add_gradient_reduction(build(name, 4, 8))))
        present = {op for _, op in score.ops()}
        played: set[Op] = set()
        at = [0] * len(score.orders)
        for level in levels(score):
            slots = []
            for rank, index in level:
                assert index == at[rank]
                at[rank] += 1
                slots.append(score.orders[rank][index])
            for op in (op for slot in slots for op in slot.ops):
                assert played.issuperset(needs(op, score.placement, present, score.microbatches_per_chain))
            played.update(op for slot in slots for op in slot.ops)
        assert played == present


def test_the_rule_at_the_ends_and_turns_of_chains() -> None:
    def need(placement: Placement, text: str, *present: str) -> list[str]:
        everything = {op for cell in present for op in parse_slot(cell).ops}
        return sorted(map(str, needs(parse_slot(text).first, placement, everything, 2)))

    assert need(straight(3), "0F1") == []
    assert need(straight(3), "1F1") == ["0F1"]
    assert need(straight(3), "2B1") == ["2F1"]
    assert need(straight(3), "1B1") == ["1F1", "2B1"]
    assert need(straight(3), "1B1", "2I1") == ["1F1", "2I1"]
    assert need(straight(3), "1I1", "1RECV_B1") == ["1F1", "1RECV_B1"]
    assert need(straight(3), "1B1", "1RELOAD1") == ["1F1", "1RELOAD1", "2B1"]
    assert need(straight(3), "1W1") == ["1I1"]
    assert need(vee(2), "2F0") == ["1F0"]
    assert need(mirrored(2), "2F0") == []  # stage p begins the second chain
    assert need(mirrored(2), "1B0") == ["1F0"]  # and stage p-1 ends the first
    assert need(mirrored(2), "0REDUCE_GRAD") == ["0B0", "0B1", "2B0", "2B1"]  # both hold part 0
    assert need(looped(2, 2), "0REDUCE_GRAD", "0W1") == ["0B0", "0W1"]
    assert need(straight(2), "0STEP") == ["0B0", "0B1"]
    assert need(straight(2), "0STEP", "0REDUCE_GRAD") == ["0REDUCE_GRAD"]


@pytest.mark.parametrize(
    ("chains", "rank_of", "part_of", "message"),
    [
        ((), (), (), "at least one stage"),
        (((),), (), (), "at least one stage"),
        (((0,), ()), (0,), (0,), r"chain \(\) must run through every part"),
        (((0, 1),), (0, 1), (0,), "1 parts given for 2 stages"),
        (((0, 1),), (0, 2), (0, 1), "without a gap"),
        (((0,),), (10**9,), (0,), "without a gap"),
        (((0,),), (0,), (10**9,), "must run through every part"),
        (((1, 0),), (0, 1), (0, 1), r"chain \(1, 0\) must run through every part of the model in order"),
        (((0, 1),), (0, 1), (0, 0), "must run through every part"),
        (((0, 1), (2,)), (0, 1, 0), (0, 1, 0), r"chain \(2,\) must run"),
        (((0, 0),), (0, 0), (0, 1), "each of the 2 stages once"),
        (((0, 5),), (0, 0), (0, 1), "each of the 2 stages once"),
    ],
)
def test_placements_that_cannot_be(chains, rank_of, part_of, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Placement(chains, rank_of, part_of)


@pytest.mark.parametrize(
    ("microbatches", "chains", "way_out"),
    [(1, 2, "; 2 would do"), (3, 2, "2 or 4"), (4, 3, "3 or 6"), (5, 3, "3 or 6")],
)
def test_chains_share_micro_batches_evenly(microbatches: int, chains: int, way_out: str) -> None:
    stages = tuple(range(chains))
    placement = Placement(tuple((s,) for s in stages), (0,) * chains, (0,) * chains)
    with pytest.raises(ScheduleError, match=re.escape(way_out)):
        Plan("test", placement, microbatches, ((),))


def test_a_plan_has_an_order_for_each_rank_and_a_micro_batch() -> None:
    with pytest.raises(ScheduleError, match="1 orders for 2 pipeline ranks"):
        Plan("test", straight(2), 1, ((),))
    with pytest.raises(ScheduleError, match="at least 1"):
        Plan("test", straight(1), 0, ((),))


@given(name=st.sampled_from(names()), seed=st.integers(0, 2**32), swaps=st.integers(1, 4), lowered=st.booleans())
def test_a_shuffled_plan_is_sound_or_refused(name: str, seed: int, swaps: int, lowered: bool) -> None:
    """Whatever is swapped, moved, dropped or doubled: a ScheduleError, or a plan that plays to its end."""
    score = build(name, 4, 8)
    if lowered:
        score = add_p2p(add_optimizer_step(add_gradient_reduction(score)))
    chance = random.Random(seed)
    rows = [list(order) for order in score.orders]
    for _ in range(swaps):
        here, there = chance.choice(rows), chance.choice(rows)
        i, j = chance.randrange(len(here)), chance.randrange(len(there))
        match chance.randrange(5):
            case 0:
                here[i], here[(i + 1) % len(here)] = here[(i + 1) % len(here)], here[i]
            case 1:
                here[i], there[j] = there[j], here[i]
            case 2:
                there.insert(j, here.pop(i))
            case 3:
                there.insert(j, here[i])
            case 4:
                del here[i]
    shuffled = replace(score, orders=tuple(map(tuple, rows)))
    if refusal(shuffled) is not None:
        return
    assert sum(map(len, levels(shuffled))) == sum(map(len, rows))
    assert get(name).placement(4, get(name).default_stages) == shuffled.placement


@given(name=st.sampled_from(names()), seed=st.integers(0, 2**32))
def test_every_step_of_a_circle_is_true(name: str, seed: int) -> None:
    """Each rank named does stop at that slot when the plan is played, waiting for an op that has not been played."""
    chance = random.Random(seed)
    score = build(name, 4, 8)
    rows = [list(order) for order in score.orders]
    for row in rows:
        i, j = chance.randrange(len(row)), chance.randrange(len(row))
        row.insert(j, row.pop(i))
    shuffled = replace(score, orders=tuple(map(tuple, rows)))
    error = refusal(shuffled)
    if error is None:
        return
    assert isinstance(error, DeadlockError)  # nothing is missing: only the order can be wrong
    at, played = stuck(shuffled)
    pattern = r"rank (\d+) waits at (\S+) for (\w+), which stands (?:at or behind (\S+)|in the same slot) on rank (\d+)"
    steps = re.findall(pattern, str(error))
    assert steps
    for (rank, here, need, there, target), following in zip(steps, [*steps[1:], steps[0]], strict=True):
        assert str(rows[int(rank)][at[int(rank)]]) == here
        assert parse_slot(need).first not in played
        assert target == following[0]
        assert there in ("", str(rows[int(target)][at[int(target)]]))


def refusal(score: Plan) -> ScheduleError | None:
    """What `check` says against a plan; any other exception is a bug."""
    try:
        check(score)
    except ScheduleError as error:
        return error
    return None


def stuck(score: Plan) -> tuple[list[int], set[Op]]:
    """Where each rank stops, and what has been played by then: the rule applied until nothing moves."""
    present = {op for _, op in score.ops()}
    at, played, moved = [0] * len(score.orders), set[Op](), True
    while moved:
        moved = False
        for rank, order in enumerate(score.orders):
            while at[rank] < len(order) and all(
                played.issuperset(needs(op, score.placement, present, score.microbatches_per_chain))
                for op in order[at[rank]].ops
            ):
                played.update(order[at[rank]].ops)
                at[rank] += 1
                moved = True
    return at, played
