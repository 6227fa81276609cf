"""What holds for every schedule whose activations leave for the host and come back, whatever the copies last."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cost.measured import MeasuredCost
from parsim.cost.unit import UnitCost
from parsim.errors import ScheduleError
from parsim.plan import (
    COMPUTE,
    Kind,
    Op,
    Plan,
    Slot,
    add_gradient_reduction,
    add_offload,
    add_optimizer_step,
    check,
)
from parsim.schedules import Size, build, get, names
from parsim.sim import Noise, compile_plan, play, play_events, prices, recording
from parsim.sim.longest_path import play_levels, play_rows
from tests.sim.lower_bound import lower_bound

SIZES = [(1, 1), (1, 4), (2, 4), (3, 7), (4, 8), (4, 11), (6, 12), (8, 20)]


def is_legal(name: str, size: Size) -> bool:
    """Whether the schedule is defined at this size."""
    try:
        get(name).check(size)
    except ScheduleError:
        return False
    return True


CASES = [
    pytest.param(name, pp, m, v, id=f"{name}-p{pp}-m{m}-v{v}")
    for name in names()
    for pp, m in SIZES
    for v in (1, 2, 3)
    if is_legal(name, Size(pp, m, v))
]


@dataclass(frozen=True)
class LayeredCost:
    """Ops of `layers` layers, each of which takes 1 forward and 2 back (I and W 1 each), and copies of one layer's
    bytes that take `copy`; a copy may be under way beside every layer but the one it belongs to.
    """

    layers: int
    copy: float

    def seconds(self, slot: Slot) -> float:
        if slot.first.kind in (Kind.OFFLOAD, Kind.RELOAD):
            return self.layers * self.copy
        each = {Kind.F: 1.0, Kind.B: 2.0, Kind.I: 1.0, Kind.W: 1.0}
        return sum(each.get(op.kind, 0.0) for op in slot.ops) * self.layers

    def hop_seconds(self, source: int, target: int) -> float:
        return 0.25

    def lag_seconds(self, copy: Op, slot: Slot | None) -> float:
        layers, each = self.layers, self.copy
        if slot is None:
            return -min(2, layers) * each
        layer = self.seconds(slot) / layers
        if copy.kind is Kind.OFFLOAD:  # layer n's copy may begin once n + 1 layers are done
            return max((n + 1) * layer - n * each for n in range(layers)) - layers * layer
        return -min(n * layer + (layers - 1 - n) * each for n in range(layers))


def offloaded(name: str, pp: int, m: int, v: int) -> tuple[Plan, Plan]:
    """A schedule's plan, and the same with the copies of all stages."""
    plan = build(name, pp, m, v)
    moved = add_offload(plan, range(plan.placement.stages))
    return tuple(add_optimizer_step(add_gradient_reduction(each)) for each in (plan, moved))  # type: ignore[return-value]


@pytest.mark.parametrize(("name", "pp", "m", "v"), CASES)
def test_every_schedule_plays_with_copies(name: str, pp: int, m: int, v: int) -> None:
    plan, moved = offloaded(name, pp, m, v)
    check(moved)
    bare, program = compile_plan(plan), compile_plan(moved)
    assert [[s for s in order if s.first.kind in COMPUTE] for order in moved.orders] == [
        [s for s in order if s.first.kind in COMPUTE] for order in plan.orders
    ]
    least = 0.0
    for copy in (0.0, 0.1, 0.7, 1.0, 3.0):
        cost = LayeredCost(3, copy)
        without = play(bare, prices(bare, cost)).makespan
        priced = prices(program, cost)
        played = play_rows(program, priced)
        for other in (play_levels(program, priced), play_events(program, priced)):
            assert abs(other.ends - played.ends).max() <= 1e-9 * played.makespan
        assert played.makespan >= max(without, least, float(lower_bound(program, priced)[0])) - 1e-9
        least = played.makespan
        if copy == 0:
            assert played.makespan == pytest.approx(without, rel=1e-12)
        # Copies are never sooner than their data, nor what reads them sooner than they bring it.
        spans = {span.op: span for span in recording(program, played).spans}
        for op, span in spans.items():
            if op.kind is Kind.OFFLOAD:
                assert span.start_s >= spans[Op(op.stage, Kind.F, op.mb)].start_s - 1e-9
                assert spans[Op(op.stage, Kind.RELOAD, op.mb)].start_s >= span.end_s - 1e-9
            elif op.kind is Kind.RELOAD:
                back = spans.get(Op(op.stage, Kind.B, op.mb)) or spans[Op(op.stage, Kind.I, op.mb)]
                assert back.end_s >= span.end_s - 1e-9
                assert span.start_s >= spans[Op(op.stage, Kind.F, op.mb)].end_s - 1e-9


@pytest.mark.parametrize("name", names())
def test_both_players_agree_with_noise_and_rendezvous(name: str) -> None:
    _, moved = offloaded(name, 4, 8, get(name).default_stages)
    for sends in ("buffered", "rendezvous"):
        try:
            program = compile_plan(moved, sends)
        except ScheduleError:
            continue  # blocking sends deadlock in some schedules, with or without copies
        priced = prices(program, LayeredCost(4, 1.3))
        noise = Noise(0.1, {}, 7).multipliers(program, 4)
        path, events = play(program, priced, noise, join=2), play_events(program, priced, noise, join=2)
        assert abs(path.ends - events.ends).max() <= 1e-9 * path.makespan


def test_a_rank_alone_waits_for_the_first_layer_out_and_in() -> None:
    """F and B follow each other at once: the last layer's copy out and in shows; with a slow link more of them do."""
    plan, moved = offloaded("1f1b", 1, 1, 1)
    for copy, shows in ((0.5, 2 * 0.5), (1.0, 2.0)):
        program, bare = compile_plan(moved), compile_plan(plan)
        cost = LayeredCost(4, copy)
        extra = play(program, prices(program, cost)).makespan - play(bare, prices(bare, cost)).makespan
        assert extra == pytest.approx(shows)
    # copies of 3 beside layers of 1 and 2: out from 1 to 13 (F ends at 4), in from 13 to 25, the last layer's backward
    cost = LayeredCost(4, 3.0)
    assert play(compile_plan(moved), prices(compile_plan(moved), cost)).makespan == pytest.approx(1 + 12 + 12 + 2)


@given(
    st.integers(1, 5),
    st.floats(0, 4, allow_nan=False),
    st.sampled_from(["1f1b", "gpipe", "zb-h1", "interleaved"]),
    st.integers(1, 4),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_copies_are_bound_by_the_link(layers: int, copy: float, name: str, pp: int, rounds: int) -> None:
    """A step lasts no less than all copies of a rank in one direction, and no longer than with all of them in line."""
    plan, moved = offloaded(name, pp, pp * rounds, 2 if name == "interleaved" else 1)
    cost = LayeredCost(layers, copy)
    program, bare = compile_plan(moved), compile_plan(plan)
    step = play(program, prices(program, cost)).makespan
    stages = plan.placement.stages // plan.placement.ranks
    one_way = layers * copy * stages * pp * rounds
    assert step >= one_way
    in_line = play(bare, prices(bare, cost)).makespan + 2 * pp * one_way
    assert step <= in_line + 1e-9


def test_times_by_hand_play_copies_whole() -> None:
    _, moved = offloaded("1f1b", 1, 2, 1)
    program = compile_plan(moved)
    cost = UnitCost({"OFFLOAD": (0.5,), "RELOAD": (0.25,)})
    assert play(program, prices(program, cost)).makespan == 2 * (1 + 0.5 + 0.25 + 2)


def test_measured_times_know_no_copies() -> None:
    plan, moved = offloaded("1f1b", 2, 4, 1)
    cost = MeasuredCost(plan.placement, {"F": (1.0, 1.0), "B": (2.0, 2.0)}, 0.0)
    with pytest.raises(ScheduleError, match="know no copies to the host"):
        prices(compile_plan(moved), cost)
