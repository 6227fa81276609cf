"""Contention: exactly the other players' ends where nothing is shared, never an earlier end, and known slow-downs."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cost import RooflineCost
from parsim.cost.segments import Block, Collective, Kernel, play, play_pair
from parsim.errors import LayoutError, ScheduleError
from parsim.network.build import build as build_network
from parsim.network.traffic import Traffic, Use
from parsim.plan import COMPUTE, Kind, Plan, Slot, add_gradient_reduction, add_optimizer_step
from parsim.run_plan import plan_of
from parsim.schedules import build, get, names
from parsim.sim import (
    Played,
    Prices,
    Program,
    Sends,
    compile_plan,
    latest_first_starts,
    play_events,
    prices,
    recording,
)
from parsim.sim import play as play_path
from parsim.sim.contention import Load, play_loads
from parsim.sim.contention_run import RunLoads, play_contended
from parsim.sim.shared_links import SharedLinks
from parsim.spec import Batch, ClusterSpec, FabricSpec, Layout, Mesh, ModelSpec, NodeSpec, Run, Software, load_gpu

MakePlan = Callable[[int], Plan]


@dataclass
class RandomLoads:
    """Random segments, reductions and messages; `shared`: on three links that are too narrow, else on links of their
    own that are wide enough. Either way they are flows, not sums.
    """

    seed: int
    shared: bool
    plan: Plan
    traffic: Traffic = field(default_factory=lambda: Traffic(200, {}))
    _known: dict[object, Any] = field(default_factory=dict)

    def _drawn(self, key: object, draw: Callable[[random.Random], Any]) -> Any:
        if key not in self._known:
            self._known[key] = draw(random.Random(f"{self.seed} {key}"))
        return self._known[key]

    def _load(self, key: object) -> Load:
        def draw(chance: random.Random) -> Load:
            if not self.shared:
                link = 3 + len(self._known) % 190
                return Load(Use((link,), (0.01,), 100.0), 50.0 / 100)
            links = tuple(chance.sample(range(3), chance.randint(1, 3)))
            parts = tuple(chance.choice([0.5, 1.0, 2.0]) for _ in links)
            return Load(Use(links, parts, 1 / max(parts)), chance.choice([0.3, 1.0, 9.0]))

        load: Load = self._drawn(("load", key), draw)
        return load

    def segments(self, slot: Slot) -> tuple[tuple[Block, ...], ...]:
        if slot.first.kind not in COMPUTE:
            return ()
        return tuple(self._drawn(("blocks", op.stage, op.kind), random_blocks) for op in slot.ops)

    def collective(self, rank: int, segment: Collective) -> Load | None:
        return None if segment.axis == "tp" else self._load((rank, segment.axis))

    def reduction(self, slot: Slot, seconds: float) -> Load | None:
        return self._load(("reduce", slot.first.stage))

    def message(self, source: int, target: int, seconds: float) -> Load | None:
        return self._load(("message", source, target))

    def seconds(self, slot: Slot) -> float:
        """As a cost: the price of a slot is its segments' play."""
        ops = self.segments(slot)
        if not ops:
            return float(self._drawn(("end", slot.first.stage, slot.first.kind), lambda c: c.choice([0.0, 1.5, 4.0])))
        return (play(ops[0]) if len(ops) == 1 else play_pair(*ops)).seconds

    def hop_seconds(self, source: int, target: int) -> float:
        return float(self._drawn(("hop", source, target), lambda chance: chance.choice([0.0, 0.1, 0.7])))


def random_blocks(chance: random.Random) -> tuple[Block, ...]:
    def segment(axis: str) -> Kernel | Collective:
        seconds = chance.choice([0.0, 0.1, 0.25, chance.random()])
        if chance.random() < 0.6:
            return Kernel("kernel", seconds)
        overlaps = chance.random() < 0.6
        joins = overlaps and chance.random() < 0.3
        slows = chance.choice([0.0, 0.2, 1.0])
        return Collective("all_reduce", axis, 1.0, 2, seconds, overlaps, slows, joins)

    axes = [chance.choice(["tp", "cp", "ep"]) for _ in range(chance.randint(1, 3))]
    blocks = tuple(tuple(segment(axis) for _ in range(chance.randint(0, 4))) for axis in axes)
    return (*blocks, (Kernel("last", 0.5),))


def scene(plan: Plan, seed: int, shared: bool, sends: Sends) -> tuple[Program, Prices, RandomLoads]:
    loads = RandomLoads(seed, shared, plan)
    program = compile_plan(plan, sends)
    return program, prices(program, loads), loads


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), sends=st.sampled_from(["buffered", "rendezvous"]))
def test_where_nothing_is_shared_the_ends_are_those_of_the_other_players(
    make_plan: MakePlan, seed: int, sends: Sends
) -> None:
    plan = add_optimizer_step(add_gradient_reduction(make_plan(seed)))
    try:
        program, priced, loads = scene(plan, seed, False, sends)
    except ScheduleError:  # rendezvous deadlocks in some random plans
        return
    expected = play_path(program, priced).ends
    found = play_loads(program, priced, loads).ends
    # Messages of one boundary can meet each other: there are a hundredth of a link, so they never fill it.
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), sends=st.sampled_from(["buffered", "rendezvous"]))
def test_nothing_ends_earlier_than_without_contention(make_plan: MakePlan, seed: int, sends: Sends) -> None:
    plan = add_optimizer_step(add_gradient_reduction(make_plan(seed)))
    try:
        program, priced, loads = scene(plan, seed, True, sends)
    except ScheduleError:
        return
    alone = play_events(program, priced)
    found = play_loads(program, priced, loads)
    assert (found.ends >= alone.ends * (1 - 1e-12)).all()
    check_reads(program, found)


def check_reads(program: Program, found: Played) -> None:
    """What was played is a program whose longest path it is: everything that reads a play reads the contended times."""
    again = play_path(found.program, found.prices)
    assert np.allclose(again.ends, found.ends, rtol=1e-12, atol=1e-15)
    timeline = recording(found.program, found)
    assert timeline.makespan_s == pytest.approx(found.makespan)
    assert [str(slot) for slot in found.program.slots] == [str(slot) for slot in program.slots]
    for rank, seconds in enumerate(found.busy()):
        spans = [span for span in timeline.by_rank()[rank] if span.stream == "compute" and "pair" not in span.detail]
        assert seconds >= sum(span.end_s - span.start_s for span in spans) * (1 - 1e-9)
    starts = latest_first_starts(found.program, found)
    assert all(0 <= start <= found.makespan for start in starts)


@pytest.mark.parametrize("name", names())
def test_every_schedule_has_the_ends_of_the_other_players_where_nothing_is_shared(name: str) -> None:
    plan = add_optimizer_step(add_gradient_reduction(build(name, 4, 8, get(name).legal_stages[0])))
    program, priced, loads = scene(plan, 7, False, "buffered")
    assert np.allclose(play_loads(program, priced, loads).ends, play_path(program, priced).ends, rtol=1e-9, atol=0)


def test_it_really_slows_down() -> None:
    plan = add_optimizer_step(add_gradient_reduction(build("1f1b", 4, 8)))
    slower = 0
    for seed in range(10):
        program, priced, loads = scene(plan, seed, True, "buffered")
        slower += play_loads(program, priced, loads).makespan > play_events(program, priced).makespan * 1.01
    assert slower >= 5


def test_the_same_play_twice_is_the_same() -> None:
    plan = add_gradient_reduction(build("interleaved", 4, 8, 2))
    program, priced, loads = scene(plan, 3, True, "buffered")
    assert (play_loads(program, priced, loads).ends == play_loads(program, priced, loads).ends).all()


def test_several_lanes_are_refused() -> None:
    program, priced, loads = scene(build("gpipe", 2, 2), 0, True, "buffered")
    with pytest.raises(ScheduleError, match="2 lanes"):
        play_loads(program, priced, loads, np.ones((program.rows, 2)))


def test_multipliers_stretch_what_is_inside_too() -> None:
    program, priced, loads = scene(add_gradient_reduction(build("1f1b", 3, 4)), 1, False, "buffered")
    twice = np.full((program.rows, 1), 2.0)
    found = play_loads(program, priced, loads, twice).ends
    assert np.allclose(found, play_events(program, priced, twice).ends, rtol=1e-9, atol=0)


# Shared links by themselves


def carried(*activities: tuple[float, float, tuple[int, ...], float]) -> list[float]:
    """Ends of activities (start, seconds, links, bytes/s) on links of one byte/s each."""
    environment = simpy.Environment()
    links = SharedLinks(environment, 4)
    ends = [0.0] * len(activities)

    def run(number: int, start_s: float, seconds: float, on: tuple[int, ...], rate: float) -> Any:
        yield environment.timeout(start_s)
        yield links.start(Use(on, (1.0,) * len(on), 1.0), seconds, rate).done
        ends[number] = environment.now

    for number, activity in enumerate(activities):
        environment.process(run(number, *activity))
    environment.run()
    return ends


def test_two_on_one_link_take_the_sum() -> None:
    assert carried((0.0, 1.0, (0,), 1.0), (0.0, 2.0, (0,), 1.0)) == pytest.approx([2.0, 3.0])
    assert carried((0.0, 1.0, (0,), 1.0), (0.5, 1.0, (0,), 1.0)) == pytest.approx([1.5, 2.0])


def test_what_does_not_fill_the_link_together_is_not_slowed() -> None:
    assert carried((0.0, 1.0, (0,), 0.5), (0.0, 2.0, (0,), 0.5)) == [1.0, 2.0]
    assert carried((0.0, 1.0, (0,), 1.0), (0.0, 2.0, (1,), 1.0)) == [1.0, 2.0]


def test_the_lesser_part_is_served_first() -> None:
    # Max-min: 0.25 of the link is had in full, the other is left three quarters.
    assert carried((0.0, 1.0, (0,), 0.25), (0.0, 0.75, (0,), 1.0)) == pytest.approx([1.0, 1.0])


def test_a_rate_beyond_the_link_is_the_price_all_the_same() -> None:
    assert carried((0.0, 1.0, (0,), 7.0)) == [1.0]


# Runs

SMALL = ModelSpec(name="small", layers=8, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256)


def make_run(nics: int = 8, microbatches: int = 8, mesh: dict[str, int] | None = None, **layout: Any) -> Run:
    shape = Mesh(**(mesh or {}))
    node = NodeSpec(
        name="node",
        gpu=load_gpu("h100-80g-sxm"),
        gpus=8,
        nvlink_domain=8,
        nics=nics,
        nic_bytes_per_s=50e9,
        nic_latency_s=4.5e-6,
        nvlink_latency_s=5.9e-6,
    )
    fabric = FabricSpec(kind="ib", topology="rail_optimised", rails=nics)
    cut = Layout(mesh=shape, **layout)
    return Run(
        model=SMALL,
        cluster=ClusterSpec(name="cluster", node=node, nodes=-(-shape.size // 8), fabric=fabric),
        layout=cut,
        batch=Batch(sequence_length=2048, global_batch_size=microbatches * cut.micro_batch_size * shape.dp),
        software=Software(),
    )


def both(run: Run) -> tuple[Played, Played, RunLoads]:
    cost = RooflineCost(run, plan_of(run, None).placement)
    program = compile_plan(plan_of(run, None))
    priced = prices(program, cost)
    return play_events(program, priced), play_contended(program, priced, cost), RunLoads(program, cost)


def slowed(alone: Played, found: Played) -> dict[Kind, float]:
    """The largest stretch of any row of a kind."""
    before, after = (played.ends[1:, 0] - played.starts()[1:] for played in (alone, found))
    result: dict[Kind, float] = {}
    for slot, was, now in zip(found.program.slots, before, after, strict=True):
        if was:
            result[slot.first.kind] = max(result.get(slot.first.kind, 1.0), now / was)
    return result


def test_messages_and_reductions_over_one_nic_slow_each_other_and_tensor_groups_do_not() -> None:
    alone, found, loads = both(
        make_run(nics=1, mesh={"tp": 8, "dp": 4, "pp": 4}, schedule="interleaved", stages_per_rank=2)
    )
    assert found.makespan > alone.makespan * 1.001
    assert (found.ends >= alone.ends * (1 - 1e-12)).all()
    stretch = slowed(alone, found)
    assert stretch[Kind.REDUCE_GRAD] > 1.01
    assert [stretch[Kind.F], stretch[Kind.B]] == pytest.approx([1.0, 1.0], rel=1e-9)
    assert all(not use.links for activity, use in loads.traffic.uses.items() if activity.axis == "tp")


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
def test_tensor_groups_in_a_node_and_messages_apart_share_nothing(schedule: str) -> None:
    alone, found, _ = both(make_run(mesh={"tp": 8, "pp": 4}, schedule=schedule))
    assert np.allclose(found.ends, alone.ends, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [
        ({"tp": 16, "pp": 2}, {}),
        ({"tp": 4, "cp": 4, "dp": 2, "pp": 2}, {}),
        ({"tp": 2, "cp": 4, "dp": 2, "pp": 2}, {"cp_comm": "a2a"}),
        ({"dp": 16}, {"zero": 3}),
        ({"dp": 32}, {"zero": 3, "zero_group": 8}),
        ({"tp": 2, "dp": 8, "pp": 2}, {"schedule": "dualpipe"}),
        ({"tp": 1}, {}),
    ],
)
def test_every_kind_of_activity_has_links_and_is_never_faster(mesh: dict[str, int], layout: dict[str, Any]) -> None:
    alone, found, _ = both(make_run(mesh=mesh, **layout))
    assert (found.ends >= alone.ends * (1 - 1e-12)).all()
    assert found.makespan <= alone.makespan * 3
    check_reads(found.program, found)


def test_a_network_that_is_too_small_is_refused() -> None:
    run = make_run(mesh={"tp": 8, "pp": 4})
    plan = plan_of(run, None)
    program, cost = compile_plan(plan), RooflineCost(run, plan.placement)
    with pytest.raises(LayoutError, match="has 16 GPUs; the run has 32 ranks"):
        play_contended(program, prices(program, cost), cost, network=build_network(run.cluster, 2))
