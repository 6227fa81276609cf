"""One stage: B, and I then W, give the gradients of plain autograd, whatever is frozen, recomputed or under way."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import executor.model
from executor.memory import TensorCount
from executor.model import Layer, PartModule, cross_entropy
from executor.stage import Stage
from tests.executor.decoders import BATCH, LENGTH, STYLES, activations, gradients, model_of, part, tokens

SPLITS = ["stored", "torch"]
MODES = ["none", "full", "selective"]
SCALE = 0.25
Gradients = dict[str, torch.Tensor]


def stages(style: str, place: str, mode: str = "none", split: Any = "stored", **options: Any) -> Stage:
    """A part of three layers: `place` is the "first", "middle", "last" or "whole" model."""
    dtype = options.pop("dtype", torch.float64)
    ends = {"first": place in ("first", "whole"), "last": place in ("last", "whole")}
    module = part(model_of(style), dtype=dtype, **ends)
    module.recompute(mode, 3)
    loss = cross_entropy if ends["last"] else None
    return Stage(module, loss=loss, scale=SCALE, first=ends["first"], split=split, **options)


def put_in(stage: Stage, mb: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return tokens(mb) if stage.module.ends_first is not None else activations(mb, dtype)


def come_back(stage: Stage, mb: int, dtype: torch.dtype = torch.float64) -> torch.Tensor | None:
    return None if stage.module.ends_last is not None else activations(100 + mb, dtype)


def forward(stage: Stage, mb: int) -> torch.Tensor:
    return stage.forward(mb, put_in(stage, mb), tokens(50 + mb))


def expected(stage: Stage, mbs: range) -> tuple[Gradients, list[torch.Tensor | None]]:
    """By plain autograd, with PyTorch's own linear and embedding."""
    module, back = stage.module, list[torch.Tensor | None]()
    before = [parameter.grad for parameter in module.parameters()]
    module.zero_grad(set_to_none=True)
    for mb in mbs:
        x, grad = put_in(stage, mb), come_back(stage, mb)
        if x.is_floating_point():
            x.requires_grad_()
        made = module(x)
        if grad is None:
            (cross_entropy(made, tokens(50 + mb)) * SCALE).backward()
        else:
            made.backward(grad)
        back.append(x.grad)
    found = gradients(module)
    for parameter, grad in zip(module.parameters(), before, strict=True):
        parameter.grad = grad
    return found, back


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`expected`, of a model whose linears and embeddings are PyTorch's."""

    def compute(stage: Stage, mbs: range) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr("executor.model.linear", nn.functional.linear)
            patch.setattr("executor.model.embedding", nn.functional.embedding)
            return expected(stage, mbs)

    return compute


def check(found: Gradients, wanted: Gradients, rtol: float = 1e-12) -> None:
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        apart = (found[name] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-6)
        assert apart <= rtol, (name, float(apart))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["first", "middle", "last", "whole"])
@pytest.mark.parametrize("style", STYLES)
def test_every_backward_gives_plain_autograd_s_gradients(
    style: str, place: str, mode: str, plain: Callable[..., Any]
) -> None:
    base = stages(style, place)
    wanted, back = plain(base, range(1))
    for split, is_cut in (("stored", False), ("stored", True), ("torch", True)):
        stage = stages(style, place, mode, split)
        made = forward(stage, 0)
        assert not made.requires_grad
        if is_cut:
            dx = stage.backward_input(0, come_back(stage, 0))
            stage.backward_weight(0)
        else:
            dx = stage.backward(0, come_back(stage, 0))
        check(gradients(stage.module), wanted)
        assert (dx is None) == (back[0] is None)
        if dx is not None:
            assert dx.is_contiguous()
            check({"x": dx}, {"x": back[0]})


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_micro_batches_under_way_do_not_meet(
    order: tuple[int, ...], place: str, split: str, plain: Callable[..., Any]
) -> None:
    stage = stages("gpt, tied", place, "full", split)
    wanted, back = plain(stage, range(3))
    for mb in range(3):
        forward(stage, mb)
    for mb in order:
        dx = stage.backward_input(mb, come_back(stage, mb))
        if dx is not None:
            check({"x": dx}, {"x": back[mb]})
    for mb in reversed(range(3)):
        stage.backward_weight(mb)
    check(gradients(stage.module), wanted)


@pytest.mark.parametrize("split", SPLITS)
def test_i_leaves_the_matrices_gradients_to_w(split: str) -> None:
    stage = stages("gpt", "middle", split=split)
    forward(stage, 0)
    stage.backward_input(0, come_back(stage, 0))
    after_i = set(gradients(stage.module))
    assert all("norm" in name for name in after_i), after_i
    stage.backward_weight(0)
    assert set(gradients(stage.module)) == {name for name, _ in stage.module.weights()}


def flat_gradients(module: nn.Module, value: float) -> dict[nn.Parameter, torch.Tensor]:
    """Views of one flat buffer as `.grad`, as a rank has them."""
    parameters = list(module.parameters())
    buffer = torch.full((sum(p.numel() for p in parameters),), value, dtype=parameters[0].dtype)
    views = dict(zip(parameters, buffer.split([p.numel() for p in parameters]), strict=True))
    for parameter, view in views.items():
        parameter.grad = view.view_as(parameter)
    return {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("place", ["whole", "middle"])
@pytest.mark.parametrize("split", SPLITS)
def test_gradients_are_added_in_place(split: str, place: str, is_cut: bool, plain: Callable[..., Any]) -> None:
    stage = stages("gpt, tied", place, split=split)
    wanted, _ = plain(stage, range(2))
    views = flat_gradients(stage.module, 3.0)
    for mb in range(2):
        forward(stage, mb)
        if is_cut:
            stage.backward_input(mb, come_back(stage, mb))
            stage.backward_weight(mb)
        else:
            stage.backward(mb, come_back(stage, mb))
    for parameter, view in views.items():
        assert parameter.grad is view
    check({name: gradient - 3.0 for name, gradient in gradients(stage.module).items()}, wanted, 1e-9)


def non_contiguous(grad: torch.Tensor) -> Iterator[torch.Tensor]:
    yield grad.transpose(0, 1).contiguous().transpose(0, 1)
    yield torch.stack((grad, grad), -1)[..., 0]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("style", ["grouped", "gpt"])
def test_gradients_that_arrive_need_not_be_contiguous(style: str, split: str, plain: Callable[..., Any]) -> None:
    base = stages(style, "middle")
    wanted, back = plain(base, range(1))
    grad = come_back(base, 0)
    assert grad is not None
    for odd in non_contiguous(grad):
        assert not odd.is_contiguous()
        stage = stages(style, "middle", split=split)
        forward(stage, 0)
        dx = stage.backward_input(0, odd)
        stage.backward_weight(0)
        assert dx is not None
        assert dx.is_contiguous()
        check({"x": dx, **gradients(stage.module)}, {"x": back[0], **wanted})


FROZEN = ["embedding", "layer1.query", "layer2.proj", "layer0.mlp.up.bias", "layer3.attention_norm", "head"]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("place", ["whole", "middle"])
def test_frozen_weights_get_no_gradient(place: str, is_cut: bool, split: str, plain: Callable[..., Any]) -> None:
    stage = stages("gpt", place, split=split)
    frozen = {name for name, _ in stage.module.weights() if name in FROZEN}
    for name, parameter in stage.module.weights():
        parameter.requires_grad_(name not in frozen)
    wanted, _ = plain(stage, range(1))
    assert set(wanted) == {name for name, _ in stage.module.weights()} - frozen
    forward(stage, 0)
    told: list[nn.Parameter] = []
    if is_cut:
        stage.backward_input(0, come_back(stage, 0))
        stage.backward_weight(0, told.append)
    else:
        stage.backward(0, come_back(stage, 0))
    check(gradients(stage.module), wanted)
    assert all(parameter.requires_grad for parameter in told)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", ["first", "middle"])
def test_a_part_may_be_frozen_altogether(place: str, split: str, plain: Callable[..., Any]) -> None:
    stage = stages("grouped", place, split=split)
    stage.module.requires_grad_(False)
    back = None if place == "first" else plain(stage, range(1))[1][0]
    for is_cut in (False, True):
        forward(stage, 0)
        grad = come_back(stage, 0)
        dx = stage.backward_input(0, grad) if is_cut else stage.backward(0, grad)
        if is_cut:
            stage.backward_weight(0)
        assert (dx is None) == (back is None)
        if dx is not None:
            check({"x": dx}, {"x": back})
        assert not gradients(stage.module)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, torch.bfloat16), (torch.bfloat16, None)])
def test_bf16_split_or_not_is_the_same(
    dtype: torch.dtype, autocast: torch.dtype | None, place: str, mode: str, plain: Callable[..., Any]
) -> None:
    options = {"dtype": dtype, "autocast": autocast}
    whole, cut = (stages("gpt", place, mode, **options) for _ in range(2))
    exact, _ = plain(stages("gpt", place), range(2))
    for stage in (whole, cut):
        for mb in range(2):
            stage.forward(mb, put_in(stage, mb, dtype), tokens(50 + mb))
    for mb in range(2):
        dx = whole.backward(mb, come_back(whole, mb, dtype))
        split = cut.backward_input(mb, come_back(cut, mb, dtype))
        cut.backward_weight(mb)
        assert (dx is None) == (split is None)
        assert dx is None or split is None or (dx.dtype is dtype and torch.equal(dx, split))
    found, same = gradients(cut.module), gradients(whole.module)
    assert all(gradient.dtype is dtype for gradient in found.values())
    check({n: g.double() for n, g in found.items()}, {n: g.double() for n, g in same.items()}, 1e-2)
    for name, gradient in exact.items():
        apart = (found[name].double() - gradient).norm() / gradient.norm().clamp_min(1e-6)
        assert "key.bias" in name or apart < 0.1, (name, float(apart))


# --- how often, and who is told


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often layers and core attentions were computed."""
    counted = {"layer": 0, "core": 0}
    layer, core = Layer.forward, executor.model.attend

    def count_layer(self: Layer, *args: Any) -> torch.Tensor:
        counted["layer"] += 1
        return layer(self, *args)

    def count_core(*args: Any) -> torch.Tensor:
        counted["core"] += 1
        return core(*args)

    monkeypatch.setattr(Layer, "forward", count_layer)
    monkeypatch.setattr(executor.model, "attend", count_core)
    return counted


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(
    ("mode", "again"),
    [("none", {"layer": 0, "core": 0}), ("full", {"layer": 3, "core": 3}), ("selective", {"layer": 0, "core": 4})],
)
def test_recompute_happens_once_in_i_and_never_in_w(
    mode: str, again: dict[str, int], place: str, calls: dict[str, int]
) -> None:
    stage = stages("grouped", place, mode)
    forward(stage, 0)
    assert calls == {"layer": 4, "core": 4}
    calls.update(layer=0, core=0)
    stage.backward_input(0, come_back(stage, 0))
    assert calls == again
    calls.update(layer=0, core=0)
    stage.backward_weight(0)
    assert calls == {"layer": 0, "core": 0}


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("style", ["gpt", "per-head norms"])
@pytest.mark.parametrize("split", SPLITS)
def test_each_weight_is_told_of_once(split: str, style: str, place: str, mode: str) -> None:
    """By the hook where autograd adds to it, by `done` where the stage does; its gradient is there by then."""
    stage = stages(style, place, mode, split)
    names = {parameter: name for name, parameter in stage.module.weights()}
    hooked, told = list[str](), list[str]()

    def hook(parameter: nn.Parameter) -> None:
        if parameter.grad is not None:  # autograd also calls it where a backward gave nothing: for the weights in I
            hooked.append(names[parameter])

    def done(parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        told.append(names[parameter])

    for parameter in names:
        parameter.register_post_accumulate_grad_hook(hook)
    forward(stage, 0)
    stage.backward_input(0, come_back(stage, 0))
    in_i = list(hooked)
    assert not told
    stage.backward_weight(0, done)
    assert sorted(hooked + told) == sorted(names.values())
    if split == "stored":
        assert hooked == in_i, "W runs no backward of autograd"
        assert all("norm" in name for name in in_i)


def test_a_gradient_may_be_taken_away_as_soon_as_it_is_told_of(plain: Callable[..., Any]) -> None:
    """So fp32 sums of bf16 weights' gradients are kept: nothing is held in `.grad`."""
    stage = stages("gpt, tied", "whole")
    wanted, _ = plain(stage, range(2))
    names = {parameter: name for name, parameter in stage.module.weights()}
    sums: Gradients = {}

    def take(parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            return
        name = names[parameter]
        sums[name] = sums[name] + parameter.grad if name in sums else parameter.grad
        parameter.grad = None

    for parameter in names:
        parameter.register_post_accumulate_grad_hook(take)
    for mb in range(2):
        forward(stage, mb)
        stage.backward_input(mb, None)
        stage.backward_weight(mb, take)
    check(sums, wanted)
    assert not gradients(stage.module)


# --- what is held


def layer_bytes(module: PartModule, mb_tokens: int, word: int) -> int:
    """What W needs of one layer: inputs and output gradients of its linears, each once."""
    model = module.model
    query, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    inputs = 2 * model.hidden + query + model.ffn  # of q, k, v together; of gate and up; of proj; of down
    outputs = query + 2 * kv + 2 * model.hidden + 2 * model.ffn
    return (inputs + outputs) * mb_tokens * word


@pytest.mark.parametrize("mode", MODES)
def test_between_i_and_w_only_the_linears_inputs_and_gradients_are_held(mode: str) -> None:
    stage = stages("grouped", "middle", mode)
    module = stage.module
    views = flat_gradients(module, 0.0)
    x, grad = put_in(stage, 0), come_back(stage, 0)
    assert grad is not None
    with TensorCount([*module.parameters(), *views.values(), x]) as count:
        stage.forward(0, x)
        grad = grad.clone()  # what came back is the gradient of the last layer's output, and held for it
        stage.backward_input(0, grad)
        del grad
        after_i = count.live_bytes
        stage.backward_weight(0)
        after_w = count.live_bytes
    assert after_i == len(module.layers) * layer_bytes(module, BATCH * LENGTH, 8)
    assert after_w == 0


def test_the_output_is_not_held_until_the_backward() -> None:
    stage = stages("grouped", "middle", "full")
    x, saved = put_in(stage, 0), 0
    with TensorCount([*stage.module.parameters(), x]) as count:
        made = stage.forward(0, x)
        saved = count.live_bytes
        size = made.untyped_storage().nbytes()
        del made
        assert count.live_bytes <= saved - size
        stage.forget()
        assert count.live_bytes == 0


@pytest.mark.parametrize("split", SPLITS)
def test_forget_drops_graphs_and_work(split: str) -> None:
    stage = stages("grouped", "middle", split=split)
    x, grad = put_in(stage, 0), come_back(stage, 0)
    assert grad is not None
    with TensorCount([*stage.module.parameters(), x, grad]) as count:
        for mb in range(3):
            stage.forward(mb, x)
        stage.backward_input(1, grad)
        assert count.live_bytes > 0
        stage.forget()
        stage.module.zero_grad(set_to_none=True)
        assert count.live_bytes == 0
    with pytest.raises(KeyError):
        stage.backward(0, grad)


def test_layers_of_a_first_stage_of_floats_need_no_input_gradient() -> None:
    stage = Stage(nn.Linear(4, 3), first=True, split="torch")
    stage.forward(0, torch.ones(2, 4))
    assert stage.backward_input(0, torch.ones(2, 3)) is None
    assert stage.module.weight.grad is None
    stage.backward_weight(0)
    assert torch.equal(stage.module.weight.grad, torch.full((3, 4), 2.0))
