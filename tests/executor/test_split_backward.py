"""Linears and embeddings whose weight gradients can wait: against PyTorch's own, op by op."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from executor.split_backward import (
    Work,
    add_to_gradient,
    cast,
    compute_dtype,
    embedding,
    linear,
    run_works,
    store_works,
)


def weights(*shape: int, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape))))


def backward(made: torch.Tensor, grad: torch.Tensor, is_cut: bool) -> None:
    """B, or I and then W."""
    works: list[Work] = []
    if is_cut:
        with store_works(works):
            made.backward(grad)
        run_works(works)
    else:
        made.backward(grad)
    assert not works


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("needs_x", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_linear_is_pytorch_s(shape: tuple[int, ...], needs_x: bool, has_bias: bool, is_cut: bool) -> None:
    x, weight = torch.randn(shape, dtype=torch.float64, requires_grad=needs_x), weights(4, 5)
    bias = weights(4) if has_bias else None
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None and leaf.requires_grad]
    grad = torch.randn(*shape[:-1], 4, dtype=torch.float64)
    theirs = functional.linear(x, weight, bias)
    wanted = torch.autograd.grad(theirs, leaves, grad)
    ours = linear(x, weight, bias)
    assert torch.equal(ours, theirs)
    backward(ours, grad, is_cut)
    for leaf, gradient in zip(leaves, wanted, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-12, atol=1e-13)
    assert needs_x or x.grad is None


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("held", [torch.float64, torch.float32, None])
def test_embedding_is_pytorch_s(held: torch.dtype | None, is_cut: bool) -> None:
    dtype = held or torch.float64
    table, tokens = weights(6, 3, dtype=dtype), torch.tensor([[1, 4, 1], [0, 1, 5]])
    grad = torch.randn(2, 3, 3, dtype=dtype)
    (wanted,) = torch.autograd.grad(functional.embedding(tokens, table), table, grad)
    if held is not None:
        table.grad = torch.ones_like(table)
    made = embedding(tokens, table)
    assert torch.equal(made, table[tokens])
    backward(made, grad, is_cut)
    assert table.grad is not None
    torch.testing.assert_close(table.grad - (0.0 if held is None else 1.0), wanted, rtol=1e-6, atol=1e-6)


def test_a_weight_used_twice_gets_both_gradients() -> None:
    table, tokens = weights(6, 4), torch.tensor([0, 3, 3])
    grad = torch.randn(3, 6, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(functional.linear(functional.embedding(tokens, table), table), table, grad)
    backward(linear(embedding(tokens, table), table), grad, is_cut=True)
    torch.testing.assert_close(table.grad, wanted, rtol=1e-12, atol=1e-13)


def test_work_waits_for_w_and_tells_of_each_weight() -> None:
    first, second, bias = weights(4, 3), weights(2, 4), weights(2)
    works: list[Work] = []
    told: list[nn.Parameter] = []
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    made = linear(linear(x, first), second, bias)
    with store_works(works):
        made.backward(torch.ones_like(made))
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in (first, second, bias))
    assert len(works) == 2
    run_works(works, told.append)
    assert [id(parameter) for parameter in told] == [id(second), id(bias), id(first)], "the last layer's come first"
    assert all(parameter.grad is not None for parameter in told)
    assert not works


def test_frozen_weights_leave_no_work() -> None:
    weight, bias = weights(4, 3).requires_grad_(False), weights(4).requires_grad_(False)
    works: list[Work] = []
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    with store_works(works):
        linear(x, weight, bias).sum().backward()
    assert not works
    assert x.grad is not None
    assert not linear(x.detach(), weight, bias).requires_grad


def test_storing_ends_with_its_block_even_after_an_error() -> None:
    outer, inner = list[Work](), list[Work]()
    weight = weights(2, 3)
    x = torch.randn(1, 3, dtype=torch.float64)

    def fail() -> None:
        with store_works(inner):
            linear(x, weight).sum().backward()
            raise ZeroDivisionError

    with store_works(outer):
        with pytest.raises(ZeroDivisionError):
            fail()
        linear(x, weight).sum().backward()
    assert (len(outer), len(inner)) == (1, 1)
    linear(x, weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_autocast_narrows_what_pytorch_s_would(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(2, 3, dtype=dtype), weights(4, 3, dtype=dtype), weights(4, dtype=dtype)
    assert cast(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = linear(x, weight, bias), functional.linear(x, weight, bias)
        tokens = torch.tensor([1])
        assert compute_dtype(x) is ours.dtype is theirs.dtype
        assert cast(tokens) is tokens
    assert torch.equal(ours, theirs)
    backward(ours, torch.ones_like(ours), is_cut=True)
    assert weight.grad is not None
    assert weight.grad.dtype is dtype


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, None])
def test_gradients_are_added_in_the_type_they_are_held_in(held: torch.dtype | None) -> None:
    weight = weights(4, 3, dtype=held or torch.float32)
    before = None if held is None else torch.ones_like(weight)
    weight.grad = before
    add_to_gradient(weight, torch.ones(4, 3, dtype=torch.bfloat16))
    assert weight.grad is not None
    assert weight.grad.dtype is weight.dtype
    assert torch.equal(weight.grad, torch.full_like(weight, 1.0 if held is None else 2.0))
    assert before is None or weight.grad is before
