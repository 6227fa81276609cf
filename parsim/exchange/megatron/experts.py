"""Experts in Megatron-LM's flags, and back."""

from typing import Any

from parsim.errors import SpecError
from parsim.exchange.megatron.model import ffn_of
from parsim.exchange.megatron.pattern import pattern_of
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings
from parsim.spec import Run

__all__ = ["EXPERTS"]


def _experts(run: Run, say: Say) -> Settings:
    moe, layers = run.model.moe, run.model.layers
    if moe is None:
        return {}
    found: dict[str, Any] = {
        "--num-experts": moe.experts,
        "--moe-router-topk": moe.topk,
        "--moe-ffn-hidden-size": moe.expert_ffn,
        "--moe-grouped-gemm": True,
    }
    if moe.shared_ffn:
        found["--moe-shared-expert-intermediate-size"] = moe.shared_ffn
    if moe.dense_layers:
        found["--moe-layer-freq"] = f"([0]*{moe.dense_layers}+[1]*{layers - moe.dense_layers})"
    if moe.shared_gate:
        found["--moe-shared-expert-gate"] = True
    if moe.router_bias:
        found["--moe-router-enable-expert-bias"] = True
    if moe.groups > 1:
        found |= {"--moe-router-num-groups": moe.groups, "--moe-router-group-topk": moe.topk_groups}
    return found


def _read_experts(settings: Settings, say: Say) -> Fields:
    experts = settings.get("--num-experts")
    if experts is None:
        if stated := [flag for flag in ("--moe-router-topk", "--moe-ffn-hidden-size") if flag in settings]:
            say(stated[0], "without --num-experts it means nothing")
        return {}
    values: dict[str, Any] = {
        "experts": experts,
        "topk": settings.get("--moe-router-topk", 2),
        "expert_ffn": settings.get("--moe-ffn-hidden-size", ffn_of(settings)),
        "shared_ffn": settings.get("--moe-shared-expert-intermediate-size", 0),
        "dense_layers": _dense_layers(settings),
        "shared_gate": bool(settings.get("--moe-shared-expert-gate")),
        "router_bias": bool(settings.get("--moe-router-enable-expert-bias")),
        "groups": settings.get("--moe-router-num-groups", 1),
        "topk_groups": settings.get("--moe-router-group-topk", 1),
    }
    return {f"model.moe.{name}": value for name, value in values.items() if value is not None}


def _dense_layers(settings: Settings) -> int:
    text = settings.get("--moe-layer-freq")
    if text is None:
        return 0
    pattern = pattern_of("--moe-layer-freq", text)
    if isinstance(pattern, int):
        if pattern != 1:
            raise SpecError(f"--moe-layer-freq {pattern}: a run has its dense layers first, not between others")
        return 0
    if (layers := settings.get("--num-layers")) is not None and len(pattern) != layers:
        raise SpecError(f"--moe-layer-freq names {len(pattern)} layers, --num-layers says {layers}")
    dense = pattern.index(1) if 1 in pattern else len(pattern)
    if not all(pattern[dense:]):
        raise SpecError("--moe-layer-freq: a run has its dense layers first, not between others")
    return dense


EXPERTS = Entry(
    tuple(
        f"model.moe.{field}"
        for field in (
            "experts",
            "topk",
            "expert_ffn",
            "shared_ffn",
            "dense_layers",
            "shared_gate",
            "router_bias",
            "groups",
            "topk_groups",
        )
    ),
    (
        Setting("--num-experts"),
        Setting("--moe-router-topk"),
        Setting("--moe-ffn-hidden-size"),
        Setting("--moe-shared-expert-intermediate-size", "whole"),
        Setting("--moe-layer-freq", "text"),
        Setting("--moe-shared-expert-gate", "switch"),
        Setting("--moe-router-enable-expert-bias", "switch"),
        Setting("--moe-router-num-groups"),
        Setting("--moe-router-group-topk"),
        Setting("--moe-grouped-gemm", "switch"),
    ),
    _experts,
    _read_experts,
)
