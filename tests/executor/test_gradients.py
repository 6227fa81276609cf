"""Buckets, main gradients and the optimizer's masters, on one rank; several ranks are in test_parity.py."""

import pytest
import torch
from torch import nn

from executor.bucket import cut_into_buckets
from executor.device import CpuDevice
from executor.gradients import Gradients
from executor.groups import Groups, holders_of_parts, lane_of, tied_ranks
from executor.optimizer import Master, Optimizer
from parsim.plan import looped, mirrored, straight, vee
from parsim.spec import Mesh


def weights(dtype: torch.dtype = torch.float32) -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(size, dtype=dtype))) for name, size in (("a", 4), ("b", 3), ("c", 5))]


def gradients(named: list[tuple[str, nn.Parameter]], dtype: torch.dtype, **options: object) -> Gradients:
    return Gradients(
        {0: named},
        straight(1),
        Groups(Mesh(), 0),
        CpuDevice(),
        dtype=dtype,
        master_dtype=dtype,
        learning_rate=0.1,
        **options,  # type: ignore[arg-type]
    )


def test_buckets_take_the_last_weights_first() -> None:
    names = [[name for name, _ in bucket] for bucket in cut_into_buckets(weights(), 24, 4)]
    assert names == [["c", "b"], ["a"]]
    assert cut_into_buckets(weights(), 20, 4)[0][0][0] == "c"
    assert [len(bucket) for bucket in cut_into_buckets(weights(), 1, 4)] == [1, 1, 1]
    assert [len(bucket) for bucket in cut_into_buckets(weights(), 10**6, 4)] == [3]
    assert cut_into_buckets([], 1, 4) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_micro_batches_are_summed_in_the_wider_type(dtype: torch.dtype) -> None:
    named = weights(dtype)
    held = gradients(named, torch.float32)
    for _step in range(2):
        held.begin()
        for factor in (1.0, 2.0, 1e-3):  # in bf16 alone the last one would be lost
            for _, parameter in named:
                (parameter * factor).sum().backward()
        held.reduce(0)
        held.wait(0)
        for name, parameter in named:
            found = held.reduced()[name]
            assert found.dtype is torch.float32
            expected = 3.0 + float(torch.tensor(1e-3, dtype=dtype))
            torch.testing.assert_close(found, torch.full_like(found, expected))
            assert parameter.shape == found.shape


def test_a_split_backward_reports_what_it_adds() -> None:
    named = weights(torch.bfloat16)
    held = gradients(named, torch.float32)
    held.begin()
    parameter = named[1][1]
    parameter.grad = torch.ones_like(parameter)
    held.done(parameter)
    assert parameter.grad is None
    assert float(held.reduced()["b"].sum()) == 3.0


def test_the_step_is_adamw_on_masters() -> None:
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(16, dtype=torch.bfloat16))
    master = nn.Parameter(weight.detach().float())
    gradient = torch.randn(16)
    ours = Optimizer([Master(weight.data, gradient)], 0.1, torch.float32)
    theirs = torch.optim.AdamW([master], lr=0.1, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(3):
        ours.step()
        master.grad = gradient.clone()
        theirs.step()
    assert torch.equal(weight.data, master.data.bfloat16())
    assert ours.state_bytes >= 3 * 16 * 4
    assert gradient.shape == (16,)


def test_nothing_to_step_is_no_error() -> None:
    empty = Optimizer([], 0.1, torch.float32)
    empty.step()
    assert empty.state_bytes == 0


def test_buckets_are_launched_only_when_their_last_gradient_is_there() -> None:
    """The first step learns what the last op adds to; from the second on a bucket does not wait for the op's end."""
    named = weights()
    held = gradients(named, torch.float32, bucket_bytes=1)
    launched: list[list[str]] = []

    def look() -> None:
        launched.append([name for bucket in held.buckets[0] if bucket.is_launched for name in bucket.names])

    for _ in range(2):
        held.begin()
        named[2][1].sum().backward()  # c is complete before the last op
        held.expect_last(0)
        look()
        for _, parameter in (named[1], named[0]):
            parameter.sum().backward()
            look()
        held.last_done(0)
        held.reduce(0)
        held.wait(0)
    assert launched == [[], [], [], ["c"], ["c", "b"], ["c", "b", "a"]]


def test_who_shares_what() -> None:
    assert holders_of_parts(mirrored(4)) == ((0, 3), (1, 2), (1, 2), (0, 3))
    assert holders_of_parts(vee(2)) == ((0,), (1,), (1,), (0,))
    assert tied_ranks(straight(4)) == (0, 3)
    assert tied_ranks(vee(4)) == (0,)
    assert tied_ranks(looped(2, 2)) == (0, 1)
    assert tied_ranks(mirrored(4)) == (0, 3)
    mesh = Mesh(dp=2, pp=3)
    assert lane_of(mesh, 3) == (1, 3, 5)
    groups = Groups(mesh, 3)
    assert groups.replicas() == (2, 3)
    assert groups.over_dp([0, 2]) == (0, 1, 4, 5)
    assert groups.make("alone", [3], "gloo") is None
    assert groups.make("others", [0, 1], "gloo") is None
