"""Pipeline schedules and the split of layers in Megatron-LM's flags, and back.

Megatron plays 1F1B and interleaved 1F1B. Its zero-bubble fork (sail-sg/zero-bubble-pipeline-parallelism) also plays the
automatic zero-bubble schedules and ZB-V, under flags of its own.
"""

import re
from itertools import groupby
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.comparable import stages_per_rank
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings
from parsim.spec import Run
from parsim.spec.split import SPLITS, layers_in_string

__all__ = ["PIPELINE", "stages_of"]

FORK = "sail-sg/zero-bubble-pipeline-parallelism"
_LAYOUT, _GROUP = "--pipeline-model-parallel-layout", "--microbatch-group-size-per-virtual-pipeline-stage"
_STAGES, _LAYERS = "--num-virtual-stages-per-pipeline-rank", "--num-layers-per-virtual-pipeline-stage"
_EMBEDDING, _LOSS = "--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"
_FIRST, _LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
_PADDING, _LIMIT = "--allow-padding-num-layers", "--zero-bubble-max-pending-backward"
_ZERO_BUBBLE, _V = "--enable-zero-bubble", "--zero-bubble-v-schedule"
_VALIDATION = "--enable-optimizer-post-validation"
_MTP, _MOST_MTP = re.compile(r"m(?:\*(\d{1,6}))?"), 1000
_SPLITTING = (_EMBEDDING, _LOSS, _FIRST, _LAST)


def _write(run: Run, say: Say) -> Settings:
    layout, pp = run.layout, run.layout.mesh.pp
    found: dict[str, Any] = {}
    stages = 1
    if layout.schedule == "interleaved":
        stages = stages_per_rank(run)
        if layout.group_size is not None:
            found[_GROUP] = layout.group_size
    elif layout.schedule in ("zb-auto", "zb-v"):
        say("layout.schedule", f"{layout.schedule} is played by the zero-bubble fork alone, {FORK}")
        if layout.schedule == "zb-v":
            stages = 2
            found[_V] = True
        else:
            found |= {_ZERO_BUBBLE: True, _LIMIT: f"{layout.activation_limit_stages or pp:g}"}
        if run.software.post_validation:
            found[_VALIDATION] = True
    elif layout.schedule != "1f1b" and pp > 1:
        say("layout.schedule", f"Megatron does not play {layout.schedule}: what is written runs 1F1B")
        say("layout.stages_per_rank", "1F1B has one stage on a rank")
        say("layout.split", "that of 1F1B's parts is written")
    if pp == 1:
        return found
    return found | _split(run, pp * stages, stages, say)


def _split(run: Run, parts: int, stages: int, say: Say) -> Settings:
    layout = run.layout
    looped = {_STAGES: stages} if layout.schedule == "interleaved" and stages > 1 else {}
    if isinstance(layout.split, str) and layout.split not in SPLITS and len(layers_in_string(layout.split)) == parts:
        return {_LAYOUT: layout.split}
    split = layout.split
    if layout.schedule not in ("1f1b", "interleaved", "zb-auto", "zb-v"):
        split = split if split in SPLITS else "balanced"
        split = "balanced" if split != "balanced" and run.model.layers % parts else split
        counts = run.changed(layout=layout.model_copy(update={"split": split})).layers_of_parts(parts)
    else:
        counts = run.layers_of_parts(parts)
    if len(set(counts)) == 1:
        return looped
    if split == "ends_one_fewer":
        if layout.schedule in ("zb-auto", "zb-v"):
            return {_PADDING: True}
        return looped | {_EMBEDDING: True, _LOSS: True}
    return {_LAYOUT: _spelled(counts, run.model.mtp_layers)}


def _spelled(counts: tuple[int, ...], mtp_layers: int) -> str:
    """Megatron's string of these layers of parts; MTP layers stand with the loss."""
    first, *inner, last = counts
    middle = ""
    for count, same in groupby(inner):
        part, times = f"{'t' * count}|", len(list(same))
        middle += f"({part})*{times}" if times > 1 else part
    return f"E{'t' * first}|{middle}{'t' * last}{'m' * mtp_layers}L"


def _read(settings: Settings, say: Say) -> Fields:
    pp, layers = settings.get("--pipeline-model-parallel-size", 1), settings.get("--num-layers")
    if (moved := _mtp_last(settings)) != settings:
        say("layout.split", f"MTP layers stand with the loss, as in {moved[_LAYOUT]}: parsim knows no other place")
    settings = moved
    fields: dict[str, Any] = {"layout.split": "even"}
    if (validated := settings.get(_VALIDATION)) is not None:
        fields["software.post_validation"] = validated
    if settings.get(_V):
        return fields | {"layout.schedule": "zb-v", "layout.stages_per_rank": 2} | _fork_split(settings)
    if settings.get(_ZERO_BUBBLE):
        limit = settings.get(_LIMIT, "auto")
        if limit != "auto":
            try:
                fields["layout.activation_limit_stages"] = float(limit)
            except ValueError:
                raise SpecError(f"{_LIMIT} {limit}: auto, or a number of stage activations") from None
        return fields | {"layout.schedule": "zb-auto"} | _fork_split(settings)
    stages, split = _stages_and_split(settings, pp, layers)
    fields |= {"layout.schedule": "interleaved" if stages > 1 else "1f1b"} | split
    if stages > 1:
        fields["layout.stages_per_rank"] = stages
        if (group := settings.get(_GROUP)) is not None:
            fields["layout.group_size"] = group
    return fields


def stages_of(settings: Settings) -> int:
    """Stages on a pipeline rank that the flags ask for. SpecError where they contradict each other."""
    pp, layers = settings.get("--pipeline-model-parallel-size", 1), settings.get("--num-layers")
    return _stages_and_split(_mtp_last(settings), pp, layers)[0]


def _mtp_last(settings: Settings) -> Settings:
    """The settings with the MTP layers of a layout string in its last part, behind its layers."""
    text = str(settings.get(_LAYOUT, "")).replace(",", "").replace(" ", "")
    *before, last = text.split("|")
    if not _MTP.search("|".join(before)) or not last.endswith("L"):
        return settings
    count = sum(int(match[1] or 1) for match in _MTP.finditer(text))
    return {**settings, _LAYOUT: f"{_MTP.sub('', text)[:-1]}{'m' * min(count, _MOST_MTP)}L"}


def _fork_split(settings: Settings) -> Fields:
    if settings.get(_PADDING):
        return {"layout.split": "ends_one_fewer"}
    return {"layout.split": settings[_LAYOUT]} if _LAYOUT in settings else {}


def _stages_and_split(settings: Settings, pp: int, layers: int | None) -> tuple[int, Fields]:
    """Stages of a rank and the split, from whichever of the flags are stated; SpecError where they contradict."""
    by_layout, stages, each = settings.get(_LAYOUT), settings.get(_STAGES), settings.get(_LAYERS)
    if stages is not None and each is not None:
        raise SpecError(f"{_STAGES} {stages} and {_LAYERS} {each}: only one of them may be stated")
    others = [flag for flag in (*_SPLITTING, _STAGES, _LAYERS) if settings.get(flag)]
    if by_layout is not None:
        if others:
            raise SpecError(f"{_LAYOUT} says where every layer stands: {others[0]} contradicts it")
        return _from_layout(by_layout, pp)
    if pp == 1:
        if stages or each:
            raise SpecError(f"{_STAGES if stages else _LAYERS} needs --pipeline-model-parallel-size above 1")
        return 1, {}
    ends = bool(settings.get(_EMBEDDING)), bool(settings.get(_LOSS))
    counted = None if layers is None else layers + sum(ends)
    if each is not None:
        if counted is None:
            raise SpecError(f"{_LAYERS} {each}: --num-layers is not stated")
        if counted % (pp * each):
            raise SpecError(
                f"{_LAYERS} {each}: {counted} layers (with what is counted as one) do not divide into "
                f"pp {pp} * {each} = {pp * each}"
            )
        stages = counted // (pp * each)
    stages = stages or 1
    if (first := settings.get(_FIRST)) is not None or settings.get(_LAST) is not None:
        return stages, {"layout.split": _uneven(first, settings.get(_LAST), pp, stages, layers, ends)}
    if ends == (True, True):
        return stages, {"layout.split": "ends_one_fewer"}
    if any(ends):
        return stages, {"layout.split": _one_end(pp * stages, counted, *ends)}
    return stages, {}


def _from_layout(text: str, pp: int) -> tuple[int, Fields]:
    try:
        parts = len(layers_in_string(text))
    except ValueError as error:
        raise SpecError(f"{_LAYOUT} {error}") from None
    if parts % pp:
        raise SpecError(f"{_LAYOUT} names {parts} stages: they do not divide into pp {pp}")
    return parts // pp, {"layout.split": text}


def _uneven(
    first: int | None, last: int | None, pp: int, stages: int, layers: int | None, ends: tuple[bool, bool]
) -> list[int]:
    """Layers of each part where the first or last pipeline rank has a number of its own; they are its stages' sum."""
    if any(ends):
        raise SpecError(f"{_FIRST if first is not None else _LAST} contradicts {_EMBEDDING if ends[0] else _LOSS}")
    if layers is None:
        raise SpecError(f"{_FIRST if first is not None else _LAST}: --num-layers is not stated")
    stated = {0: first, pp - 1: last}
    own = {rank: count for rank, count in stated.items() if count is not None}
    rest = layers - sum(own.values())
    others = pp - len(own)
    if rest < 0 or (others and rest % (others * stages)) or (not others and rest):
        raise SpecError(
            f"{' and '.join(f for f, c in ((_FIRST, first), (_LAST, last)) if c is not None)} leave {rest} layers for "
            f"{others} pipeline ranks of {stages} stages"
        )
    if uneven := [count for count in own.values() if count % stages]:
        raise SpecError(f"{uneven[0]} layers of a pipeline rank do not divide into its {stages} stages")
    of_rank = [own.get(rank, rest // others if others else 0) // stages for rank in range(pp)]
    return of_rank * stages


def _one_end(parts: int, counted: int | None, embedding: bool, loss: bool) -> list[int]:
    flag = _EMBEDDING if embedding else _LOSS
    if counted is None or counted % parts:
        raise SpecError(f"{flag}: {counted} layers with that end do not divide into {parts} stages")
    counts = [counted // parts] * parts
    counts[0] -= embedding
    counts[-1] -= loss
    return counts


PIPELINE = Entry(
    (
        "layout.schedule",
        "layout.stages_per_rank",
        "layout.split",
        "layout.group_size",
        "layout.activation_limit_stages",
        "software.post_validation",
    ),
    (
        Setting(_STAGES),
        Setting(_LAYERS),
        Setting(_LAYOUT, "text"),
        Setting(_GROUP),
        *(Setting(flag, "switch") for flag in (_EMBEDDING, _LOSS)),
        Setting(_FIRST, "whole"),
        Setting(_LAST, "whole"),
        *(Setting(flag, "switch") for flag in (_ZERO_BUBBLE, _V, _PADDING, _VALIDATION)),
        Setting(_LIMIT, "text"),
    ),
    _write,
    _read,
)
