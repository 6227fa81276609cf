"""Context parallelism in time: attention divides, the ring hides behind it, exchanges show."""

from collections.abc import Callable

import pytest

from parsim.cost import RooflineCost
from parsim.cost.constants import FITTED
from parsim.cost.segments import Collective, Kernel, play
from parsim.plan import Kind, Op, Slot, straight
from parsim.spec import Run

MakeRun = Callable[..., Run]


def core_seconds(cost: RooflineCost) -> float:
    (blocks,) = cost.segments(Slot(Op(0, Kind.F, 0)))
    return sum(s.seconds for b in blocks for s in b if isinstance(s, Kernel) and s.name == "attention")


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_ring_attention_divides_and_slows_by_three_percent_a_rank(make_run: MakeRun, cp: int) -> None:
    """F/cp * (1 + cp_kernel (cp-1)); Ulysses has whole sequences of some heads, and no such loss."""
    whole = core_seconds(RooflineCost(make_run(sequence=16384), straight(1)))
    ring = core_seconds(RooflineCost(make_run(sequence=16384, mesh={"cp": cp}), straight(1)))
    exchanged = core_seconds(RooflineCost(make_run(sequence=16384, mesh={"cp": cp}, cp_comm="a2a"), straight(1)))
    assert ring == pytest.approx(whole / cp * (1 + FITTED.cp_kernel * (cp - 1)))
    assert exchanged == pytest.approx(whole / cp)


def test_a_long_sequence_hides_the_ring_and_a_short_one_does_not(make_run: MakeRun) -> None:
    """At 128 k tokens the core outlasts the ring many times: 0.12 of the ring shows; at 2 k the ring is the longer."""
    shown = {}
    for sequence in (2048, 131072):
        cost = RooflineCost(make_run(sequence=sequence, mesh={"cp": 8}), straight(1))
        (blocks,) = cost.segments(Slot(Op(0, Kind.F, 0)))
        ring = sum(s.seconds for b in blocks for s in b if isinstance(s, Collective) and s.axis == "cp")
        shown[sequence] = cost.exposed_seconds(Slot(Op(0, Kind.F, 0)))["cp"] / ring
    assert shown[131072] == pytest.approx(FITTED.cp_contention)
    assert shown[2048] > 1.5 * shown[131072]


def test_a_joining_collective_ends_with_the_kernel_beside_it() -> None:
    """3 s of ring beside 1 s of core: the kernel behind waits, where a plain overlapping one would let it run."""
    ring = Collective("send", "cp", 1.0, 2, 3.0, overlaps=True, joins=True)
    block = (Kernel("qkv", 1.0), ring, Kernel("attention", 1.0), Kernel("proj", 5.0))
    assert play([block]).seconds == 9.0
    assert play([(block[0], ring._replace(joins=False), *block[2:])]).seconds == 7.0
    short = (Kernel("qkv", 1.0), ring._replace(seconds=0.5, contention=0.12), Kernel("attention", 1.0))
    assert play([short]).seconds == pytest.approx(2.0 + 0.12 * 0.5)


def test_a_ring_across_nodes_uses_the_ranks_own_nic(make_run: MakeRun) -> None:
    near = RooflineCost(make_run(mesh={"tp": 2, "cp": 4, "dp": 2}), straight(1))
    far = RooflineCost(make_run(mesh={"tp": 8, "cp": 2}), straight(1))
    gpu, rates = near.run.cluster.node.gpu.efficiency, {}
    for name, cost in (("near", near), ("far", far)):
        (blocks,) = cost.segments(Slot(Op(0, Kind.F, 0)))
        ring = next(s for b in blocks for s in b if isinstance(s, Collective) and s.axis == "cp")
        rates[name] = ring.size_bytes / ring.seconds
    assert rates["near"] == pytest.approx(450e9 * gpu.nvlink)
    assert rates["far"] == pytest.approx(50e9 * gpu.nic)


def test_gradients_are_reduced_over_cp_too(make_run: MakeRun) -> None:
    """Ranks of cp hold the same weights: with dp 1 a step still reduces them."""
    step = Slot(Op(0, Kind.STEP, None))
    plain, cut = (RooflineCost(make_run(mesh={"cp": cp}, software={"dp_overlap": False}), straight(1)) for cp in (1, 8))
    assert plain.exposed_seconds(step)["dp"] == 0
    assert cut.exposed_seconds(step)["dp"] > 0
    fsdp = RooflineCost(make_run(mesh={"cp": 8}, zero=3, fsdp=True), straight(1))
    assert fsdp.exposed_seconds(Slot(Op(0, Kind.F, 0)))["dp"] > 0
