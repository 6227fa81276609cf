"""DeepSpeed's configuration: a run as its JSON, and a JSON file as a run. The names are those of DeepSpeed 0.19.

The file holds ZeRO, offload, micro-batches and precision; the model, its recomputation and its sequence length are
code. The number of GPUs is not in it, but dp is: train_batch_size over micro-batch and accumulation steps.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.comparable import nested
from parsim.exchange.documents import known_settings
from parsim.exchange.table import Entry, Fields, Note, Say, Setting, Settings, Tool, worded
from parsim.files import parse_json_text
from parsim.spec import Run

__all__ = ["DEEPSPEED", "deepspeed_json", "read_deepspeed"]

_Z = "zero_optimization."
_STAGE, _OVERLAP = f"{_Z}stage", f"{_Z}overlap_comm"
_MICS, _HPZ = f"{_Z}mics_shard_size", f"{_Z}zero_hpz_partition_size"
_STATES, _WEIGHTS = f"{_Z}offload_optimizer.device", f"{_Z}offload_param.device"
_BATCH, _MICRO, _STEPS = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
_TP, _PP, _INTERVAL = "tensor_parallel.autotp_size", "pipeline.stages", "pipeline.activation_checkpoint_interval"
_GRADIENTS, _WIRE = "data_types.grad_accum_dtype", "communication_data_type"
_ROOMS = (
    "pipeline",
    "tensor_parallel",
    "data_types",
    "sequence_parallel",
    "activation_checkpointing",
    "autotuning",
    "compression_training",
)
"""Rooms in which a name that nobody knows is worth a word; zero_optimization's others are sizes of buffers."""


def _mesh(run: Run, say: Say) -> Settings:
    mesh = run.layout.mesh
    if mesh.cp > 1:
        say("layout.mesh.cp", "DeepSpeed's JSON has no context parallelism; Ulysses is set up in code")
    found = {_BATCH: run.batch.global_batch_size, _MICRO: run.layout.micro_batch_size, _STEPS: run.microbatches}
    return found | ({_TP: mesh.tp} if mesh.tp > 1 else {}) | ({_PP: mesh.pp} if mesh.pp > 1 else {})


def _read_mesh(settings: Settings, say: Say) -> Fields:
    """DeepSpeed wants train_batch_size = micro-batch * accumulation steps * dp; what is not stated follows."""
    tp, pp = max(settings.get(_TP, 1), 1), settings.get(_PP, 1)
    batch, micro, steps = (settings.get(name) for name in (_BATCH, _MICRO, _STEPS))
    dp = None
    if (world := settings.get("WORLD_SIZE")) is not None:
        dp, rest = divmod(world, tp * pp)
        if rest or not dp:
            raise SpecError(f"{world} GPUs: must be a multiple of tp {tp} * pp {pp} = {tp * pp}")
    if batch is not None and micro is not None and steps is not None:
        if batch % (micro * steps):
            raise SpecError(f"{_BATCH} {batch}: must be a multiple of {_MICRO} {micro} * {_STEPS} {steps}")
        if dp not in (None, batch // (micro * steps)):
            raise SpecError(f"{_BATCH} {batch} = {micro} * {steps} * dp makes dp {batch // (micro * steps)}, not {dp}")
        dp = batch // (micro * steps)
    if dp is None:
        say("layout.mesh.dp", "nothing tells how many GPUs there are: one replica is assumed")
        dp = 1
    if batch is not None and micro is None:
        micro, rest = divmod(batch, dp * (steps or 1))
        if rest or not micro:
            raise SpecError(f"{_BATCH} {batch}: must be a multiple of dp {dp} * {_STEPS} {steps or 1}")
    if batch is None:
        if micro is None:
            say(_MICRO, "1 is assumed: neither it nor train_batch_size is stated")
        micro = micro or 1
        batch = micro * (steps or 1) * dp
    mesh = {"tp": tp, "dp": dp, "pp": pp}
    return {
        **{f"layout.mesh.{axis}": degree for axis, degree in mesh.items()},
        "layout.micro_batch_size": micro,
        "batch.global_batch_size": batch,
    }


def _zero(run: Run, say: Say) -> Settings:
    layout, stage = run.layout, run.layout.zero_stage
    found: dict[str, Any] = {_STAGE: stage}
    ranks = layout.mesh.dp * layout.mesh.cp
    if stage and layout.zero_group not in (None, ranks):
        if stage == 3 and layout.mesh.cp == 1:
            found[_MICS] = layout.zero_group
        else:
            say("layout.zero_group", "DeepSpeed shards over all of dp, but for stage 3 without cp")
    if stage:
        found[_OVERLAP] = run.software.dp_overlap
    offload = layout.offload
    if offload is not None:
        found |= {_STATES: "cpu"} if offload.optimizer else {}
        found |= {_WEIGHTS: "cpu"} if offload.weights else {}
    return found


def _read_zero(settings: Settings, say: Say) -> Fields:
    stage = settings.get(_STAGE, 0)
    if stage not in (0, 1, 2, 3):
        raise SpecError(f"{_STAGE} {stage}: 0 to 3")
    fields: dict[str, Any] = {"layout.zero": stage, "layout.fsdp": stage == 3}
    if stage == 3 and settings.get(_MICS, -1) > 0:
        fields["layout.zero_group"] = settings[_MICS]
    if settings.get(_HPZ, 1) > 1:
        say(_HPZ, "ZeRO++'s second copy of the parameters in a node is not known to parsim: left out")
    overlap = settings.get(_OVERLAP)
    fields["software.dp_overlap"] = stage == 3 if overlap is None else overlap
    for name, field in ((_STATES, "optimizer"), (_WEIGHTS, "weights")):
        device = settings.get(name, "none")
        if device not in ("none", "cpu", "nvme"):
            raise SpecError(f"{name} {device}: none, cpu or nvme")
        if device == "nvme":
            say(f"layout.offload.{field}", "nvme is read as the host's memory, which is faster")
        if device != "none":
            fields[f"layout.offload.{field}"] = True
    return fields


def _precision(run: Run, say: Say) -> Settings:
    precision, software = run.layout.precision, run.software
    found: dict[str, Any] = {}
    if precision in ("fp16", "bf16"):
        found[f"{precision}.enabled"] = True
    elif precision not in ("fp32", "tf32", "fp64"):
        say("layout.precision", f"DeepSpeed's JSON has no {precision}: bf16 is written")
        found["bf16.enabled"] = True
    if software.gradient_dtype in ("fp32", "bf16", "fp16"):
        found |= {_GRADIENTS: software.gradient_dtype, _WIRE: software.gradient_dtype}
    return found


def _read_precision(settings: Settings, say: Say) -> Fields:
    on = [word for word in ("fp16", "bf16") if settings.get(f"{word}.enabled")]
    if len(on) > 1:
        raise SpecError("fp16.enabled and bf16.enabled: only one of them may be true")
    fields = {"layout.precision": on[0] if on else "fp32"}
    if (gradients := settings.get(_GRADIENTS)) is not None:
        if gradients not in ("fp32", "bf16", "fp16"):
            raise SpecError(f"{_GRADIENTS} {gradients}: fp32, bf16 or fp16")
        fields["software.gradient_dtype"] = gradients
        if settings.get(_WIRE, gradients) != gradients:
            say(_WIRE, f"gradients are taken to be reduced in {gradients}, as they are summed")
    return fields


def _recompute(run: Run, say: Say) -> Settings:
    return {_INTERVAL: 1} if run.layout.recompute.mode == "full" and run.layout.mesh.pp > 1 else {}


def _read_recompute(settings: Settings, say: Say) -> Fields:
    """Of a pipeline every n-th layer's input is kept; elsewhere the model's code decides."""
    interval = settings.get(_INTERVAL, 0)
    if interval == 0:
        return {}
    groups = {"layout.recompute.method": "uniform", "layout.recompute.layers": interval} if interval > 1 else {}
    return {"layout.recompute.mode": "full", **groups}


DEEPSPEED = Tool(
    name="DeepSpeed",
    release="DeepSpeed 0.19",
    entries=(
        Entry(
            ("software.framework",),
            (),
            lambda run, say: {},
            lambda settings, say: {"software.framework": "deepspeed"},
        ),
        Entry(
            (
                *(f"layout.mesh.{axis}" for axis in ("tp", "dp", "pp")),
                "layout.micro_batch_size",
                "batch.global_batch_size",
            ),
            (*(Setting(name) for name in (_BATCH, _MICRO, _STEPS, _PP)), Setting(_TP, "whole")),
            _mesh,
            _read_mesh,
        ),
        Entry(
            (
                "layout.zero",
                "layout.fsdp",
                "layout.zero_group",
                "software.dp_overlap",
                "layout.offload.optimizer",
                "layout.offload.weights",
            ),
            (
                *(Setting(name, "integer") for name in (_STAGE, _MICS, _HPZ)),
                Setting(_OVERLAP, "switch"),
                *(Setting(name, "text") for name in (_STATES, _WEIGHTS)),
            ),
            _zero,
            _read_zero,
        ),
        Entry(
            ("layout.precision", "software.gradient_dtype"),
            (
                *(Setting(f"{word}.enabled", "switch") for word in ("fp16", "bf16")),
                Setting(_GRADIENTS, "text"),
                Setting(_WIRE, "text"),
            ),
            _precision,
            _read_precision,
        ),
        Entry(("layout.recompute.mode",), (Setting(_INTERVAL, "whole"),), _recompute, _read_recompute),
        worded(
            "software.optimizer",
            "optimizer.type",
            {"adam": "AdamW", "lamb": "Lamb", "sgd": "SGD", "muon": "Muon"},
            None,
            also={"Adam": "adam", "adam": "adam", "adamw": "adam", "OneBitAdam": None, "FusedAdam": "adam"},
        ),
    ),
    outside={
        "model": "the model is code",
        "cluster": "the launcher's hostfile says which GPUs there are",
        "network": "no setting says anything of links",
        "batch.sequence_length": "the data and the model's code say it",
    },
)


def deepspeed_json(settings: Mapping[str, Any], comments: Sequence[str]) -> str:
    """The JSON file. JSON has no comments: they stand under "parsim", a name that DeepSpeed does not read."""
    return json.dumps({"parsim": list(comments), **nested(settings)}, indent=1, ensure_ascii=False) + "\n"


def read_deepspeed(text: str) -> tuple[Settings, list[Note]]:
    """The settings that a JSON file states. Raises SpecError."""
    notes: list[Note] = []
    document = parse_json_text(text)
    if isinstance(document, dict):
        document.pop("parsim", None)
        zero = document.get("zero_optimization")
        if isinstance(zero, dict) and zero.pop("cpu_offload", False) is True:  # its name before offload_optimizer
            zero.setdefault("offload_optimizer", {"device": "cpu"})
        if "bfloat16" in document:  # its name before bf16, which DeepSpeed still takes
            old = document.pop("bfloat16")
            if document.setdefault("bf16", old) != old:
                raise SpecError("bfloat16 and bf16: the old name contradicts the new one")
    return known_settings(DEEPSPEED, document, _ROOMS, notes), notes
