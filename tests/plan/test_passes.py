"""Passes: messages that no order of matching can deadlock, reductions, optimizer steps."""

import random
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan import (
    Kind,
    Op,
    Plan,
    add_gradient_reduction,
    add_optimizer_step,
    add_p2p,
    check,
    compute_only,
    mirrored,
    needs,
    parse_slot,
    straight,
)
from parsim.schedules import build, names

SENDS = (Kind.SEND_F, Kind.SEND_B)
RECEIVES = (Kind.RECV_F, Kind.RECV_B)


def plays_with_rendezvous(plan: Plan) -> bool:
    """Whether all rows end when a send blocks until the very next thing its receiver does is to receive it.

    Ranks do nothing but their next op; between two ranks messages match in order, as NCCL does it.
    """
    rows = [[op for slot in order for op in slot.ops] for order in plan.orders]
    rank_of, after, before = plan.placement.rank_of, plan.placement.after, plan.placement.before
    at = [0] * len(rows)
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while at[rank] < len(row) and row[at[rank]].kind not in (*SENDS, *RECEIVES):
                at[rank], moved = at[rank] + 1, True
            if at[rank] < len(row) and row[at[rank]].kind in SENDS:
                stage, kind, mb = row[at[rank]]
                target = after[stage] if kind is Kind.SEND_F else before[stage]
                peer = rank_of[target]
                wanted = Op(target, Kind.RECV_F if kind is Kind.SEND_F else Kind.RECV_B, mb)
                if at[peer] < len(rows[peer]) and rows[peer][at[peer]] == wanted:
                    at[rank], at[peer], moved = at[rank] + 1, at[peer] + 1, True
    return at == [len(row) for row in rows]


def random_sound_plan(chance: random.Random) -> Plan:
    """A random order in which a random schedule's ops can be played, cut into rows: nothing of the schedule's own."""
    plan = build(chance.choice(names()), chance.choice([2, 4]), 8)
    done: dict[int, list] = {rank: [] for rank in range(len(plan.orders))}
    waiting = [(rank, slot) for rank, order in enumerate(plan.orders) for slot in order]
    present, played = {op for _, op in plan.ops()}, set[Op]()
    while waiting:
        ready = [
            (rank, slot)
            for rank, slot in waiting
            if all(
                played.issuperset(needs(op, plan.placement, present, plan.microbatches_per_chain)) for op in slot.ops
            )
        ]
        rank, slot = chance.choice(ready)
        waiting.remove((rank, slot))
        done[rank].append(slot)
        played.update(slot.ops)
    return replace(plan, orders=tuple(tuple(done[rank]) for rank in done))


@given(seed=st.integers(0, 2**32))
def test_messages_of_any_sound_plan_pass_by_rendezvous(seed: int) -> None:
    plan = random_sound_plan(random.Random(seed))
    check(plan)
    reduced = add_optimizer_step(add_gradient_reduction(plan))
    check(reduced)
    lowered = add_p2p(reduced)
    check(lowered)
    assert plays_with_rendezvous(lowered)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("pp", "m"), [(2, 4), (4, 8), (8, 24)])
def test_messages_of_every_schedule_pass_by_rendezvous(name: str, pp: int, m: int) -> None:
    plan = build(name, pp, m)
    lowered = add_p2p(plan)
    assert plays_with_rendezvous(lowered)
    assert add_p2p(lowered) == lowered
    assert compute_only(lowered) == plan


def test_the_rendezvous_player_sees_a_deadlock() -> None:
    """The test's own player is no rubber stamp: two sends that face each other block."""
    rows = (
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
        "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
    )
    plan = Plan("test", straight(2), 2, tuple(tuple(map(parse_slot, row.split())) for row in rows))
    check(plan)  # sound where sends do not block
    assert not plays_with_rendezvous(plan)
    assert plays_with_rendezvous(add_p2p(plan))


def test_a_message_for_each_boundary_between_ranks_and_none_at_a_turn() -> None:
    for name, boundaries in [("1f1b", 3), ("interleaved", 7), ("zb-v", 6), ("dualpipe-v", 6), ("dualpipe", 6)]:
        plan = build(name, 4, 8)
        kinds = Counter(op.kind for _, op in add_p2p(plan).ops())
        for kind in (*SENDS, *RECEIVES):
            assert kinds[kind] == boundaries * plan.microbatches_per_chain
    assert add_p2p(build("zb-v", 1, 4)) == build("zb-v", 1, 4)


def test_one_stage_reduces_right_behind_its_last_backward() -> None:
    plan = add_optimizer_step(add_gradient_reduction(build("interleaved", 2, 2, 2)))
    assert " ".join(map(str, plan.orders[0])) == "0F0 0F1 2F0 2F1 2B0 2B1 2REDUCE_GRAD 0B0 0B1 0REDUCE_GRAD 0STEP 2STEP"


def test_stages_of_one_part_reduce_together_when_the_last_is_done() -> None:
    """Each rank finishes the part first that the other finishes last: were both to reduce at once, both would wait."""
    rows = ("0F0 3F0 0B0 3B0", "2F0 1F0 1B0 2B0")
    plan = Plan("test", mirrored(2), 2, tuple(tuple(map(parse_slot, row.split())) for row in rows))
    check(plan)
    reduced = add_gradient_reduction(plan)
    check(reduced)
    parts = [
        [plan.placement.part_of[slot.first.stage] for slot in order if slot.first.kind is Kind.REDUCE_GRAD]
        for order in reduced.orders
    ]
    assert parts[0] == parts[1]  # as collectives they meet in one order


@pytest.mark.parametrize(("pp", "m"), [(2, 4), (4, 8), (8, 20)])
def test_dualpipes_mirror_ranks_reduce_in_one_order(pp: int, m: int) -> None:
    reduced = add_gradient_reduction(build("dualpipe", pp, m))
    part_of = reduced.placement.part_of
    rows = [[part_of[s.first.stage] for s in row if s.first.kind is Kind.REDUCE_GRAD] for row in reduced.orders]
    assert rows == rows[::-1]
    assert sorted(chain.from_iterable(rows)) == sorted([*range(pp)] * 2)


def test_messages_of_a_plan_that_never_ends() -> None:
    plan = Plan("test", straight(1), 1, ((parse_slot("0B0"), parse_slot("0F0")),))
    with pytest.raises(DeadlockError):
        add_p2p(plan)
    with pytest.raises(ScheduleError, match="needs 0F0, which no rank plays"):
        add_p2p(replace(plan, orders=((parse_slot("0B0"),),)))
