"""The player of two streams: what overlaps, what waits, and what an overlapped pair takes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.cost.segments import Block, Collective, Kernel, play, play_pair


def collective(seconds: float, overlaps: bool = False, contention: float = 0.0, axis: str = "tp") -> Collective:
    return Collective("all_reduce", axis, 0.0, 8, seconds, overlaps, contention)


times = st.floats(0.0, 10.0)
kernels = st.builds(Kernel, st.just("k"), times)
collectives = st.builds(collective, times, st.booleans(), st.floats(0.0, 1.0), st.sampled_from(["tp", "dp"]))
blocks = st.lists(st.lists(kernels | collectives, max_size=5).map(tuple), max_size=3)


def work(ops: list[Block]) -> float:
    return sum(segment.seconds for block in ops for segment in block)


def kernel_work(ops: list[Block]) -> float:
    return sum(segment.seconds for block in ops for segment in block if isinstance(segment, Kernel))


@given(blocks)
def test_an_op_lasts_its_kernels_and_what_communication_shows(op: list[Block]) -> None:
    played = play(op)
    assert played.seconds == pytest.approx(kernel_work(op) + sum(played.exposed.values()))
    assert kernel_work(op) * (1 - 1e-12) <= played.seconds <= work(op) * (1 + 1e-12) + 1e-12


@given(blocks)
def test_communication_shows_or_is_hidden(op: list[Block]) -> None:
    """Without contention the two are all of it; with it, what is hidden is no more than the kernels last."""
    calm = [tuple(s._replace(contention=0.0) if isinstance(s, Collective) else s for s in block) for block in op]
    played = play(calm)
    for axis in {*played.exposed, *played.hidden}:
        whole = sum(s.seconds for block in op for s in block if isinstance(s, Collective) and s.axis == axis)
        assert played.exposed.get(axis, 0.0) + played.hidden.get(axis, 0.0) == pytest.approx(whole)
    assert sum(play(op).hidden.values()) <= kernel_work(op) + 1e-9


@settings(max_examples=400)
@given(blocks, blocks)
def test_a_pair_takes_at_least_each_alone_and_at_most_both_in_turn(first: list[Block], second: list[Block]) -> None:
    pair, alone = play_pair(first, second), (play(first), play(second))
    assert pair.seconds >= max(p.seconds for p in alone) - 1e-9
    assert pair.seconds <= sum(p.seconds for p in alone) + 1e-9
    assert pair.seconds == pytest.approx(kernel_work(first) + kernel_work(second) + sum(pair.exposed.values()))


@given(blocks)
def test_an_op_beside_nothing_is_an_op_alone(op: list[Block]) -> None:
    assert play_pair(op, []).seconds == pytest.approx(play(op).seconds)


@pytest.mark.parametrize(("kernel", "communication"), [(10.0, 4.0), (4.0, 10.0), (5.0, 5.0)])
def test_overlap_takes_the_longer_and_a_share_of_the_shorter(kernel: float, communication: float) -> None:
    """max + c * min, the contention of the cost model."""
    played = play([(collective(communication, True, 0.25), Kernel("k", kernel))])
    assert played.seconds == pytest.approx(max(kernel, communication) + 0.25 * min(kernel, communication))


def test_what_does_not_overlap_adds() -> None:
    played = play([(Kernel("a", 3.0), collective(2.0), Kernel("b", 1.0))])
    assert played.seconds == 6.0
    assert played.exposed == {"tp": 2.0}


def test_a_block_waits_for_all_of_the_block_before() -> None:
    gather = collective(4.0, True, axis="dp")
    assert play([(gather, Kernel("a", 1.0)), (Kernel("b", 5.0),)]).seconds == 9.0
    assert play([(gather, Kernel("a", 1.0), Kernel("b", 5.0))]).seconds == 6.0


def test_a_collective_in_line_goes_before_those_that_overlap() -> None:
    """A layer's all-reduce does not wait for the gather of the next layer's parameters."""
    block = (collective(8.0, True, axis="dp"), Kernel("a", 1.0), collective(2.0), Kernel("b", 7.0))
    assert play([block]).seconds == 10.0


def test_communication_of_one_op_hides_in_the_other() -> None:
    """DualPipe's point: all-to-alls of a forward under the backward's matmuls and the other way round."""
    op = [(Kernel("a", 1.0), collective(1.0), Kernel("b", 1.0), collective(1.0))]
    assert play(op).seconds == 4.0
    pair = play_pair(op, op)
    assert pair.seconds == pytest.approx(5.0)
    assert pair.exposed == {"tp": pytest.approx(1.0)}
