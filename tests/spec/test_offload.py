"""What may move to the host, and what makes no sense there: refused in one line that says what would do."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import ParsimError
from parsim.spec import Offload, Run

EXPERTS = "model.moe={experts: 8, topk: 2, expert_ffn: 64}"


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        (["layout.offload={activations: true}", "layout.recompute=full"], "recomputed in full"),
        (["layout.offload={activation_layers: 1}", "layout.recompute=full"], "activation_layers: layers recomputed"),
        (["layout.offload={modules: [core_attn]}", "layout.recompute=full"], "modules: layers recomputed"),
        (
            [
                "layout.offload={activations: true}",
                "layout.recompute={mode: selective, modules: [every_second_matmul]}",
            ],
            "every_second_matmul",
        ),
        (["layout.offload={activation_layers: 999}"], "would do"),
        (["layout.offload={modules: [expert_fc1]}"], "has no experts"),
        (["layout.offload={modules: [attn_proj]}"], "core_attn with it would do"),
        (["layout.offload={modules: [core_attn, core_attn]}"], "named twice"),
        (["layout.offload={activations: true, activation_layers: 2}"], "one of them would do"),
        (["layout.offload={modules: [head]}"], "layout.offload.modules"),
        (
            [EXPERTS, "layout.offload={modules: [moe_act]}", "layout.recompute={mode: selective, modules: [moe]}"],
            "recomputed with all of moe",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(make: Callable[..., Run], settings: list[str], reads: str) -> None:
    with pytest.raises(ParsimError, match=reads) as refused:
        make(*settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("word", ["optimizer", "weights"])
def test_states_move_whatever_is_recomputed(make: Callable[..., Run], word: str) -> None:
    offload = make(f"layout.offload={{{word}: true}}", "layout.recompute=full").layout.offload
    assert offload is not None
    assert not offload.moves_activations


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 80))
def test_layers_move_from_the_first_stage_on(layers: list[int], count: int) -> None:
    moved = Offload(activation_layers=count).layers_of(layers)
    assert sum(moved) == min(count, sum(layers))
    for stage, here in enumerate(moved):
        assert here == layers[stage] or not any(moved[stage + 1 :])
    assert Offload(activations=True).layers_of(layers) == tuple(layers)
