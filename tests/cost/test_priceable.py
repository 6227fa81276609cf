"""What the roofline cannot price is refused: each rule breaks for its reason, and names the value that would do."""

from collections.abc import Callable
from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.priceable import RULES, check_priceable
from parsim.errors import LayoutError
from parsim.plan import straight
from parsim.spec import MlaSpec, ModelSpec, MoeSpec, Offload, Run

MakeRun = Callable[..., Run]

MODEL: dict[str, Any] = {"name": "m", "layers": 8, "hidden": 4096, "heads": 32, "ffn": 8192, "vocab": 32000}
EXPERTS = ModelSpec(**MODEL, moe=MoeSpec(experts=8, topk=2, expert_ffn=4096))
LATENT = ModelSpec(**MODEL, mla=MlaSpec(kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128))

BROKEN: dict[str, dict[str, Any]] = {
    "layout.zero_group": {"model": EXPERTS, "mesh": {"dp": 4}, "ep": 2, "zero": 1, "zero_group": 2},
    "layout.sequence_parallel": {"model": EXPERTS, "mesh": {"tp": 2}},
    "software.optimizer": {"offload": Offload(optimizer=True), "software": {"optimizer": "muon"}},
    "cluster.node.host_memory_bytes_per_s": {"offload": Offload(optimizer=True)},
    "software.throttled": {"gpu": "b200-180g-sxm", "software": {"throttled": False}},
}


def test_every_rule_has_a_run_that_breaks_it() -> None:
    assert set(BROKEN) == {rule.field for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.field)
def test_a_broken_rule_is_refused_in_one_line(make_run: MakeRun, rule: Any) -> None:
    run = make_run(**BROKEN[rule.field])
    assert rule.breaks(run)
    with pytest.raises(LayoutError) as refusal:
        RooflineCost(run, straight(1))
    message = str(refusal.value)
    assert "\n" not in message
    assert message.endswith("would do")
    assert message.startswith(rule.field)
    assert rule.would_do in message


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"mesh": {"tp": 2, "dp": 2}, "zero": 1, "zero_group": 2},
        {"mesh": {"dp": 2}, "zero": 2, "fsdp": True},
        {"recompute": {"mode": "selective", "modules": ("core_attn", "every_second_matmul")}},
        {"precision": "fp16", "software": {"attention": "unfused"}},
        {"precision": "mxfp8", "gpu": "b200-180g-sxm"},
        {"precision": "fp8-rowwise"},
        {"mesh": {"dp": 2}, "zero": 2},
        {"mesh": {"dp": 2, "pp": 2}, "zero": 2},
        {"software": {"optimizer": "muon"}},
        {"model": EXPERTS, "mesh": {"dp": 2}, "ep": 2, "software": {"optimizer": "lamb"}},
        {"mesh": {"dp": 4}, "zero": 3, "fsdp": True, "zero_group": 2},
        {"mesh": {"cp": 2}},
        {"model": EXPERTS, "mesh": {"dp": 2}, "ep": 2},
        {"model": EXPERTS, "mesh": {"tp": 2}, "expert_tp": 2, "sequence_parallel": True},
        {"model": LATENT, "mesh": {"cp": 2}},
        {"model": ModelSpec(**MODEL, mtp_layers=2)},
        {"recompute": {"mode": "selective", "modules": ("layernorm", "mlp"), "layers": 2}},
        {"model": ModelSpec(**MODEL, sliding_window=128), "software": {"attention": "unfused_sinks"}},
        {"gpu": "b200-180g-sxm", "software": {"deterministic_attention": True}},
        {"model": ModelSpec(**MODEL, parallel_residual=True, gated_mlp=False, norm="layer", tied_embeddings=True)},
    ],
)
def test_what_can_be_priced_passes(make_run: MakeRun, layout: dict[str, Any]) -> None:
    check_priceable(make_run(**layout))
    RooflineCost(make_run(**layout), straight(1))


def test_a_kernel_without_a_known_speed_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(LayoutError, match=r"software.attention flash3: .* would do"):
        RooflineCost(make_run(gpu="a100-80g-sxm", software={"attention": "flash3"}), straight(1))
