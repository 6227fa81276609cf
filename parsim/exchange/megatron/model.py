"""A model's shape in Megatron-LM's flags, and back."""

import re
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.megatron.pattern import pattern_of
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings, same, switch, value_of, worded
from parsim.spec import Run

__all__ = ["MODEL", "ffn_of"]

_BIASES = ("model.attention_bias", "model.output_bias", "model.mlp_bias")


def _ffn(run: Run, say: Say) -> Settings:
    return {"--ffn-hidden-size": run.model.ffn}


def ffn_of(settings: Settings) -> int | None:
    """Megatron's default: 4 hidden; with SwiGLU two thirds of it, down to a multiple of 64."""
    if (stated := settings.get("--ffn-hidden-size")) is not None:
        return int(stated)
    if (hidden := settings.get("--hidden-size")) is None:
        return None
    return int(4 * hidden * 2 / 3) // 64 * 64 if settings.get("--swiglu") else 4 * hidden


def _read_ffn(settings: Settings, say: Say) -> Fields:
    width = ffn_of(settings)
    return {} if width is None else {"model.ffn": width}


def _heads(run: Run, say: Say) -> Settings:
    model = run.model
    found: dict[str, Any] = {"--num-attention-heads": model.heads}
    if model.kv_heads != model.heads:
        found |= {"--group-query-attention": True, "--num-query-groups": model.kv_heads}
    if model.mla is None and model.head_dim * model.heads != model.hidden:
        found["--kv-channels"] = model.head_dim
    return found


def _read_heads(settings: Settings, say: Say) -> Fields:
    heads, groups = settings.get("--num-attention-heads"), settings.get("--num-query-groups")
    grouped = settings.get("--group-query-attention")
    if heads is None:
        return {}
    latent = settings.get("--multi-latent-attention")
    if groups not in (None, 1, heads) and not grouped and not latent:  # Megatron ignores it: not what was meant
        raise SpecError(f"--num-query-groups {groups} needs --group-query-attention")
    fields: dict[str, Any] = {"model.heads": heads, "model.kv_heads": (groups or 1) if grouped else heads}
    channels, hidden = settings.get("--kv-channels"), settings.get("--hidden-size")
    if latent:
        return fields
    if channels is None and hidden is not None and hidden % heads == 0:
        channels = hidden // heads
    return fields if channels is None else {**fields, "model.head_dim": channels}


def _biases(run: Run, say: Say) -> Settings:
    attention, output, mlp = (value_of(run, field) for field in _BIASES)
    if attention and output and mlp:
        return {}
    if output or mlp:
        say("model.mlp_bias" if output else "model.output_bias", "Megatron has biases in all linear layers or in none")
        return {}
    return {"--disable-bias-linear": True, "--add-qkv-bias": True} if attention else {"--disable-bias-linear": True}


def _read_biases(settings: Settings, say: Say) -> Fields:
    everywhere = not settings.get("--disable-bias-linear")
    return {
        "model.attention_bias": everywhere or bool(settings.get("--add-qkv-bias")),
        "model.output_bias": everywhere,
        "model.mlp_bias": everywhere,
    }


def _positions(run: Run, say: Say) -> Settings:
    model = run.model
    if model.max_positions is None:
        say("model.max_positions", "Megatron wants a number: the sequence length is written")
    kind = "rope" if model.positions == "rope" else "learned_absolute"
    longest = model.max_positions or run.batch.sequence_length
    return {"--position-embedding-type": kind, "--max-position-embeddings": longest}


def _read_positions(settings: Settings, say: Say) -> Fields:
    kind = settings.get("--position-embedding-type", "learned_absolute")
    if settings.get("--use-rotary-position-embeddings"):  # the name before --position-embedding-type
        kind = "rope"
    if kind not in ("rope", "learned_absolute", "yarn"):
        raise SpecError(f"--position-embedding-type {kind}: parsim knows rope, yarn and learned_absolute")
    fields: dict[str, Any] = {"model.positions": "learned" if kind == "learned_absolute" else "rope"}
    longest = settings.get("--max-position-embeddings")
    return fields if longest is None else {**fields, "model.max_positions": longest}


def _window(run: Run, say: Say) -> Settings:
    window, every = run.model.sliding_window, run.model.sliding_window_every
    if window is None:
        if every > 1:
            say("model.sliding_window_every", "without a window it means nothing")
        return {}
    found: dict[str, Any] = {"--window-size": f"{window - 1},0"}
    if every == 2:
        found["--window-attn-skip-freq"] = "2"
    elif every > 2:
        layers = [int(layer % every == every - 1) for layer in range(run.model.layers)]
        found["--window-attn-skip-freq"] = str(layers).replace(" ", "")
    return found


def _read_window(settings: Settings, say: Say) -> Fields:
    """A window of (left, right) is what lies before a token; the token itself counts with us. A frequency n leaves out
    every n-th layer, which for 2 is every second one.
    """
    text, skipped = settings.get("--window-size"), settings.get("--window-attn-skip-freq")
    if text is None:
        return {}
    numbers = text.strip("()").replace(" ", "").split(",")
    if len(numbers) != 2 or not all(re.fullmatch(r"-?\d{1,9}", number) for number in numbers):
        raise SpecError(f"--window-size {text}: two whole numbers, as 127,0")
    left = int(numbers[0])
    if left < 0:
        return {}
    fields: dict[str, Any] = {"model.sliding_window": left + 1}
    if skipped is None:
        return fields
    pattern = pattern_of("--window-attn-skip-freq", skipped)
    if isinstance(pattern, int):
        if pattern != 2:
            say("model.sliding_window_every", f"--window-attn-skip-freq {pattern}: parsim has one window in n layers")
            return {}
        return {**fields, "model.sliding_window_every": 2}
    windowed = [layer for layer, one in enumerate(pattern, 1) if one]
    every = windowed[0] if windowed else 0
    if not every or windowed != list(range(every, len(pattern) + 1, every)):
        say("model.sliding_window_every", "--window-attn-skip-freq: the pattern is no window in every n-th layer")
        return {}
    return {**fields, "model.sliding_window_every": every}


def _read_norms(settings: Settings, say: Say) -> Fields:
    """With latent attention the flag asks for norms of the latents, which a run's always have."""
    latent, stated = settings.get("--multi-latent-attention"), settings.get("--qk-layernorm")
    if latent and not stated:
        say("model.mla", "norms of the latents are counted, as --qk-layernorm asks for: it is not stated")
    return {"model.qk_norm": "per_head" if stated and not latent else "none"}


def _vocab_padding(run: Run, say: Say) -> Settings:
    multiple = run.software.vocab_pad_multiple
    if multiple is None:
        say("software.vocab_pad_multiple", "Megatron always pads to a multiple of tp: 1 is written")
    return {"--make-vocab-size-divisible-by": multiple or 1}


def _read_vocab_padding(settings: Settings, say: Say) -> Fields:
    return {"software.vocab_pad_multiple": settings.get("--make-vocab-size-divisible-by", 128)}


MODEL: tuple[Entry, ...] = (
    same("model.layers", Setting("--num-layers")),
    same("model.hidden", Setting("--hidden-size")),
    Entry(("model.ffn",), (Setting("--ffn-hidden-size"),), _ffn, _read_ffn),
    Entry(
        ("model.heads", "model.kv_heads", "model.head_dim"),
        (
            Setting("--num-attention-heads"),
            Setting("--group-query-attention", "switch"),
            Setting("--num-query-groups"),
            Setting("--kv-channels"),
        ),
        _heads,
        _read_heads,
    ),
    same("model.vocab", Setting("--vocab-size")),
    Entry(
        ("software.vocab_pad_multiple",),
        (Setting("--make-vocab-size-divisible-by"),),
        _vocab_padding,
        _read_vocab_padding,
    ),
    switch("model.gated_mlp", "--swiglu"),
    worded("model.norm", "--normalization", {"rms": "RMSNorm", "layer": "LayerNorm"}, "LayerNorm"),
    Entry(
        _BIASES,
        (Setting("--disable-bias-linear", "switch"), Setting("--add-qkv-bias", "switch")),
        _biases,
        _read_biases,
    ),
    Entry(
        ("model.qk_norm",),
        (Setting("--qk-layernorm", "switch"),),
        lambda run, say: {"--qk-layernorm": True} if run.model.qk_norm == "per_head" or run.model.mla else {},
        _read_norms,
    ),
    Entry(
        ("model.positions", "model.max_positions"),
        (
            Setting("--position-embedding-type", "text"),
            Setting("--use-rotary-position-embeddings", "switch"),
            Setting("--max-position-embeddings"),
        ),
        _positions,
        _read_positions,
    ),
    switch("model.tied_embeddings", "--untie-embeddings-and-output-weights", when=False),
    Entry(
        ("model.sliding_window", "model.sliding_window_every"),
        (Setting("--window-size", "text"), Setting("--window-attn-skip-freq", "text")),
        _window,
        _read_window,
    ),
    Entry(
        ("model.mtp_layers",),
        (Setting("--mtp-num-layers", "whole"),),
        lambda run, say: {"--mtp-num-layers": run.model.mtp_layers} if run.model.mtp_layers else {},
        lambda settings, say: {"model.mtp_layers": settings.get("--mtp-num-layers", 0)},
    ),
)
"""Embedding, attention and MLP of every layer. Defaults are Megatron's where a flag is not stated."""
