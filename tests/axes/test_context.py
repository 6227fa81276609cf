"""What context parallelism owes: the same traffic by ring and by gather, another by exchange; nothing on one rank."""

import pytest

from parsim.axes.axis import local_sizes, owed_reductions
from parsim.axes.cp import ContextAxis
from parsim.model.dims import Dim, model_sizes
from parsim.model.layer import LayerKind, dense_layer, layer_work
from parsim.network.price import ring_bytes
from parsim.spec import MlaSpec, ModelSpec

MODEL = ModelSpec(name="m", layers=2, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=32000)
WHOLE = model_sizes(MODEL, 1, 8192)
WORK = dense_layer(MODEL)


def sent(axis: ContextAxis, which: str) -> float:
    sizes = local_sizes(WHOLE, (axis,), {})
    return sum(
        c.size_bytes if c.kind == "send" else ring_bytes(c.kind, c.size_bytes, axis.degree)
        for c in axis.comms(WORK, sizes, which)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_a_ring_and_a_gather_move_the_same_keys_and_values(cp: int) -> None:
    """2 bytes * T * (2 kv) * (cp-1), twice in the backward."""
    tokens = 8192 // cp
    ring, gather = ContextAxis(cp), ContextAxis(cp, "allgather")
    expected = 2 * tokens * 2 * 8 * 128 * (cp - 1)
    assert sent(ring, "F") == pytest.approx(expected) == pytest.approx(sent(gather, "F"))
    assert sent(ring, "I") == pytest.approx(2 * expected) == pytest.approx(sent(gather, "I"))
    assert sent(ring, "W") == sent(gather, "W") == 0


def test_ulysses_moves_queries_keys_values_and_results() -> None:
    """2 * T * (2 q + kv) * (cp-1)/cp bytes."""
    assert sent(ContextAxis(4, "a2a"), "F") == pytest.approx(2 * 2048 * (2 * 4096 + 2048) * 3 / 4)


def test_it_cuts_the_tokens_and_not_what_they_look_back_on() -> None:
    sizes = local_sizes(WHOLE, (ContextAxis(4),), {})
    assert (sizes[Dim.SEQ], sizes[Dim.CONTEXT]) == (2048, 8192)


def test_only_weight_gradients_owe_it_a_reduction() -> None:
    axis = ContextAxis(2)
    assert owed_reductions(axis, WORK, "F") == owed_reductions(axis, WORK, "I") == ()
    assert len(owed_reductions(axis, WORK, "W")) == 4
    assert ContextAxis(1).comms(WORK, WHOLE, "F") == ()


def test_latent_attention_sends_whole_keys_and_values() -> None:
    mla = MlaSpec(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
    model = ModelSpec(name="m", layers=2, hidden=4096, heads=32, ffn=14336, vocab=32000, mla=mla)
    axis = ContextAxis(2)
    sizes = local_sizes(model_sizes(model, 1, 8192), (axis,), {})
    (comm,) = axis.comms(layer_work(model, LayerKind()), sizes, "F")
    assert comm.size_bytes == 2 * 4096 * 32 * (192 + 128)
