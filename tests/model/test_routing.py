"""Routing as draws and as loads: what is permuted comes back, what is drawn adds up, what is dropped is counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import LayoutError
from parsim.model.routing import EVEN, capacity, chosen_experts, crowding_of, permutation
from parsim.spec import Layout, Mesh, ModelSpec, MoeSpec, Run, Software, load_cluster
from parsim.spec.router_skew import RouterSkew

SKEWS = [{"zipf": 0.7}, {"dirichlet": 2.0}, {"max_over_mean": 2.5}]


def run_of(ep: int = 8, moe: MoeSpec | None = None, seed: int = 0, **software: object) -> Run:
    moe = moe or MoeSpec(experts=32, topk=4, expert_ffn=512)
    model = ModelSpec(name="m", layers=2, hidden=512, heads=8, ffn=1024, vocab=8192, moe=moe)
    return Run(
        model=model,
        cluster=load_cluster("dgx-h100"),
        layout=Layout(mesh=Mesh(dp=8), ep=ep),
        batch={"sequence_length": 2048, "global_batch_size": 8},
        software=Software(**software),
        seed=seed,
    )


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 2**31))
def test_what_is_permuted_comes_back(experts: int, rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    going, tokens = random.integers(0, experts, rows), random.normal(size=(rows, 3))
    found = permutation(going, experts)
    assert (tokens[found.order][found.inverse] == tokens).all()
    assert (np.diff(going[found.order]) >= 0).all()
    assert found.counts.tolist() == [int((going == expert).sum()) for expert in range(experts)]


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_no_expert_is_chosen_twice(topk: int, seed: int) -> None:
    moe = MoeSpec(experts=16, topk=topk, expert_ffn=8, groups=4, topk_groups=2 + topk // 8)
    random = np.random.default_rng(seed)
    chosen = chosen_experts(random.dirichlet(np.ones(16)), moe, 50, random)
    assert all(len(set(row)) == topk for row in chosen.tolist())
    assert all(len({expert // 4 for expert in row}) <= moe.topk_groups for row in chosen.tolist())


def test_choices_follow_the_weights() -> None:
    """Of three experts with weights 1, 2, 5, one is drawn: 1/8, 2/8, 5/8. Of two drawn, the last is left out where
    it is never first or second: with 1/8 * 2/7 + 2/8 * 1/6.
    """
    weights, random = np.array([1.0, 2.0, 5.0]), np.random.default_rng(1)
    one = chosen_experts(weights, MoeSpec(experts=3, topk=1, expert_ffn=1), 40_000, random)
    assert np.bincount(one[:, 0]) / 40_000 == pytest.approx(np.array([1, 2, 5]) / 8, abs=0.01)
    two = chosen_experts(weights, MoeSpec(experts=3, topk=2, expert_ffn=1), 40_000, random)
    assert 1 - (two == 2).any(axis=1).mean() == pytest.approx(1 / 8 * 2 / 7 + 2 / 8 * 1 / 6, abs=0.01)


@pytest.mark.parametrize("skew", SKEWS)
@pytest.mark.parametrize("ep", [1, 4, 8])
def test_loads_add_up_to_the_tokens(skew: dict[str, float], ep: int) -> None:
    if skew.get("max_over_mean", 0) > ep:
        return
    found = crowding_of(run_of(ep, router_skew=skew))
    assert found.computed == pytest.approx(1.0)
    assert (found.dropped, found.padded) == (0.0, 0.0)
    assert 1.0 <= found.busiest(2) <= found.busiest(4) <= found.busiest(8) <= found.busiest_expert


def test_a_stated_crowd_is_what_was_stated() -> None:
    found = crowding_of(run_of(router_skew=2.5))
    assert found.busiest(8) == pytest.approx(2.5)
    assert found.busiest(2) == pytest.approx((2.5 + 3 * 5.5 / 7) / 4)  # one of four ranks of a domain is crowded


@pytest.mark.parametrize("skew", SKEWS)
def test_a_seed_draws_the_same_again(skew: dict[str, float]) -> None:
    first, again, other = (crowding_of(run_of(router_skew=skew, seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert (first == other) == ("max_over_mean" in skew)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.sampled_from(SKEWS))
def test_a_balance_loss_takes_its_share_away(share: float, skew: dict[str, float]) -> None:
    whole = crowding_of(run_of(router_skew=skew)).busiest(8)
    left = crowding_of(run_of(router_skew=skew, balance_loss=share)).busiest(8)
    assert left - 1 == pytest.approx((1 - share) * (whole - 1), abs=1e-9)


def test_skews_grow_with_what_is_said() -> None:
    busiest = [crowding_of(run_of(router_skew={"zipf": s})).busiest(8) for s in (0.2, 0.5, 1.0, 2.0)]
    assert busiest == sorted(busiest)
    busiest = [crowding_of(run_of(router_skew={"dirichlet": a})).busiest(8) for a in (100, 10, 1, 0.1)]
    assert busiest == sorted(busiest)


def test_a_capacity() -> None:
    assert capacity(1.25, 2, 4096, 8) == 1280
    assert capacity(1.0, 2, 4097, 8) == 1025


@pytest.mark.parametrize("padded", [True, False])
def test_less_is_dropped_the_more_an_expert_takes_and_the_evener_the_router(padded: bool) -> None:
    def dropped(factor: float, zipf: float) -> float:
        return crowding_of(run_of(capacity_factor=factor, router_skew={"zipf": zipf}, pad_to_capacity=padded)).dropped

    assert dropped(32 / 4, 1.0) == 0.0  # room for every token
    assert 0 < dropped(2.0, 1.0) < dropped(1.25, 1.0) < dropped(1.0, 1.0) < 1
    assert dropped(1.25, 0.1) < dropped(1.25, 0.5) < dropped(1.25, 1.0)


def test_padding_fills_every_expert_to_its_capacity() -> None:
    found = crowding_of(run_of(capacity_factor=1.25, router_skew={"zipf": 0.8}))
    assert set(found.loads[0]) == {1.25}
    assert found.padded == pytest.approx(1 - (1 - found.dropped) / 1.25)
    bare = crowding_of(run_of(capacity_factor=1.25, router_skew={"zipf": 0.8}, pad_to_capacity=False))
    assert (bare.dropped, bare.padded) == (found.dropped, 0.0)
    assert bare.computed == pytest.approx(1 - bare.dropped)
    assert bare.busiest_expert <= 1.25


def test_balanced_routing_is_even() -> None:
    assert crowding_of(run_of()) is EVEN
    assert crowding_of(run_of(routing="learned")) is EVEN
    assert crowding_of(run_of(routing="token_drop")).busiest(8) == 1.0
    assert run_of(router_skew=1.5).software.routing == "learned"
    assert run_of(capacity_factor=1.5).software.routing == "token_drop"


@pytest.mark.parametrize(
    ("software", "said"),
    [
        ({"routing": "balanced", "router_skew": 1.5}, "routing balanced has no skew"),
        ({"routing": "learned", "capacity_factor": 1.5}, "token_drop has a capacity_factor"),
        ({"router_skew": {"zipf": 1.0, "dirichlet": 1.0}}, "state one of"),
        ({"router_skew": {}}, "state one of"),
        ({"router_skew": 0.5}, "greater than or equal to 1"),
        ({"router_skew": 9}, "1 to 8 would do"),
    ],
)
def test_what_cannot_be_is_refused(software: dict[str, object], said: str) -> None:
    with pytest.raises((ValueError, LayoutError), match=said):
        run_of(**software)


def test_skews_read_as_they_are_written() -> None:
    assert RouterSkew.model_validate(2).model_dump() == {"max_over_mean": 2.0, "zipf": None, "dirichlet": None}
    run = run_of(router_skew={"zipf": 0.5})
    assert Run.model_validate(run.document()) == run
