"""Tensor, sequence and context parallelism in numbers: collectives of a layer, bytes, and the activations they cut."""

from collections import Counter
from typing import Any

import pytest

from parsim.cost.run_axes import axes_of
from parsim.errors import LayoutError
from parsim.memory import memory_of
from parsim.model.dims import Dim
from parsim.model.layer import LayerKind, layer_work
from parsim.model.weights import model_weights, parameters, parameters_of_rank
from parsim.network.price import ring_bytes
from parsim.schedules import build
from parsim.spec import Run, load_model, run_from_document

GIB = 2**30
GPT3 = {"name": "gpt3", "layers": 96, "hidden": 12288, "heads": 96, "ffn": 4 * 12288, "vocab": 51200}
GPT3 |= {"gated_mlp": False, "norm": "layer"}
LONG = {"name": "long", "layers": 80, "hidden": 8192, "heads": 64, "ffn": 4 * 8192, "vocab": 32000}
LONG |= {"gated_mlp": False, "norm": "layer"}
DROPOUT = {"attention_dropout": 0.1, "hidden_dropout": 0.1}


def run_of(model: Any, mesh: dict[str, int], sequence: int, software: Any = None, **layout: Any) -> Run:
    ranks = mesh.get("tp", 1) * mesh.get("cp", 1) * mesh.get("dp", 1) * mesh.get("pp", 1)
    return run_from_document(
        {
            "model": model,
            "cluster": {"name": "dgx-h100", "nodes": -(-ranks // 8)},
            "layout": {"mesh": mesh, **layout},
            "batch": {"sequence_length": sequence, "global_batch_size": mesh.get("dp", 1)},
            "software": software or {},
        }
    )


def sent(run: Run, axis: str, which: Any) -> tuple[Counter[str], float]:
    """Kinds of the collectives that a layer's pass owes on an axis, and the bytes that a rank sends in them."""
    axes = axes_of(run)
    sizes, (chosen,) = axes.sizes(run), [each for each in axes.inner if each.name == axis]
    comms = chosen.comms(layer_work(run.model, LayerKind()), sizes, which)
    bytes_sent = sum(ring_bytes(comm.kind, comm.size_bytes, chosen.degree) for comm in comms)
    return Counter(comm.kind for comm in comms), bytes_sent


def test_row_13_two_all_reduces_forward_and_two_backward() -> None:
    """2 * 2 * 7/8 * sbh * 2 bytes = 176.2 MB a rank and direction: s 2,048, h 12,288, t 8."""
    run = run_of(GPT3, {"tp": 8}, 2048)
    for which in ("F", "I"):
        kinds, bytes_sent = sent(run, "tp", which)
        assert kinds == {"all_reduce": 2}
        assert bytes_sent / 1e6 == pytest.approx(176.2, abs=0.05)
    assert sent(run, "tp", "W") == (Counter(), 0)


def test_row_14_heads_divide_by_tp() -> None:
    with pytest.raises(LayoutError, match=r"layout.mesh.tp 7: must divide the attention heads, 96; 6 or 8 would do"):
        run_of(GPT3, {"tp": 7}, 2048)
    with pytest.raises(LayoutError, match="6 kv_heads can neither be cut nor duplicated evenly"):
        run_of({**GPT3, "kv_heads": 6}, {"tp": 4}, 2048)


@pytest.mark.parametrize("name", ["gpt3-175b", "llama3-70b", "llama3-405b"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_row_15_a_rank_holds_a_tth_of_the_parameters(name: str, tp: int) -> None:
    """All but norms, biases of rows and learned positions, which are less than a thousandth."""
    model = load_model(name)
    (held, _) = parameters_of_rank(model_weights(model), tp=tp)
    whole = sum(weight.size for weight in model_weights(model) if weight.cut is None)
    assert held == pytest.approx((parameters(model) - whole) / tp + whole, rel=1e-12)
    assert held * tp / parameters(model) == pytest.approx(1, abs=2e-3)


def test_row_16_sequence_parallelism_sends_as_much_forward_and_half_more_backward() -> None:
    """Two gathers and two scatters for two all-reduces; two gathers more in the backward: 264.2 MB, 1.25 in all."""
    plain, cut = (run_of(GPT3, {"tp": 8}, 2048, sequence_parallel=flag) for flag in (False, True))
    kinds, forward = sent(cut, "tp", "F")
    assert kinds == {"all_gather": 2, "reduce_scatter": 2}
    assert forward == pytest.approx(sent(plain, "tp", "F")[1])
    backward = [sent(cut, "tp", which) for which in ("I", "W")]
    assert sum((kinds for kinds, _ in backward), Counter[str]()) == {"all_gather": 4, "reduce_scatter": 2}
    total = sum(bytes_sent for _, bytes_sent in backward)
    assert total / 1e6 == pytest.approx(264.2, abs=0.05)
    both = sum(sent(plain, "tp", which)[1] for which in ("F", "I"))
    assert (forward + total) / both == pytest.approx(1.25)


def activations(model: dict[str, Any], tp: int, sequence: int, software: dict[str, Any], cut: bool) -> float:
    """GiB that the layers of a model save for one micro-batch, by what one layer more saves."""
    held = []
    for layers in (1, 2):
        run = run_of({**model, "layers": layers}, {"tp": tp}, sequence, software, sequence_parallel=cut)
        held.append(max(moment.activations for moment in memory_of(run, build("1f1b", 1, 1))[0].moments))
    return model["layers"] * (held[1] - held[0]) / GIB


def test_row_16_sequence_parallelism_cuts_what_tensor_parallelism_copies() -> None:
    """Korthikanti et al. 2022: sbh (10 + 24/t + 5as/ht), or all of it over t: 51.8 and 32.1 GiB of GPT-3 at t 8."""
    software = {"attention": "unfused", **DROPOUT}
    assert activations(GPT3, 8, 2048, software, False) == pytest.approx(51.8, abs=0.1)
    assert activations(GPT3, 8, 2048, software, True) == pytest.approx(32.1, abs=0.1)


def test_row_28_scores_in_memory_are_what_a_long_sequence_cannot_have() -> None:
    """131,072 tokens, h 8,192, 80 layers, t 8: 51,540 GiB with scores, 340 with a flash kernel (and its statistics)."""
    unfused = activations(LONG, 8, 131072, {"attention": "unfused", **DROPOUT}, True)
    flash = activations(LONG, 8, 131072, {"attention": "cudnn", **DROPOUT}, True)
    assert unfused == pytest.approx(51_540, rel=1e-3)
    assert flash == pytest.approx(340, rel=2e-3)


def test_row_28_keys_and_values_on_the_ring() -> None:
    """2 kv d (s/cp) 2 bytes (cp-1): 470 MB a layer of 8 heads of 128 at 131,072 tokens on 8 ranks; twice backward."""
    run = run_of({**LONG, "kv_heads": 8}, {"cp": 8}, 131072)
    kinds, forward = sent(run, "cp", "F")
    assert kinds == {"send": 1}
    assert round(forward / 1e6) == 470
    assert sent(run, "cp", "I")[1] == 2 * forward


@pytest.mark.parametrize("cp", [2, 4, 8, 16])
def test_row_28_a_ranks_tokens_divide_by_cp(cp: int) -> None:
    run = run_of(LONG, {"cp": cp}, 131072)
    sizes = axes_of(run).sizes(run)
    assert (sizes[Dim.SEQ], sizes[Dim.CONTEXT]) == (131072 / cp, 131072)


@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v3"])
def test_row_52_ranks_of_tp_all_hold_what_leads_into_a_latent(name: str) -> None:
    """512 + 64 numbers a token come out of it, where 128 heads of keys and values have 128 * (128 + 128)."""
    model = load_model(name)
    assert model.mla is not None
    layer = {weight.name.removeprefix("layer5."): weight for weight in model_weights(model)}
    for down in ("kv_down", "query_down"):
        assert layer[down].size_of_rank(tp=8) == layer[down].size
    for up in ("kv_up", "query_up", "proj"):
        assert layer[up].size_of_rank(tp=8) == layer[up].size / 8
    assert layer["kv_down"].shape[0] == 576
    assert layer["kv_up"].shape[0] == 128 * (128 + 128)
