"""Decoders: their weights are the memory model's, and their layers what the formulas say."""

import math

import pytest
import torch

from executor.attention import Kernels
from executor.initial import fill
from executor.model import PartModule, cross_entropy, part_module
from executor.split_backward import linear
from parsim.errors import LayoutError
from parsim.model.weights import model_weights
from parsim.spec import load_model, load_run
from parsim.spec.catalogue import names
from tests.executor.decoders import HIDDEN, LENGTH, STYLES, VOCAB, activations, gradients, model_of, part, tokens

MODELS = [name for name in names("models") if load_model(name).moe is None and load_model(name).mla is None]


@pytest.mark.parametrize("name", MODELS)
def test_all_parts_together_have_the_model_s_weights(name: str) -> None:
    model = load_model(name)
    parts, found = min(model.layers, 3), {}
    cuts = [model.layers * i // parts for i in range(parts + 1)]
    for i in range(parts):
        ends = {"first": i == 0, "last": i == parts - 1}
        module = PartModule(model, range(cuts[i], cuts[i + 1]), device="meta", dtype=torch.bfloat16, **ends)
        for weight, parameter in module.weights():
            assert weight not in found or (weight == "embedding" and model.tied_embeddings and i == parts - 1)
            found[weight] = tuple(parameter.shape)
        assert sum(1 for _ in module.weights()) == sum(1 for _ in module.parameters())
    assert found == {weight.name: weight.shape for weight in model_weights(model)}


@pytest.mark.parametrize("style", STYLES)
def test_parts_make_what_the_whole_makes(style: str) -> None:
    model, targets = model_of(style), tokens(1)
    whole, parts = part(model), [part(model, i, 2) for i in range(2)]
    logits = whole(tokens())
    assert logits.shape == (*targets.shape, VOCAB)
    loss = cross_entropy(logits, targets)
    loss.backward()
    in_parts = parts[1](parts[0](tokens()))
    cross_entropy(in_parts, targets).backward()
    torch.testing.assert_close(in_parts, logits, rtol=1e-12, atol=1e-12)
    summed: dict[str, torch.Tensor] = {}
    for module in parts:
        for name, gradient in gradients(module).items():
            summed[name] = summed[name] + gradient if name in summed else gradient
    expected = gradients(whole)
    assert set(summed) == set(expected) == {weight.name for weight in model_weights(model)}
    for name, gradient in expected.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-11, atol=1e-13, msg=name)
        assert gradient.abs().max() > 0, f"{name} has no influence"


def test_a_shared_embedding_gets_both_gradients_in_one() -> None:
    model, targets = model_of("gpt, tied"), tokens(1)
    whole, first, last = part(model), part(model, 0, 2), part(model, 1, 2)
    last.share_embedding(first)
    assert last.embedding is first.embedding
    cross_entropy(whole(tokens()), targets).backward()
    cross_entropy(last(first(tokens())), targets).backward()
    torch.testing.assert_close(gradients(first)["embedding"], gradients(whole)["embedding"], rtol=1e-11, atol=1e-13)


# --- an independent forward, written from the formulas, one head and one position at a time


def by_hand(module: PartModule, number: int, x: torch.Tensor) -> torch.Tensor:
    """Layer `number` of a part on x [s, hidden]."""
    model, layer = module.model, module.layers[number]
    weights = dict(layer.named())

    def affine(row: torch.Tensor, name: str) -> torch.Tensor:
        made = weights[name] @ row
        return made + weights[f"{name}.bias"] if f"{name}.bias" in weights else made

    def norm(row: torch.Tensor, name: str) -> torch.Tensor:
        if f"{name}.bias" not in weights:
            return weights[name] * row / math.sqrt((row * row).mean() + 1e-5)
        centred = row - row.mean()
        return weights[name] * centred / math.sqrt((centred * centred).mean() + 1e-5) + weights[f"{name}.bias"]

    def placed(row: torch.Tensor, place: int) -> torch.Tensor:
        if model.positions != "rope":
            return row
        half = len(row) // 2
        made = row.clone()
        for i in range(half):
            turn = place * 10_000.0 ** (-2 * i / len(row))
            made[i] = row[i] * math.cos(turn) - row[half + i] * math.sin(turn)
            made[half + i] = row[half + i] * math.cos(turn) + row[i] * math.sin(turn)
        return made

    def heads(row: torch.Tensor, name: str, count: int, place: int | None) -> list[torch.Tensor]:
        made = list(affine(row, name).view(count, model.head_dim))
        if place is None:
            return made
        normed = [norm(head, f"{name}_norm") for head in made] if model.qk_norm == "per_head" else made
        return [placed(head, place) for head in normed]

    def mlp(row: torch.Tensor) -> torch.Tensor:
        up = affine(row, "mlp.up")
        if model.gated_mlp:
            gate = affine(row, "mlp.gate")
            return affine(gate / (1 + torch.exp(-gate)) * up, "mlp.down")
        return affine(0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))), "mlp.down")

    every = model.sliding_window_every
    window = model.sliding_window if model.sliding_window and (module.first_layer + number) % every == 0 else len(x)
    rows = [norm(row, "attention_norm") for row in x]
    query = [heads(row, "query", model.heads, place) for place, row in enumerate(rows)]
    key = [heads(row, "key", model.kv_heads, place) for place, row in enumerate(rows)]
    value = [heads(row, "value", model.kv_heads, None) for row in rows]
    made = []
    for place in range(len(x)):
        mixed = []
        for head in range(model.heads):
            group = head * model.kv_heads // model.heads
            seen = range(max(0, place - window + 1), place + 1)
            scores = torch.stack([query[place][head] @ key[other][group] for other in seen])
            chances = torch.exp(scores / math.sqrt(model.head_dim))
            mixed.append(sum(c * value[other][group] for c, other in zip(chances / chances.sum(), seen, strict=True)))
        attended = x[place] + affine(torch.cat(mixed), "proj")
        inner = x[place] if model.parallel_residual else attended
        made.append(attended + mlp(norm(inner, "mlp_norm")))
    return torch.stack(made)


@pytest.mark.parametrize("style", STYLES)
def test_a_part_computes_what_the_formulas_say(style: str) -> None:
    model = model_of(style)
    module = part(model)
    weights = dict(module.weights())
    with torch.no_grad():
        found = module(tokens())
        for index, line in enumerate(tokens()):
            x = weights["embedding"][line]
            if "positions" in weights:
                x = x + weights["positions"][: len(line)]
            for number in range(model.layers):
                x = by_hand(module, number, x)
            normed = module.ends_last.norm(x, "final_norm")
            head = weights["embedding" if model.tied_embeddings else "head"]
            torch.testing.assert_close(found[index], normed @ head.t(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("style", STYLES)
def test_no_token_sees_a_later_one(style: str) -> None:
    module = part(model_of(style))
    changed = tokens()
    changed[:, 4] = (changed[:, 4] + 1) % VOCAB
    with torch.no_grad():
        before, after = module(tokens()), module(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    """With the same token everywhere, every position's attention is the same mean, however far it is."""
    module = part(model_of("grouped"))
    with torch.no_grad():
        same = module(torch.full((1, LENGTH), 3))
    torch.testing.assert_close(same, same[:, :1].expand_as(same), rtol=1e-10, atol=1e-12)


def test_cross_entropy_is_the_mean_over_tokens_in_fp32() -> None:
    logits, targets = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(5, (2, 3))
    chances = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
    expected = -torch.log(chances.gather(-1, targets[..., None])).mean()
    torch.testing.assert_close(cross_entropy(logits, targets), expected)
    assert cross_entropy(logits.bfloat16(), targets).dtype is torch.float32


@pytest.mark.parametrize("mode", ["none", "full", "selective"])
@pytest.mark.parametrize("style", ["grouped", "gpt, tied", "sliding window"])
def test_recompute_changes_nothing_but_time(style: str, mode: str) -> None:
    plain, again = part(model_of(style)), part(model_of(style))
    again.recompute(mode, 3)
    for module in (plain, again):
        cross_entropy(module(tokens()), tokens(1)).backward()
    expected, found = gradients(plain), gradients(again)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_autocast_computes_in_bf16_and_keeps_the_stream_in_fp32() -> None:
    module = part(model_of("grouped"), 1, 4, dtype=torch.float32)
    x = activations(dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made = module(x)
        assert linear(x, dict(module.layers[0].named())["query"]).dtype is torch.bfloat16
    assert made.dtype is torch.float32
    exact = part(model_of("grouped"), 1, 4)(activations())
    assert 0 < (made - exact).abs().max() / exact.abs().max() < 2e-2
    made.sum().backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in module.parameters())


def test_weights_depend_on_seed_and_name_alone() -> None:
    run = load_run("tiny-local")
    whole = dict(part_module(run, 0, 1, "cpu").weights())
    for parts in (2, 4):
        for number in range(parts):
            for name, parameter in part_module(run, number, parts, "cpu").weights():
                assert torch.equal(parameter, whole[name]), name
    other = dict(part_module(run.model_copy(update={"seed": run.seed + 1}), 0, 1, "cpu").weights())
    drawn = [name for name in whole if not name.endswith("norm")]
    assert all(not torch.equal(whole[name], other[name]) for name in drawn)
    assert not torch.equal(whole["layer0.query"], whole["layer1.query"])
    narrow = dict(part_module(run, 0, 1, "cpu", torch.bfloat16).weights())
    assert all(torch.equal(narrow[name], whole[name].bfloat16()) for name in whole)
    rows = whole["embedding"]
    assert rows.shape[1] >= HIDDEN
    assert float(rows.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(("name", "word"), [("deepseek-v3", "moe"), ("mixtral-8x7b", "moe")])
def test_models_that_it_cannot_build_are_refused_in_a_line(name: str, word: str) -> None:
    run = load_run("tiny-local").model_copy(update={"model": load_model(name)})
    with pytest.raises(LayoutError, match=rf"^model\.{word}: [^\n]+ would do$"):
        part_module(run, 0, 1, "meta")


# --- kernels: scores made whole, and what is dropped


@pytest.mark.parametrize("style", ["grouped", "gpt", "sliding window", "parallel residual"])
def test_scores_made_whole_give_the_same(style: str) -> None:
    model = model_of(style)
    fused = part(model)
    whole = PartModule(
        model,
        range(4),
        first=True,
        last=True,
        device="cpu",
        dtype=torch.float64,
        kernels=Kernels(unfused_attention=True),
    )
    whole.load_state_dict(fused.state_dict())
    for module in (fused, whole):
        cross_entropy(module(tokens()), tokens(1)).backward()
    torch.testing.assert_close(whole(tokens()), fused(tokens()), rtol=1e-11, atol=1e-12)
    for name, gradient in gradients(fused).items():
        torch.testing.assert_close(gradients(whole)[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("mode", ["full", "selective"])
@pytest.mark.parametrize("kernels", [Kernels(True, 0.3, 0.0), Kernels(hidden_dropout=0.3), Kernels(True, 0.2, 0.2)])
def test_what_is_computed_again_drops_the_same(kernels: Kernels, mode: str) -> None:
    """The same gradients as without recomputation, from the same seed; and other ones from another seed."""
    module = PartModule(
        model_of("gpt"), range(4), first=True, last=True, device="cpu", dtype=torch.float64, kernels=kernels
    )
    for name, parameter in module.weights():
        fill(parameter, name, 5, 4)
    found = []
    for seed, recompute in ((1, "none"), (1, mode), (2, "none")):
        module.recompute(recompute, 4)
        module.zero_grad()
        torch.manual_seed(seed)
        cross_entropy(module(tokens()), tokens(1)).backward()
        found.append(gradients(module)["layer1.mlp.up"])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)
    assert not torch.allclose(found[2], found[0])
