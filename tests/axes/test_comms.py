"""What the axes owe: the reduction rule, and the traffic that papers count."""

import pytest

from parsim.axes.axis import local_sizes
from parsim.axes.dp import DataAxis, sent_elements
from parsim.axes.pp import PipelineAxis
from parsim.axes.tp import TensorAxis
from parsim.model.dims import Dim, model_sizes
from parsim.model.layer import dense_layer, embedding, head, matmul_parameters
from parsim.network.price import ring_bytes
from parsim.spec import ModelSpec

GPT3 = ModelSpec(
    name="gpt3", layers=96, hidden=12288, heads=96, ffn=4 * 12288, vocab=51200, gated_mlp=False, norm="layer"
)
GLOBAL = model_sizes(GPT3, 1, 2048)
LAYER = dense_layer(GPT3)


def sent(axis: TensorAxis, which: str) -> float:
    """Bytes that a rank sends in a pass of one layer."""
    sizes = local_sizes(GLOBAL, (axis,), {})
    return sum(ring_bytes(c.kind, c.size_bytes, axis.degree) for c in axis.comms(LAYER, sizes, which))  # type: ignore[arg-type]


def kinds(axis: TensorAxis, which: str) -> list[tuple[str, str]]:
    sizes = local_sizes(GLOBAL, (axis,), {})
    return [(c.kind, c.at) for c in axis.comms(LAYER, sizes, which)]  # type: ignore[arg-type]


def test_the_rule_yields_megatrons_pattern() -> None:
    """Two all-reduces forward and two backward (Shoeybi et al. 2019, figure 4)."""
    axis = TensorAxis(8)
    assert kinds(axis, "F") == [("all_reduce", "proj"), ("all_reduce", "fc2")]
    assert kinds(axis, "I") == [("all_reduce", "qkv"), ("all_reduce", "fc1")]
    assert kinds(axis, "W") == []


def test_tensor_parallel_bytes_of_gpt3() -> None:
    """2 * 2 * 7/8 * (2048 * 12288 * 2 bytes) = 176.2 MB; sequence parallelism sends the same forward, and backward
    one more gather for each of QKV and fc1: 264.2 MB (Korthikanti et al. 2022; Megatron's re-gathered input).
    """
    plain, sequence = TensorAxis(8), TensorAxis(8, sequence_parallel=True)
    assert sent(plain, "F") == sent(plain, "I") == pytest.approx(176.2e6, rel=5e-4)
    assert sent(sequence, "F") == sent(plain, "F")
    assert sent(sequence, "I") + sent(sequence, "W") == pytest.approx(264.2e6, rel=5e-4)
    assert sorted(k for k, _ in kinds(sequence, "F")) == ["all_gather"] * 2 + ["reduce_scatter"] * 2


def test_a_parallel_residual_is_reduced_once() -> None:
    """The sum of attention and MLP leaves the layer as one tensor, and one gradient of it comes back."""
    axis, sequence = TensorAxis(8, parallel_residual=True), TensorAxis(8, True, parallel_residual=True)
    assert len(kinds(axis, "F")) == 1
    assert len(kinds(axis, "I")) == 2
    assert [k for k, _ in kinds(sequence, "I")].count("all_gather") == 1


def test_one_rank_owes_nothing() -> None:
    for which in ("F", "I", "W"):
        assert kinds(TensorAxis(1), which) == []
        assert DataAxis(1, sharded=True).comms(LAYER, GLOBAL, which) == ()


def test_head_and_embedding_owe_a_reduction_where_vocab_is_cut() -> None:
    axis = TensorAxis(8)
    sizes = local_sizes(GLOBAL, (axis,), {})
    whole = 2 * 2048 * 12288
    assert [(c.kind, c.size_bytes) for c in axis.comms(embedding(), sizes, "F")] == [("all_reduce", whole)]
    assert axis.comms(head(), sizes, "F") == ()
    assert [(c.kind, c.size_bytes) for c in axis.comms(head(), sizes, "I")] == [("all_reduce", whole)]


def test_kv_heads_fewer_than_ranks_are_copied() -> None:
    model = GPT3.model_copy(update={"kv_heads": 4})
    sizes = local_sizes(model_sizes(model, 1, 2048), (TensorAxis(8),), {Dim.KV: model.head_dim})
    assert sizes[Dim.KV] == model.head_dim
    assert sizes[Dim.QUERY] == 12 * model.head_dim


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_parameters_divide_by_tp(tp: int) -> None:
    whole = matmul_parameters(LAYER, GLOBAL)
    assert whole == 12 * 12288**2
    assert matmul_parameters(LAYER, local_sizes(GLOBAL, (TensorAxis(tp),), {})) == whole / tp


def test_zero_traffic() -> None:
    """Elements sent per rank: 2P(n-1)/n for ZeRO-0 to 2; 3P(n-1)/n for ZeRO-3, 2 without the second gather."""
    assert [sent_elements(1e9, 8, zero) for zero in (0, 1, 2)] == [1.75e9] * 3
    assert sent_elements(1e9, 8, 3) == 3e9 * 7 / 8
    assert sent_elements(1e9, 8, 3, regather=False) == 1.75e9
    sharded = DataAxis(8, sharded=True, gradient_bytes=2)
    parameters = matmul_parameters(LAYER, GLOBAL)
    comms = [c for which in ("F", "I", "W") for c in sharded.comms(LAYER, GLOBAL, which)]
    assert sum(ring_bytes(c.kind, c.size_bytes, 8) for c in comms) == 2 * sent_elements(parameters, 8, 3)
    reduced = DataAxis(8, gradient_bytes=2).reduction(parameters, scattered=False)
    assert ring_bytes(reduced.kind, reduced.size_bytes, 8) == 2 * sent_elements(parameters, 8, 0)


def test_a_pipeline_sends_one_activation() -> None:
    """s * b * h * 2 bytes at a boundary, a t-th of it with sequence parallelism."""
    assert PipelineAxis(8).message(GLOBAL).size_bytes == 2048 * 12288 * 2
    assert PipelineAxis(8, 1 / 8).message(GLOBAL).size_bytes == 2048 * 12288 * 2 / 8
