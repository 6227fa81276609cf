"""Fluid flows against filling from scratch at every event, against what max-min fair means, and hand-made cases."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import SpecError
from parsim.network import filling
from parsim.network.drain import drain
from parsim.network.fluid import Fluid
from parsim.network.maxmin import Incidence, max_min_rates

CAPACITIES = st.lists(st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0.1, 100), min_size=1, max_size=8)


class Flow(NamedTuple):
    route: tuple[int, ...]
    size: float
    cap: float | None


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[float], list[tuple[float, Flow]]]:
    """Capacities, and flows with their starts."""
    capacities = draw(CAPACITIES)
    route = st.lists(st.integers(0, len(capacities) - 1), min_size=1, max_size=5).map(tuple)
    flow = st.builds(Flow, route, st.floats(0.1, 50), st.none() | st.floats(0.05, 20))
    starts = st.sampled_from([0.0, 1.0, 2.5]) | st.floats(0, 20)
    found = draw(st.lists(st.tuples(starts, flow), min_size=1, max_size=25))
    return capacities, sorted(found, key=lambda item: item[0])


def rates_from_scratch(capacities: Sequence[float], flows: Sequence[Flow]) -> list[float]:
    """Progressive filling as the textbook has it: the lowest link or cap first, one at a time."""
    rates: dict[int, float] = {}
    while len(rates) < len(flows):
        rising = [number for number in range(len(flows)) if number not in rates]
        levels = []
        for link, capacity in enumerate(capacities):
            taken = sum(rates[number] * flows[number].route.count(link) for number in rates)
            weight = sum(flows[number].route.count(link) for number in rising)
            if weight:
                levels.append(((capacity - taken) / weight, [n for n in rising if link in flows[n].route]))
        levels += [(cap, [number]) for number in rising if (cap := flows[number].cap) is not None]
        level, stopped = min(levels, key=lambda item: item[0])
        rates.update(dict.fromkeys(stopped, level))
    return [rates[number] for number in range(len(flows))]


def assert_max_min_fair(capacities: Sequence[float], flows: Sequence[Flow], rates: Sequence[float]) -> None:
    loads = [0.0] * len(capacities)
    for flow, rate in zip(flows, rates, strict=True):
        for link in flow.route:
            loads[link] += rate
    assert all(load <= capacity * (1 + 1e-9) for load, capacity in zip(loads, capacities, strict=True))
    for flow, rate in zip(flows, rates, strict=True):
        is_bound = any(
            loads[link] >= capacities[link] * (1 - 1e-9)
            and all(rate >= r * (1 - 1e-9) for f, r in zip(flows, rates, strict=True) if link in f.route)
            for link in flow.route
        )
        assert is_bound or (flow.cap is not None and rate == pytest.approx(flow.cap, rel=1e-9))


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_rates_are_those_of_filling_from_scratch_at_every_event(
    scene: tuple[list[float], list[tuple[float, Flow]]],
) -> None:
    capacities, coming = scene
    fluid, live, queue = Fluid(capacities), dict[int, Flow](), list(coming)
    while queue or live:
        now = min(queue[0][0] if queue else math.inf, fluid.next_end_s)
        for number in fluid.advance(now):
            del live[number]
        while queue and queue[0][0] <= now:
            flow = queue.pop(0)[1]
            live[fluid.start(flow.route, flow.size, flow.cap)] = flow
        rates = [fluid.rate(number) for number in live]
        assert rates == pytest.approx(rates_from_scratch(capacities, list(live.values())), rel=1e-9)
        assert_max_min_fair(capacities, list(live.values()), rates)
        assert fluid.flows == len(live)


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_every_byte_is_carried_once(scene: tuple[list[float], list[tuple[float, Flow]]]) -> None:
    capacities, coming = scene
    fluid = Fluid(capacities)
    flows = {fluid.start(flow.route, flow.size, flow.cap): flow for _, flow in coming}
    live, carried = set(flows), dict.fromkeys(flows, 0.0)
    while live:
        rates = {number: fluid.rate(number) for number in live}
        begin_s = fluid.now_s
        ended = fluid.advance(fluid.next_end_s)
        for number in live:
            carried[number] += rates[number] * (fluid.now_s - begin_s)
        live -= set(ended)
        for number in live:
            assert fluid.left_bytes(number) == pytest.approx(flows[number].size - carried[number], abs=1e-7)
    for number, flow in flows.items():
        assert carried[number] == pytest.approx(flow.size, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_arrays_fill_as_lists_do(scene: tuple[list[float], list[tuple[float, Flow]]]) -> None:
    capacities, coming = scene
    flows = [flow for _, flow in coming]
    uses = [sorted((link, flow.route.count(link)) for link in set(flow.route)) for flow in flows]
    incidence = Incidence(
        np.repeat(np.arange(len(flows)), [len(each) for each in uses]),
        np.array([link for each in uses for link, _ in each]),
        np.array([float(weight) for each in uses for _, weight in each]),
    )
    caps = np.array([math.inf if flow.cap is None else flow.cap for flow in flows])
    rates, bottlenecks = max_min_rates(np.array(capacities), incidence, caps)
    assert rates.tolist() == pytest.approx(rates_from_scratch(capacities, flows), rel=1e-9)
    for flow, rate, bottleneck in zip(flows, rates, bottlenecks, strict=True):
        assert bottleneck in flow.route or (bottleneck == -1 and rate == flow.cap)


@settings(max_examples=60, deadline=None)
@given(scenes(), st.sampled_from([0.001, 0.01, 0.05]))
def test_batches_are_near_the_exact_ends(scene: tuple[list[float], list[tuple[float, Flow]]], tolerance: float) -> None:
    capacities, coming = scene
    arguments = capacities, [f.route for _, f in coming], [f.size for _, f in coming], [start for start, _ in coming]
    caps = [flow.cap for _, flow in coming]
    exact = drain(*arguments, caps=caps)
    batched = drain(*arguments, tolerance=tolerance, caps=caps)
    assert (batched >= np.array(arguments[3])).all()
    # Few flows that start at any time: the bound is one batch for each event.
    assert np.abs(batched - exact).max() <= tolerance * len(coming) * exact.max()


def test_a_large_component_takes_the_arrays_and_equals_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(3)
    capacities = chance.uniform(1, 10, 90)
    routes = [tuple(chance.choice(90, 3, replace=False).tolist()) for _ in range(700)]
    sizes = chance.uniform(1, 2, 700)
    with_arrays = drain(capacities, routes, sizes)
    monkeypatch.setattr(filling, "_ARRAYS_FROM", 10**9)
    assert np.allclose(with_arrays, drain(capacities, routes, sizes), rtol=1e-9, atol=0)
    batched = drain(capacities, routes, sizes, tolerance=0.01)
    assert batched.max() == pytest.approx(with_arrays.max(), rel=0.01)
    assert np.abs(batched - with_arrays).mean() <= 0.01 * with_arrays.mean()


def test_what_shares_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []
    fluid = Fluid([1.0] * 100)
    numbers = [fluid.start((link,), 10.0) for link in range(100)]
    fluid.advance(1.0)
    really_set = Fluid._set

    def noted(self: Fluid, flow: filling.Flow, rate: float, bottleneck: filling.Link | None) -> None:
        solved.append(flow.number)
        really_set(self, flow, rate, bottleneck)

    monkeypatch.setattr(Fluid, "_set", noted)
    new = fluid.start((7,), 3.0)
    assert fluid.rate(new) == fluid.rate(numbers[7]) == 0.5
    assert sorted(set(solved)) == [7, new]


def test_known_shares() -> None:
    # Three flows over two links: the long one is held to half of the narrow link, the wide one gives the rest.
    fluid = Fluid([10.0, 4.0])
    wide, narrow, both = fluid.start([0], 80.0), fluid.start([1], 2.0), fluid.start([0, 1], 20.0)
    assert (fluid.rate(wide), fluid.rate(narrow), fluid.rate(both)) == (8.0, 2.0, 2.0)
    assert fluid.advance(1.0) == [narrow]
    assert (fluid.rate(wide), fluid.rate(both)) == (6.0, 4.0)
    assert fluid.left_bytes(both) == 18.0
    assert fluid.advance(5.5) == [both]
    assert fluid.rate(wide) == 10.0
    assert fluid.next_end_s == 5.5 + (72 - 6 * 4.5) / 10
    assert fluid.advance(math.inf) == [wide]
    assert fluid.next_end_s == math.inf
    assert fluid.now_s == 10.0


def test_weights_and_links_taken_twice_count_twice() -> None:
    fluid = Fluid([9.0, 100.0])
    twice, once = fluid.start([0, 1, 0], 1.0), fluid.start([0], 1.0)
    assert fluid.rate(twice) == fluid.rate(once) == 3.0
    weighted = Fluid([9.0, 100.0])
    found = [weighted.start([0, 1], 1.0, weights=[2.0, 1.0]), weighted.start([0], 1.0)]
    assert [weighted.rate(number) for number in found] == [3.0, 3.0]


def test_a_guard_that_a_route_avoids_is_none() -> None:
    # Links 0 and 1 are always taken together until the last flow takes 1 alone: then 1 is a bottleneck too.
    fluid = Fluid([4.0, 5.0, 1.0])
    pair = [fluid.start([0, 1], 100.0) for _ in range(2)]
    assert [fluid.rate(number) for number in pair] == [2.0, 2.0]
    late = fluid.start([1], 100.0)
    assert [fluid.rate(number) for number in [*pair, late]] == pytest.approx([5 / 3] * 3)
    capped = fluid.start([1, 2], 100.0, cap=0.5)
    assert [fluid.rate(number) for number in [*pair, late, capped]] == pytest.approx([1.5, 1.5, 1.5, 0.5])


def test_rounding_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parsim.network.fluid._RESUM_EVERY", 50)
    chance = np.random.default_rng(0)
    capacities = [1e9, 0.1, 3.0, 7e11]
    fluid, live = Fluid(capacities), dict[int, Flow]()
    for _ in range(400):
        flow = Flow(tuple(chance.choice(4, 2, replace=False).tolist()), float(chance.uniform(1, 1e6)), None)
        live[fluid.start(flow.route, flow.size)] = flow
        if len(live) > 12:
            for number in fluid.advance(fluid.next_end_s):
                del live[number]
    expected = rates_from_scratch(capacities, list(live.values()))
    assert [fluid.rate(number) for number in live] == pytest.approx(expected, rel=1e-7)


def test_flows_without_links_or_bytes() -> None:
    fluid = Fluid([1.0, math.inf])
    fluid.advance(2.0)
    local, limited, empty, free = fluid.start([], 5.0), fluid.start([], 5.0, cap=10.0), fluid.start([0], 0.0), None
    free = fluid.start([1], 5.0)
    assert fluid.rate(local) == math.inf
    assert fluid.rate(limited) == 10.0
    assert fluid.next_end_s == 2.0
    assert fluid.advance(2.0) == [local, empty, free]
    assert fluid.next_end_s == 2.5
    assert drain([1.0], [[], [0], [0]], [5.0, 0.0, 2.0]).tolist() == [0.0, 0.0, 2.0]
    assert drain([1.0], [[], [0], [0]], [5.0, 0.0, 2.0], tolerance=0.01).tolist() == [0.0, 0.0, 2.0]
    assert drain([1.0], [], []).size == drain([1.0], [], [], tolerance=0.01).size == 0


def test_starts_and_gaps() -> None:
    for tolerance in (0.0, 0.01):
        ends = drain([2.0], [[0], [0], [0]], [4.0, 2.0, 6.0], starts=[10.0, 1.0, 11.0], tolerance=tolerance)
        assert ends.tolist() == pytest.approx([13.0, 2.0, 15.0])


@pytest.mark.parametrize("capacity", [0.0, -1.0, math.nan, -math.inf])
def test_a_capacity_is_above_zero(capacity: float) -> None:
    with pytest.raises(SpecError, match=r"^link 1 carries .* bytes/s: more than 0"):
        Fluid([1.0, capacity])
    with pytest.raises(SpecError, match="link 0"):
        drain([capacity], [[0]], [1.0], tolerance=0.01)


@pytest.mark.parametrize("size", [-1.0, math.nan, math.inf, 10.0**305])
@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_a_size_is_a_finite_number(size: float, tolerance: float) -> None:
    with pytest.raises(SpecError, match=r"^a flow of .* bytes: 0 or more"):
        drain([1.0], [[0]], [size], tolerance=tolerance)


@pytest.mark.parametrize("cap", [0.0, -2.0, math.nan])
def test_a_cap_is_above_zero(cap: float) -> None:
    with pytest.raises(SpecError, match="cap"):
        Fluid([1.0]).start([0], 1.0, cap)


@pytest.mark.parametrize("route", [[1], [-1], [0, 7]])
def test_a_route_takes_links_that_exist(route: list[int]) -> None:
    with pytest.raises(SpecError, match="there are 1, from 0"):
        Fluid([1.0]).start(route, 1.0)


def test_what_else_is_wrong() -> None:
    fluid = Fluid([1.0])
    fluid.advance(3.0)
    for to_s in (2.0, math.nan):
        with pytest.raises(SpecError, match="time only goes on"):
            fluid.advance(to_s)
    with pytest.raises(SpecError, match="flow 9 is not on its way"):
        fluid.rate(9)
    with pytest.raises(SpecError, match="weights"):
        fluid.start([0], 1.0, weights=[1.0, 2.0])
    with pytest.raises(SpecError, match="weight 0 on link 0"):
        fluid.start([0], 1.0, weights=[0.0])
    for tolerance in (-0.1, 1.0, math.nan):
        with pytest.raises(SpecError, match="tolerance"):
            drain([1.0], [[0]], [1.0], tolerance=tolerance)
    with pytest.raises(SpecError, match="1 routes and 2 sizes"):
        drain([1.0], [[0]], [1.0, 2.0])
    for start in (-1.0, math.inf, math.nan):
        with pytest.raises(SpecError, match="start"):
            drain([1.0], [[0]], [1.0], [start])


def test_a_flow_that_would_take_for_ever_never_ends() -> None:
    fluid = Fluid([1e-290])
    fluid.start([0], 1e299)
    assert fluid.next_end_s == math.inf
    assert fluid.advance(math.inf) == []
