"""The single process: its data and its training, against a loop written with PyTorch's own parts."""

from typing import Any

import pytest
import torch

from executor.data import micro_batch
from executor.model import part_module
from executor.reference import reference
from parsim.spec import Run, load_run

GPT = {
    **{"name": "gpt", "layers": 2, "hidden": 32, "heads": 4, "ffn": 64, "vocab": 50, "gated_mlp": False},
    **{"norm": "layer", "tied_embeddings": True, "mlp_bias": True, "positions": "learned", "max_positions": 32},
}
LLAMA = {"name": "llama", "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "vocab": 50}


def run_of(model: Any = None, software: Any = None, seed: int = 3, **layout: Any) -> Run:
    document = load_run("tiny-local").document()
    stated = {"mesh": {"pp": 1, "dp": 1}, "schedule": "1f1b", "micro_batch_size": 2, "precision": "fp64", **layout}
    return Run.model_validate(
        {
            "model": model or LLAMA,
            "cluster": {**document["cluster"], "nodes": None},
            "layout": stated,
            "software": software or {},
            "batch": {"sequence_length": 12, "global_batch_size": 8},
            "seed": seed,
        }
    )


def test_data_depend_on_seed_step_and_micro_batch_alone() -> None:
    run = run_of()
    tokens, targets = micro_batch(run, 1, 2, "cpu")
    assert tokens.shape == targets.shape == (2, 12)
    assert tokens.dtype == targets.dtype == torch.int64
    assert torch.equal(tokens[:, 1:], targets[:, :-1]), "the target is the next token"
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 50
    again, _ = micro_batch(run_of(mesh={"pp": 2, "dp": 2}), 1, 2, "cpu")
    assert torch.equal(tokens, again)
    for step, index, seed in ((0, 2, 3), (1, 1, 3), (2, 1, 3), (1, 2, 4)):
        assert not torch.equal(tokens, micro_batch(run_of(seed=seed), step, index, "cpu")[0])


@pytest.mark.parametrize("model", [LLAMA, GPT])
def test_it_trains_like_a_plain_loop_over_the_whole_batch(model: Any) -> None:
    """All four micro-batches at once, AdamW of PyTorch: the mean loss and its gradients are the same."""
    run = run_of(model)
    found = reference(run, 3)
    module = part_module(run, 0, 1, "cpu")
    named = dict(module.weights())
    optimizer = torch.optim.AdamW(list(named.values()), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(3):
        pairs = [micro_batch(run, step, index, "cpu") for index in range(4)]
        tokens, targets = (torch.cat(part) for part in zip(*pairs, strict=True))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            assert set(found.gradients) == set(named)
            for name, parameter in named.items():
                torch.testing.assert_close(found.gradients[name], parameter.grad, rtol=1e-10, atol=1e-14)
        optimizer.step()
    assert found.losses == pytest.approx(losses, rel=1e-12)
    assert len(set(found.losses)) == 3


@pytest.mark.parametrize(
    ("precision", "software", "limit"),
    [
        ("fp32", {}, 1e-5),
        ("bf16", {}, 3e-2),
        ("bf16", {"params_dtype": "fp32"}, 3e-2),
    ],
)
def test_narrower_numbers_are_near_the_exact_ones(precision: str, software: Any, limit: float) -> None:
    exact, found = reference(run_of(), 2), reference(run_of(precision=precision, software=software), 2)
    assert found.losses == pytest.approx(exact.losses, rel=limit)
    assert found.losses != exact.losses
    for name, gradient in found.gradients.items():
        assert gradient.dtype is torch.float32
        assert float((gradient - exact.gradients[name]).norm() / exact.gradients[name].norm()) < limit, name


def test_it_does_not_care_how_the_run_is_laid_out() -> None:
    alone = reference(run_of(), 2).losses
    for layout in ({"recompute": {"mode": "full"}}, {"mesh": {"pp": 2, "dp": 2}}):
        assert reference(run_of(**layout), 2).losses == alone
