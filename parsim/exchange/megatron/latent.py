"""Multi-head latent attention in Megatron-LM's flags, and back."""

from parsim.errors import SpecError
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings
from parsim.spec import Run

__all__ = ["LATENT"]

_LATENT = {
    "--q-lora-rank": ("q_rank", None),
    "--kv-lora-rank": ("kv_rank", 32),
    "--qk-head-dim": ("nope_dim", 128),
    "--qk-pos-emb-head-dim": ("rope_dim", 64),
    "--v-head-dim": ("value_dim", 128),
}
"""The field of each flag, and what Megatron takes where it is not stated."""


def _latent(run: Run, say: Say) -> Settings:
    mla = run.model.mla
    if mla is None:
        return {}
    widths = {flag: getattr(mla, field) for flag, (field, _) in _LATENT.items()}
    return {"--multi-latent-attention": True, **{flag: width for flag, width in widths.items() if width is not None}}


def _read_latent(settings: Settings, say: Say) -> Fields:
    if not settings.get("--multi-latent-attention"):
        if stated := [flag for flag in _LATENT if flag in settings and flag != "--v-head-dim"]:
            raise SpecError(f"{stated[0]} needs --multi-latent-attention")
        return {}
    widths = {f"model.mla.{field}": settings.get(flag, default) for flag, (field, default) in _LATENT.items()}
    return {field: width for field, width in widths.items() if width is not None}


LATENT = Entry(
    tuple(f"model.mla.{field}" for field, _ in _LATENT.values()),
    (Setting("--multi-latent-attention", "switch"), *(Setting(flag) for flag in _LATENT)),
    _latent,
    _read_latent,
)
