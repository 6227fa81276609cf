"""Crowded experts in numbers: the step follows the maximum, a balance loss and a capacity give time back."""

from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.segments import Collective, Kernel
from parsim.model.routing import crowding_of, routing_document
from parsim.plan import Kind, Op, Slot, straight
from parsim.simulation import simulate
from parsim.spec import Run, run_from_document

SWITCH = {"name": "m", "layers": 4, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 32000}
SWITCH |= {"moe": {"experts": 8, "topk": 2, "expert_ffn": 14336}}
QUIET = {"cuda_graphs": "full"}


def run_of(**software: Any) -> Run:
    return run_from_document(
        {
            "model": SWITCH,
            "cluster": {"name": "dgx-h100", "nodes": 1},
            "layout": {"mesh": {"dp": 8}, "ep": 8},
            "batch": {"sequence_length": 4096, "global_batch_size": 32},
            "software": {**QUIET, **software},
        }
    )


def parts(run: Run, kind: Kind = Kind.F) -> dict[str, float]:
    """Seconds of a micro-batch by kernel, and by axis of collectives."""
    (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, kind, 0)))
    found: dict[str, float] = {}
    for segment in (segment for block in blocks for segment in block):
        name = segment.axis if isinstance(segment, Collective) else segment.name
        found[name] = found.get(name, 0.0) + segment.seconds
    return found


def test_row_32_the_step_follows_the_busiest_rank() -> None:
    """What the experts do grows with the maximum over the mean; everything else stays."""
    even, crowded = parts(run_of()), parts(run_of(router_skew=1.5))
    for name in ("permute", "expert_activation", "unpermute"):
        assert crowded[name] == pytest.approx(1.5 * even[name])
    for name in ("expert_fc1", "expert_fc2"):
        assert 1.3 * even[name] < crowded[name] < 1.5 * even[name]  # weights are read once
    assert 1.4 * even["ep"] < crowded["ep"] < 1.5 * even["ep"]  # a call costs the same
    rest = even.keys() - {"permute", "unpermute", "expert_fc1", "expert_fc2", "expert_activation", "ep"}
    assert {name: crowded[name] for name in rest} == {name: even[name] for name in rest}
    steps = [simulate(run_of(router_skew=skew)).step_time_s for skew in (1.0, 1.2, 1.5, 2.0, 4.0)]
    assert steps == sorted(steps)
    assert steps[0] == simulate(run_of()).step_time_s


@pytest.mark.parametrize("skew", [1.5, {"zipf": 0.8}, {"dirichlet": 1.0}])
def test_row_32_flop_are_those_of_the_model_however_they_are_spread(skew: Any) -> None:
    even, crowded = simulate(run_of()), simulate(run_of(router_skew=skew))
    assert crowded.waterfall.hardware_flops == pytest.approx(even.waterfall.hardware_flops)
    assert crowded.step_time_s > even.step_time_s
    assert crowded.document()["routing"]["busiest_rank_over_mean"] > 1.1
    assert any("busiest of 8 ep ranks" in warning for warning in crowded.warnings)


@pytest.mark.parametrize("skew", [2.0, {"zipf": 0.8}])
def test_row_33_a_balance_loss_gives_time_back_and_no_more(skew: Any) -> None:
    steps = [simulate(run_of(router_skew=skew, balance_loss=share)).step_time_s for share in (0.0, 0.3, 0.7, 1.0)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(simulate(run_of()).step_time_s)


def test_row_34_a_capacity_of_1280_tokens() -> None:
    """C = cf k T / E with 1.25, 2, 4,096 and 8; a fifth of it is padding where routing is even."""
    found = routing_document(run_of(capacity_factor=1.25))
    assert found is not None
    assert found["capacity_tokens"] == 1280
    assert found["dropped_share"] == 0.0
    assert found["padded_share"] == pytest.approx(0.2)


def test_row_34_what_is_dropped_grows_with_the_skew() -> None:
    dropped = [crowding_of(run_of(capacity_factor=1.25, router_skew={"zipf": s})).dropped for s in (0.0, 0.3, 0.6, 1.2)]
    assert dropped[0] < 0.01
    assert dropped == sorted(dropped)
    assert dropped[-1] > 0.2


def test_row_34_padding_travels_and_is_computed() -> None:
    """1.25 of the bytes and FLOP of even routing, whatever the skew; without padding the skew shows."""
    even, padded = parts(run_of()), parts(run_of(capacity_factor=1.25, router_skew={"zipf": 1.0}))
    latency = even["ep"] - (parts(run_of(capacity_factor=2.0))["ep"] - even["ep"])
    assert padded["ep"] - latency == pytest.approx(1.25 * (even["ep"] - latency))
    assert padded["permute"] == pytest.approx(1.25 * even["permute"])

    def flops(run: Run) -> float:
        (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, Kind.F, 0)))
        kernels = (s for block in blocks for s in block if isinstance(s, Kernel) and s.name.startswith("expert_fc"))
        return sum(kernel.flops for kernel in kernels)

    assert flops(run_of(capacity_factor=1.25)) == pytest.approx(1.25 * flops(run_of()))
    bare = run_of(capacity_factor=1.25, router_skew={"zipf": 1.0}, pad_to_capacity=False)
    assert flops(bare) == pytest.approx((1 - crowding_of(bare).dropped) * flops(run_of()))
    assert parts(bare)["permute"] <= padded["permute"]


def test_row_34_dropping_at_capacity_one_without_skew_is_balanced() -> None:
    assert simulate(run_of(routing="token_drop")).step_time_s == simulate(run_of()).step_time_s
