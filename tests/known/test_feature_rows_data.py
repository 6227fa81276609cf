"""Data parallelism in numbers: states, reductions, ZeRO's traffic and FSDP's units, as its papers count them.

Everything is asked of the project: the memory ledger, the axes' collectives, the segments that a run plays.
"""

from collections import Counter
from typing import Any

import pytest

from parsim.axes.dp import DataAxis, sent_elements
from parsim.cost import RooflineCost
from parsim.cost.segments import Collective
from parsim.cost.step_end import StepEnd
from parsim.errors import LayoutError
from parsim.memory.states import bytes_per_parameter
from parsim.model.weights import layer_weights, parameters
from parsim.network.price import ring_bytes, ring_steps
from parsim.plan import Kind, Op, Slot, straight
from parsim.run_plan import plan_of
from parsim.simulation import simulate
from parsim.spec import Run, run_from_document

GPT_7_5B = {
    "name": "gpt-7.5b",
    "layers": 36,
    "hidden": 4096,
    "heads": 32,
    "ffn": 16384,
    "vocab": 51200,
    "tied_embeddings": True,
}
SMALL = {"name": "small", "layers": 4, "hidden": 1024, "heads": 8, "ffn": 4096, "vocab": 8192}


def run_of(model: dict[str, Any], dp: int, microbatches: int = 2, software: Any = None, **layout: Any) -> Run:
    """Plain data parallelism on DGX H100, with gradients of 16 bits and no padded vocabulary."""
    return run_from_document(
        {
            "model": {"gated_mlp": False, **model},
            "cluster": {"name": "dgx-h100", "nodes": max(1, dp // 8)},
            "layout": {"mesh": {"dp": dp}, **layout},
            "batch": {"sequence_length": 1024, "global_batch_size": microbatches * dp},
            "software": {"gradient_dtype": "bf16", "vocab_pad_multiple": None, **(software or {})},
        }
    )


def collectives(run: Run, kind: Kind) -> list[Collective]:
    """Those of dp in an op that run beside its layers."""
    (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, kind, 0)))
    found = [s for block in blocks for s in block if isinstance(s, Collective)]
    return [s for s in found if s.axis == "dp" and s.overlaps]


def sent(found: list[Collective]) -> float:
    return sum(ring_bytes(each.kind, each.size_bytes, each.group) for each in found)


@pytest.mark.parametrize("dp", [1, 8, 64])
def test_row_1_replicas_do_not_shrink_the_states(dp: int) -> None:
    """16 bytes a parameter on every rank: 7.5 B make 120 GB, more than a GPU of 80 GB has."""
    run = run_of(GPT_7_5B, dp)
    result = simulate(run)
    held = result.memory[0].persistent
    states = sum(held[name] for name in ("parameters", "gradients", "optimizer"))
    assert states == pytest.approx(16 * parameters(run.model))
    assert states / 1e9 == pytest.approx(120, rel=0.01)
    assert result.fits is False


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75), (1024, 1.998)])
def test_row_3_a_replicas_gradients_on_a_ring(ranks: int, factor: float) -> None:
    """2 P bytes (n-1)/n in 2(n-1) steps: 6,000,000 of a million fp32 gradients on four ranks."""
    comm = DataAxis(ranks, gradient_bytes=4).reduction(1e6, scattered=False)
    assert ring_bytes(comm.kind, comm.size_bytes, ranks) == pytest.approx(4e6 * factor, rel=3e-4)
    assert ring_steps(comm.kind, ranks) == 2 * (ranks - 1)
    if ranks == 4:
        assert ring_bytes(comm.kind, comm.size_bytes, ranks) == 6_000_000


def test_row_4_what_is_reduced_beside_the_backward_shows_less() -> None:
    """One reduction behind the last backward shows whole, pieces beside it show the rest: of the same bytes."""
    shown = {
        overlap: simulate(run_of(SMALL, 64, software={"dp_overlap": overlap})).exposed_s["dp"]
        for overlap in (False, True)
    }
    assert 0 < shown[True] < 0.5 * shown[False]


def ends(run: Run) -> StepEnd:
    cost = RooflineCost(run, straight(1))
    backward, forward = (cost.seconds(Slot(Op(0, kind, 0))) for kind in (Kind.B, Kind.F))
    return cost.end_work(0).end(True, (backward, forward))


def test_row_4_buckets_of_ddp_show_less_than_one_and_send_the_same() -> None:
    """PyTorch DDP: 1 MiB, then 25 MiB each. One bucket begins when all gradients are there and shows whole."""
    sizes = {"one": "64 GiB", "ddp": "25 MiB", "tiny": "64 KiB"}
    runs = {
        name: run_of(
            SMALL, 64, software={"bucket_bytes": size, "first_bucket_bytes": "1 MiB" if name == "ddp" else None}
        )
        for name, size in sizes.items()
    }
    cost = {name: RooflineCost(run, straight(1)).end_work(0) for name, run in runs.items()}
    end = {name: ends(run) for name, run in runs.items()}
    assert end["one"].reduce_grad_s == pytest.approx(cost["one"].reduce_s)
    assert end["one"].hidden_reduction_s == pytest.approx(0.0)
    assert 0 < end["ddp"].reduce_grad_s < 0.5 * end["one"].reduce_grad_s
    assert cost["tiny"].reduce_s > 2 * cost["ddp"].reduce_s  # latency of every bucket
    sent_bytes = {name: sum(bucket.size_bytes for bucket in work.buckets) for name, work in cost.items()}
    assert sent_bytes["one"] == pytest.approx(sent_bytes["ddp"]) == pytest.approx(sent_bytes["tiny"])
    assert [bucket.size_bytes / 2**20 for bucket in cost["ddp"].buckets[:3]] == [1, 25, 25]
    exposed = {name: simulate(run).exposed_s["dp"] for name, run in runs.items()}
    assert exposed["ddp"] < exposed["one"]
    with pytest.raises(LayoutError, match=r"software\.bucket_bytes: zero 3"):
        run_of(SMALL, 64, fsdp=True, software={"bucket_bytes": "25 MiB"})


def test_row_9_three_quarters_of_the_states_are_the_optimizers() -> None:
    each = bytes_per_parameter(run_of(SMALL, 8))
    assert (each.parameters, each.gradients, each.optimizer) == (2, 2, 12)


@pytest.mark.parametrize(
    ("dp", "gigabytes"), [(64, (120.0, 31.41, 16.64, 1.88)), (8, (120.0, 41.25, 28.12, 15.0))], ids=["64", "8"]
)
def test_row_10_zero_cuts_states(dp: int, gigabytes: tuple[float, ...]) -> None:
    """1910.02054, table 1: 7.5 B parameters under stages 0 to 3."""
    for zero, expected in enumerate(gigabytes):
        each = bytes_per_parameter(run_of(GPT_7_5B, dp, zero=zero))
        assert 7.5 * (each.parameters + each.gradients + each.optimizer) == pytest.approx(expected, abs=0.006)


def layer_parameters(run: Run) -> float:
    """Matmul weights of all layers: what is gathered and scattered layer by layer."""
    layers = [weight for layer in range(run.model.layers) for weight in layer_weights(run.model, layer)]
    return sum(weight.size for weight in layers if weight.cut is not None)


@pytest.mark.parametrize("dp", [2, 8, 64])
def test_row_11_and_12_volumes_of_sharded_parameters(dp: int) -> None:
    """A gather in F, another and a scatter in B: 3 P (n-1)/n elements a micro-batch; 2 where nothing is gathered twice,
    1 where gradients alone are cut, none where they are reduced once a step.
    """
    volumes = {
        (3, True): (1, 2),
        (3, False): (1, 1),
        (2, True): (0, 1),
        (1, True): (0, 0),
    }
    for (zero, reshard), expected in volumes.items():
        run = run_of(SMALL, dp, zero=zero, reshard_after_forward=reshard)
        whole = 2 * sent_elements(layer_parameters(run), dp, 3) / 3
        assert tuple(sent(collectives(run, kind)) / whole for kind in (Kind.F, Kind.B)) == pytest.approx(expected)


def test_row_12_a_unit_is_gathered_twice_and_scattered_once() -> None:
    run = run_of(SMALL, 8, fsdp=True, zero=3)
    counts = [Counter(each.kind for each in collectives(run, kind)) for kind in (Kind.F, Kind.B)]
    assert counts == [{"all_gather": 4}, {"all_gather": 4, "reduce_scatter": 4}]


@pytest.mark.parametrize("microbatches", [1, 3, 8])
def test_row_11_accumulation_multiplies_what_is_cut_in_every_micro_batch(microbatches: int) -> None:
    """ZeRO-3 gathers and scatters m times; ZeRO-1 reduces once a step however many micro-batches there are."""
    traffic = {}
    for zero in (1, 3):
        run = run_of(SMALL, 8, microbatches, zero=zero)
        plan = plan_of(run)
        traffic[zero] = sum(sent(collectives(run, op.kind)) for _, op in plan.ops() if op.kind in (Kind.F, Kind.B))
        assert sum(op.kind is Kind.REDUCE_GRAD for _, op in plan.ops()) == 1
    volume = 2 * sent_elements(layer_parameters(run), 8, 3)
    assert traffic == {1: 0, 3: pytest.approx(microbatches * volume)}


@pytest.mark.parametrize("zero", [0, 1])
def test_row_11_zero_1_sends_what_replicas_send(zero: int) -> None:
    """A scatter of gradients and a gather of parameters for an all-reduce: 2 P (n-1)/n elements."""
    axis = DataAxis(64, gradient_bytes=2)
    comms = [axis.reduction(7.5e9, scattered=zero > 0), *([axis.gather(7.5e9)] if zero else [])]
    bytes_sent = sum(ring_bytes(comm.kind, comm.size_bytes, 64) for comm in comms)
    assert bytes_sent == pytest.approx(2 * sent_elements(7.5e9, 64, zero))
    assert bytes_sent / (2 * 7.5e9) == pytest.approx(2 * 63 / 64)
