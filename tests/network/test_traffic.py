"""Traffic: links that do not matter are left out, and no others; what each kind of activity takes of its links."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import LayoutError
from parsim.network.build import build
from parsim.network.fluid import Fluid
from parsim.network.traffic import Activity, traffic_between, traffic_of
from parsim.spec import Run, run_from_document

MODEL = {"name": "m", "layers": 8, "hidden": 1024, "heads": 16, "kv_heads": 8, "ffn": 4096, "vocab": 32000}


def make_run(**mesh: int) -> Run:
    dp = mesh.get("dp", 1)
    document = {
        "model": MODEL,
        "cluster": "dgx-h100",
        "layout": {"mesh": mesh},
        "batch": {"sequence_length": 2048, "global_batch_size": 8 * dp},
    }
    return run_from_document(document)


@st.composite
def loads(draw: st.DrawFn) -> tuple[dict[Activity, dict[int, float]], list[float]]:
    links = draw(st.integers(1, 8))
    capacities = draw(st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=links, max_size=links))
    load = st.dictionaries(st.integers(0, links - 1), st.sampled_from([0.5, 1.0, 2.0]), max_size=links)
    kinds = st.sampled_from(["tp", "dp", "pp"])
    found = draw(st.lists(st.tuples(kinds, load), min_size=1, max_size=6))
    return {Activity(kind, (number,)): each for number, (kind, each) in enumerate(found)}, capacities


@settings(max_examples=200, deadline=None)
@given(scene=loads(), data=st.data())
def test_the_links_that_are_kept_hold_all_the_others(
    scene: tuple[dict[Activity, dict[int, float]], list[float]], data: st.DataObject
) -> None:
    given_loads, capacities = scene
    traffic = traffic_between(given_loads, capacities)
    # Any of them at a time, messages more than once, at any rate that their links allow by themselves.
    every, few = Fluid(capacities), Fluid([1.0] * traffic.links)
    pairs = []
    for activity, load in given_loads.items():
        use = traffic.uses[activity]
        times = data.draw(st.integers(0, 2 if activity.axis == "pp" else 1))
        for _ in range(times):
            rate = data.draw(st.floats(0.1, 10))
            cap = min(rate, use.most_bytes_per_s)
            one = every.start(list(load), 10.0, cap, weights=list(load.values()))
            pairs.append((one, few.start(use.links, 10.0, cap, weights=use.parts)))
    for one, other in pairs:
        assert every.rate(one) == pytest.approx(few.rate(other), rel=1e-9)


def test_the_rate_of_an_activity_alone_is_that_of_its_fullest_link() -> None:
    run = make_run(tp=8, pp=4)
    found = traffic_of(run, [Activity("pp", (0, 1)), Activity("tp", (0,), 8)])
    # A message leaves by a NIC of 50 GB/s for each rank; PCIe is wider.
    assert found.uses[Activity("pp", (0, 1))].most_bytes_per_s == pytest.approx(50e9)
    assert found.uses[Activity("tp", (0,), 8)].links == ()
    assert found.uses[Activity("tp", (0,), 8)].most_bytes_per_s == pytest.approx(450e9)


def test_messages_of_neighbours_share_nics_where_they_leave_and_where_they_arrive() -> None:
    run = make_run(tp=8, pp=4)
    names = [Activity("pp", ends) for ends in ((0, 1), (1, 2), (1, 0), (2, 1))]
    uses = traffic_of(run, names).uses
    links = {name.ranks: set(uses[name].links) for name in names}
    assert links[1, 2] & links[1, 0]
    assert links[0, 1] & links[2, 1]
    assert not links[0, 1] & links[1, 2]
    assert not links[0, 1] & links[1, 0]


def test_a_ring_over_domains_takes_the_nics_of_all_its_ranks_there() -> None:
    run = make_run(dp=32)
    # Eight ranks in a domain: eight NICs carry an eighth each, so the ring's NVLinks are full first.
    assert traffic_of(run, [Activity("dp", (0,))]).uses[Activity("dp", (0,))].most_bytes_per_s == pytest.approx(400e9)
    run = make_run(tp=8, dp=4)
    assert traffic_of(run, [Activity("dp", (0,))]).uses[Activity("dp", (0,))].most_bytes_per_s == pytest.approx(50e9)


def test_sets_of_ranks_that_cut_states_are_groups_of_their_own() -> None:
    run = make_run(dp=32)
    run = run.model_copy(update={"layout": run.layout.model_copy(update={"zero": 3, "zero_group": 8})})
    inside, across = Activity("dp", (0,), 8), Activity("dp", (0,), 4)
    uses = traffic_of(run, [inside, across]).uses
    assert uses[inside].most_bytes_per_s == pytest.approx(450e9)
    assert uses[across].most_bytes_per_s == pytest.approx(50e9)


@pytest.mark.parametrize("size", [4, 64])
def test_an_exchange_is_even(size: int) -> None:
    run = make_run(dp=size)
    activity = Activity("dp", (0,), size, exchange=True)
    # What one rank sends leaves its node by (size-8)/(size-1); of wide exchanges sixteen distances stand for all.
    rate = traffic_of(run, [activity]).uses[activity].most_bytes_per_s
    expected = 450e9 if size <= 8 else 50e9 * (size - 1) / (size - 8)
    assert rate == pytest.approx(expected, rel=0.15)


def test_a_network_that_is_given_must_hold_the_ranks() -> None:
    run = make_run(tp=8, pp=4)
    with pytest.raises(LayoutError, match="16 GPUs"):
        traffic_of(run, [Activity("pp", (0, 1))], build(run.cluster, 2))


def test_nothing_to_do_shares_nothing() -> None:
    assert traffic_of(make_run(tp=1), []).links == 0
    assert traffic_between({Activity("tp", (0,)): {}}, [1.0]).uses[Activity("tp", (0,))].most_bytes_per_s == np.inf
