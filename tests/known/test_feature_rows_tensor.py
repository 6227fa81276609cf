"""Tensor, sequence and context parallelism in numbers: collectives of a layer, bytes, and the activations they cut."""

from collections import Counter
from typing import Any

import pytest

from parsim.axes.axis import owed_reductions, result_bytes
from parsim.axes.cp import causal_work
from parsim.axes.tp import TensorAxis
from parsim.cost import RooflineCost
from parsim.cost.run_axes import axes_of
from parsim.cost.segments import Kernel
from parsim.errors import LayoutError
from parsim.memory import memory_of
from parsim.model.dims import Dim, extent_dims
from parsim.model.layer import LayerKind, Matmul, layer_work
from parsim.model.weights import model_weights, parameters, parameters_of_rank
from parsim.network.price import ring_bytes
from parsim.plan import Kind, Op, Slot, straight
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


def test_row_13_rows_then_columns_owe_a_gather_more() -> None:
    """Columns, then rows: one all-reduce and the result is whole. Rows, then columns: an all-reduce between them, and
    the result is cut, so that whoever needs it whole gathers it.
    """
    axis, wide = TensorAxis(8), ((1, Dim.FFN),)
    narrow = ((1, Dim.HIDDEN),)
    usual = (Matmul("a", narrow, wide), Matmul("b", wide, narrow))
    turned_round = (Matmul("a", wide, narrow), Matmul("b", narrow, wide))

    def owed(work: tuple[Matmul, ...]) -> tuple[int, int]:
        is_cut = bool(extent_dims(work[-1].cols) & axis.cuts)
        return len(owed_reductions(axis, work, "F")), int(is_cut)

    assert owed(usual) == (1, 0)
    assert owed(turned_round) == (1, 1)
    sizes = axes_of(run_of(GPT3, {"tp": 8}, 2048)).sizes(run_of(GPT3, {"tp": 8}, 2048))
    whole = 8 * result_bytes(turned_round[-1], sizes, "F", 2)
    assert ring_bytes("all_gather", whole, 8) == pytest.approx(7 / 8 * 2048 * 4 * 12288 * 2)


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


def activations(
    model: dict[str, Any], tp: int, sequence: int, software: dict[str, Any], cut: bool, cp: int = 1, **layout: Any
) -> float:
    """GiB that the layers of a model save for one micro-batch, by what one layer more saves."""
    held = []
    for layers in (1, 2):
        mesh = {"tp": tp, "cp": cp}
        run = run_of({**model, "layers": layers}, mesh, sequence, software, sequence_parallel=cut, **layout)
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
def test_row_28_a_zig_zag_balances_causal_work(cp: int) -> None:
    """Within 1 % (at this length exactly); one slice each leaves the last rank 2 - 1/cp of the mean."""
    tokens = 131072
    square = tokens * (tokens + 1) // 2
    for zigzag, most in ((True, 1.01), (False, 2 - 1 / cp)):
        work = causal_work(cp, tokens, zigzag)
        assert sum(work) == square
        assert max(work) * cp / square <= most
    assert max(causal_work(cp, tokens, False)) * cp / square == pytest.approx(2 - 1 / cp, rel=1e-3)
    even, crowded = (run_of(LONG, {"cp": cp}, tokens, cp_split=split) for split in ("zigzag", "contiguous"))
    seconds = {}
    for name, run in (("even", even), ("crowded", crowded)):
        (blocks,) = RooflineCost(run, straight(1)).segments(Slot(Op(0, Kind.F, 0)))
        seconds[name] = sum(
            s.seconds for block in blocks for s in block if isinstance(s, Kernel) and s.name == "attention"
        )
    assert seconds["crowded"] / seconds["even"] == pytest.approx(2 - 1 / cp, rel=1e-3)


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_row_28_activations_divide_by_cp(cp: int) -> None:
    """Flash attention saves nothing that grows with more than a rank's own tokens."""
    whole, cut = (activations(LONG, 8, 131072, {"attention": "cudnn"}, True, degree) for degree in (1, cp))
    assert cut == pytest.approx(whole / cp, rel=0.01)


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


LATENT = {"name": "latent", "layers": 1, "hidden": 7168, "heads": 128, "ffn": 18432, "vocab": 32000}
LATENT |= {"mla": {"q_rank": 1536, "kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "value_dim": 128}}


def test_row_52_a_latent_is_a_57th_of_the_keys_and_values_that_it_stands_for() -> None:
    """512 + 64 numbers a token and layer instead of 128 heads of 128 + 128: 1,152 bytes, not 65,536."""
    run = run_of(LATENT, {"dp": 1}, 4096)
    sizes = axes_of(run).sizes(run)
    latent = 2 * (sizes[Dim.KV_LATENT] + sizes[Dim.ROPE_KEY])
    whole = 2 * (sizes[Dim.NOPE] + sizes[Dim.OUTPUT])
    assert (latent, whole) == (1152, 65536)
    assert whole / latent == pytest.approx(56.9, abs=0.05)


@pytest.mark.parametrize("tp", [1, 8])
def test_row_52_recomputed_up_projections_leave_the_latents(tp: int) -> None:
    """Of a token, queries and keys of 192, and values with their keys of 128 + 128, in 128 heads: 2 * 128 * 640 bytes,
    cut by tp; the latents, which every rank holds, stay.
    """
    again = {"mode": "selective", "modules": ["mla_up_proj"]}
    kept, left = (
        activations(LATENT, tp, 4096, {"attention": "cudnn"}, tp > 1, recompute=recompute)
        for recompute in ("none", again)
    )
    assert (kept - left) * GIB == pytest.approx(4096 * 2 * 128 * 640 / tp, rel=0.01)
