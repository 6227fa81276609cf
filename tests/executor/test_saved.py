"""What the executor's stages keep of a micro-batch: the ledger's bytes under its preset against counted storages."""

import math
import random
from typing import Any

import pytest
import torch

from executor.data import micro_batch
from executor.layers import stage_of
from executor.memory import TensorCount
from executor.model import cross_entropy, part_module
from executor.saved import saved_bytes
from parsim.memory import memory_of
from parsim.memory.parts import Parts
from parsim.model.weights import model_weights
from parsim.run_plan import plan_of
from parsim.spec import Run, load_run
from tests.executor.decoders import STYLES

CLOSE = 0.02
PARTS = 3
WEIGHTS = {"fp32": ["fp32"], "fp64": ["fp64"], "bf16": ["bf16", "fp32"]}
GPT = {
    **{"norm": "layer", "gated_mlp": False, "positions": "learned", "max_positions": 512},
    **{"attention_bias": True, "output_bias": True, "mlp_bias": True},
}


def run_of(model: dict[str, Any], software: dict[str, Any], sequence: int, size: int, **layout: Any) -> Run:
    document = load_run("tiny-local").document()
    stated = {"mesh": {"pp": PARTS}, "schedule": "1f1b", "micro_batch_size": size, **layout}
    return Run.model_validate(
        {
            "model": {"name": "small", "layers": 6, **model},
            "cluster": {**document["cluster"], "nodes": None},
            "layout": stated,
            "software": {"framework": "parsim-executor", **software},
            "batch": {"sequence_length": sequence, "global_batch_size": 4 * size},
        }
    )


def random_run(style: str, seed: int) -> Run:
    """A run of some shape, type and recomputation; half of them drop, a quarter make their scores whole."""
    chance = random.Random(f"{style}{seed}")
    heads, head_dim = chance.choice([2, 4, 8]), chance.choice([8, 16, 32])
    grouped = STYLES[style]["kv_heads"] / STYLES[style]["heads"]
    precision = chance.choice(list(WEIGHTS))
    weights = chance.choice(WEIGHTS[precision])
    model = {
        **STYLES[style],
        **{"heads": heads, "kv_heads": max(int(heads * grouped), 1), "head_dim": head_dim, "layers": 6},
        **{"hidden": 8 * chance.randint(8, 24), "ffn": chance.randint(64, 512), "vocab": chance.randint(50, 900)},
        **({"max_positions": 256} if "max_positions" in STYLES[style] else {}),
        **({"sliding_window": chance.randint(2, 40)} if "sliding_window" in STYLES[style] else {}),
    }
    software = {
        **{"params_dtype": weights, "master_weights": "fp32" if weights == "bf16" else None},
        **({"attention_dropout": 0.1, "hidden_dropout": 0.1} if chance.random() < 0.5 else {}),
        **({"attention": "unfused"} if chance.random() < 0.25 else {}),
    }
    recompute = chance.choice(["none", "full", "selective", {"mode": "full", "layers": 1}])
    return run_of(
        model, software, 8 * chance.randint(4, 16), chance.randint(1, 3), precision=precision, recompute=recompute
    )


def counted(run: Run, part: int, parts: int = PARTS) -> float:
    """What the ledger counts of a part."""
    cut = Parts(run, (run.model.layers,) if parts == 1 else run.layers_of_parts(parts))
    return cut.activations(part, run.layout.recompute.layers_of([cut.layers[part]])[0]).saved


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("style", STYLES)
def test_counted_bytes_are_what_is_kept(style: str, seed: int) -> None:
    run = random_run(style, seed)
    for part in range(PARTS):
        assert counted(run, part) == pytest.approx(saved_bytes(run, part, PARTS), rel=CLOSE), (part, run)


def layer_units(model: dict[str, Any], software: dict[str, Any], recompute: str = "none") -> float:
    """Bytes of one more layer in units of s b h, in bf16."""
    run = run_of(model, {"params_dtype": "bf16", **software}, 256, 2, precision="bf16", recompute=recompute)
    deep = run.changed(model=run.model.model_copy(update={"layers": 8}))
    size = run.batch.sequence_length * run.layout.micro_batch_size * run.model.hidden
    return (saved_bytes(deep) - saved_bytes(run)) / 2 / size


def test_papers_in_units_of_tokens_times_hidden() -> None:
    """arXiv:2205.05198, equation 1, is 34 + 5as/h with masks of a byte: here they have two. Scores are 2 bytes, thrice
    with dropout. A Llama layer, (6h + 2kv + 3f)/h at two bytes, has an eager silu, an RMSNorm of 10 instead of 4, and
    keys and values for every query head.
    """
    gpt = {**GPT, "hidden": 256, "heads": 8, "ffn": 1024, "vocab": 100}
    drops = {"attention_dropout": 0.1, "hidden_dropout": 0.1}
    scores = 8 * 256 / 256
    assert layer_units(gpt, drops) == pytest.approx(36 + 6 * scores, rel=0.01)
    assert layer_units(gpt, {"hidden_dropout": 0.1}) == pytest.approx(36, rel=0.01)
    assert layer_units(gpt, {}) == pytest.approx(32, rel=0.01)
    assert layer_units(gpt, drops, "full") == pytest.approx(2.0)
    llama = {"hidden": 256, "heads": 8, "kv_heads": 2, "ffn": 704, "vocab": 100}
    assert layer_units(llama, {}) == pytest.approx(2 * (2 * 5 + 4 + 4 * 704 / 256), rel=0.01)
    assert layer_units(llama, {}, "full") == pytest.approx(2.0)


@pytest.mark.parametrize("style", ["grouped", "gpt"])
def test_autograd_s_own_hooks_see_the_same(style: str) -> None:
    """Storages that are packed for the backward, each once, without weights and token ids: another way to count."""
    run = run_of({**STYLES[style], "layers": 6}, {"hidden_dropout": 0.1}, 16, 2, precision="fp32")
    module = part_module(run, 0, 1, "cpu")
    tokens = torch.zeros(2, 16, dtype=torch.int64)
    weights = {tokens.untyped_storage()._cdata, *(p.untyped_storage()._cdata for p in module.parameters())}
    packed: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            packed[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stage_of(run, module).forward(0, tokens, tokens)
    found = sum(storage.nbytes() for storage in packed.values())
    assert saved_bytes(run) == pytest.approx(found, rel=1e-3)


SMALL = {"hidden": 64, "heads": 4, "ffn": 128, "vocab": 100}


# --- the second step: states that the first one makes


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_the_second_step_is_higher_by_the_states_that_the_first_made(optimizer: type[torch.optim.Optimizer]) -> None:
    """AdamW's two fp32 moments, 8 bytes a parameter, where gradients are dropped and made anew; SGD has none. The
    ledger says the same of `pytorch-cpu`. Gradients that stay (zeroed in place) are 4 bytes a parameter more.
    """
    name = "adam" if optimizer is torch.optim.AdamW else "sgd"
    software = {"framework": "pytorch-cpu", "optimizer": name}
    run = run_of(SMALL, software, 128, 8, mesh={}, precision="fp32")
    peaks = {keeps: stepped(run, optimizer, keeps) for keeps in (False, True)}
    size = sum(math.prod(weight.shape) for weight in model_weights(run.model))
    states = 8 * size if name == "adam" else 0
    first, second, third = peaks[False]
    assert second - first == pytest.approx(states, abs=0.01 * size)
    assert third == second
    assert peaks[True][1] - second == 4 * size
    (memory,) = memory_of(run, plan_of(run))
    assert memory.peaks_of_steps[1] - memory.peaks_of_steps[0] == states
    assert memory.peaks_of_steps[1] == pytest.approx(second, rel=0.05)


def stepped(run: Run, optimizer: type[torch.optim.Optimizer], keeps_gradients: bool) -> list[int]:
    """Peaks of three steps, from forward to update."""
    module = part_module(run, 0, 1, "cpu")
    tokens, targets = micro_batch(run, 0, 0, "cpu")
    steps, peaks = optimizer(module.parameters(), lr=1e-3), []
    known = [*module.parameters(), *(value for state in steps.state.values() for value in state.values())]
    held = sum(tensor.nbytes for tensor in known)
    with TensorCount([*known, tokens, targets]) as count:
        for _ in range(3):
            count.reset_peak()
            cross_entropy(module(tokens), targets).backward()
            steps.step()
            steps.zero_grad(set_to_none=not keeps_gradients)
            peaks.append(held + count.peak_bytes)
    return peaks


@pytest.mark.parametrize("states_first", [True, False])
def test_states_that_are_there_before_show_no_second_peak(states_first: bool) -> None:
    run = run_of(SMALL, {}, 128, 8, mesh={}, precision="fp32")

    def adamw(parameters: Any, lr: float) -> torch.optim.Optimizer:
        made = torch.optim.AdamW(list(parameters), lr=lr)
        if states_first:
            for parameter in made.param_groups[0]["params"]:
                parameter.grad = torch.zeros_like(parameter)
            made.step()
            made.zero_grad()
        return made

    first, second, _ = stepped(run, adamw, False)  # type: ignore[arg-type]
    size = sum(math.prod(weight.shape) for weight in model_weights(run.model))
    assert second - first == pytest.approx(0 if states_first else 8 * size, abs=0.01 * size)
