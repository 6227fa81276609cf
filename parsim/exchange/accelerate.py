"""Hugging Face accelerate's configuration with FSDP: a run as its YAML, and a YAML file as a run. The names are those
of accelerate 1.15 (`accelerate config`, FSDP version 2), with those of FSDP 1 read too.

The file says how processes share a model; the model, its batches and its sequences are the training script's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from parsim.errors import SpecError
from parsim.exchange.comparable import nested
from parsim.exchange.documents import known_settings
from parsim.exchange.pytorch import ROTATIONS, keeps_gathered, rotation, shard_degree
from parsim.exchange.table import Entry, Fields, Note, Say, Setting, Settings, Tool
from parsim.spec import Run
from parsim.spec.yaml_reader import parse_yaml

__all__ = ["ACCELERATE", "accelerate_yaml", "read_accelerate"]

_KIND, _MACHINES, _PROCESSES = "distributed_type", "num_machines", "num_processes"
_F, _D = "fsdp_config.fsdp_", "parallelism_config.parallelism_config_"
_REPLICATE, _SHARD, _TP, _CP = (f"{_D}{part}_size" for part in ("dp_replicate", "dp_shard", "tp", "cp"))
_VERSION, _RESHARD, _OFFLOAD = f"{_F}version", f"{_F}reshard_after_forward", f"{_F}offload_params"
_RECOMPUTE, _STRATEGY = f"{_F}activation_checkpointing", f"{_F}sharding_strategy"
_ROTATES = f"{_D}cp_comm_strategy"
_STRATEGIES = {"FULL_SHARD": (3, True), "SHARD_GRAD_OP": (3, False), "NO_SHARD": (0, True), "HYBRID_SHARD": (3, True)}
_STRATEGIES |= {"HYBRID_SHARD_ZERO2": (3, False)}
"""The words of FSDP 1, in the order of the numbers from 1 on that stood for them in its first releases."""


def _layout(run: Run, say: Say) -> Settings:
    layout, mesh = run.layout, run.layout.mesh
    if mesh.pp > 1:
        say("layout.mesh.pp", "accelerate has no pipelines: what is written is one pipeline rank's share of the GPUs")
    gpus = mesh.tp * mesh.cp * mesh.dp
    found: dict[str, Any] = {_MACHINES: -(-gpus // run.cluster.node.gpus), _PROCESSES: gpus}
    if not layout.zero_stage:
        found[_KIND] = "MULTI_GPU"
        plain = mesh.tp * mesh.cp == 1
        return found if plain else found | {_REPLICATE: mesh.dp, _SHARD: 1, _TP: mesh.tp, _CP: mesh.cp}
    shard = shard_degree(run, say)
    if layout.zero_stage < 3:
        for field in ("layout.zero", "layout.fsdp", "layout.reshard_after_forward"):
            say(field, "FSDP shards parameters too, and may keep what it has gathered")
    found |= {_KIND: "FSDP", _VERSION: 2, _RESHARD: not keeps_gathered(run)}
    found |= {f"{_F}auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
    return found | {_REPLICATE: mesh.dp // shard, _SHARD: shard, _TP: mesh.tp, _CP: mesh.cp}


def _read_layout(settings: Settings, say: Say) -> Fields:
    kind = str(settings.get(_KIND, "NO")).upper()
    if kind not in ("FSDP", "MULTI_GPU", "NO"):
        raise SpecError(
            f"{_KIND} {kind}: parsim reads FSDP, MULTI_GPU and NO; DeepSpeed's own file with --from deepspeed"
        )
    tp, cp, replicate = (max(settings.get(name, 1), 1) for name in (_TP, _CP, _REPLICATE))
    processes = settings.get("WORLD_SIZE", settings.get(_PROCESSES, tp * cp * replicate))
    dp, rest = divmod(processes, tp * cp)
    if rest or not dp:
        raise SpecError(f"{_PROCESSES} {processes}: must be a multiple of tp {tp} * cp {cp} = {tp * cp}")
    shard = settings.get(_SHARD, dp // replicate if kind == "FSDP" else 1)
    if _SHARD in settings and replicate * shard != dp:
        raise SpecError(f"{_PROCESSES} {processes}: tp {tp} * cp {cp} * {replicate} replicas * {shard} shards differ")
    fields: dict[str, Any] = {"layout.mesh.tp": tp, "layout.mesh.cp": cp, "layout.mesh.dp": dp}
    if kind != "FSDP":
        return fields | {"layout.zero": 0}
    reshard = settings.get(_RESHARD, True)
    # The word of FSDP 1, in its place of old or in that of the newer switch.
    strategy = settings.get(_STRATEGY, reshard if isinstance(reshard, str) else None)
    stage = 3
    if type(strategy) is int and 1 <= strategy <= len(_STRATEGIES):
        strategy = tuple(_STRATEGIES)[strategy - 1]
    if strategy is not None:
        if not isinstance(strategy, str) or strategy not in _STRATEGIES:
            raise SpecError(f"{_STRATEGY} {str(strategy)[:40]}: one of {', '.join(_STRATEGIES)}")
        stage, reshard = _STRATEGIES[strategy]
        if strategy.startswith("HYBRID") and _SHARD not in settings:
            per_node = -(-processes // settings.get(_MACHINES, 1))
            fields["layout.zero_group"] = per_node
    if not isinstance(reshard, bool):
        raise SpecError(f"{_RESHARD} {str(reshard)[:40]}: true or false")
    if stage and replicate > 1:
        fields["layout.zero_group"] = shard * cp
    return fields | {"layout.zero": stage, "layout.fsdp": stage == 3, "layout.reshard_after_forward": reshard}


def _context(run: Run, say: Say) -> Settings:
    if run.layout.mesh.cp == 1:
        return {}
    if run.layout.cp_comm not in ROTATIONS:
        say("layout.cp_comm", f"accelerate has no {run.layout.cp_comm}: it gathers keys and values")
    return {_ROTATES: ROTATIONS.get(run.layout.cp_comm, "allgather")}


def _precision(run: Run, say: Say) -> Settings:
    precision = run.layout.precision
    if precision in ("fp32", "fp16", "bf16"):
        return {"mixed_precision": "no" if precision == "fp32" else precision}
    if precision.startswith("fp8") or precision in ("mxfp8", "nvfp4"):
        say("layout.precision", f"accelerate's fp8 leaves the recipe to its fp8_config: {precision} is written as fp8")
        return {"mixed_precision": "fp8"}
    return {"mixed_precision": "no"}


def _read_precision(settings: Settings, say: Say) -> Fields:
    word = settings.get("mixed_precision", "no")
    word = "no" if word is False else word  # YAML 1.1 writes "no" for false
    known = {"no": "fp32", "fp16": "fp16", "bf16": "bf16", "fp8": "fp8"}
    if not isinstance(word, str) or word not in known:
        raise SpecError(f"mixed_precision {str(word)[:40]}: one of {', '.join(known)}")
    return {"layout.precision": known[word]}


def _dtypes(settings: Settings, say: Say) -> Fields:
    """Parameters are stored in fp32 and cast; they are their own masters."""
    return {"software.framework": "torchtitan", "software.ops": "eager"}


def _recompute(run: Run, say: Say) -> Settings:
    return {_RECOMPUTE: True} if run.layout.recompute.mode == "full" and run.layout.zero_stage else {}


def _offload(run: Run, say: Say) -> Settings:
    offload = run.layout.offload
    whole = offload is not None and offload.optimizer and offload.weights and run.layout.zero_stage
    return {_OFFLOAD: True} if whole else {}


def _read_offload(settings: Settings, say: Say) -> Fields:
    return {f"layout.offload.{part}": True for part in ("optimizer", "weights") if settings.get(_OFFLOAD)}


ACCELERATE = Tool(
    name="accelerate",
    release="accelerate 1.15",
    entries=(
        Entry(
            (
                *(f"layout.mesh.{axis}" for axis in ("tp", "cp", "dp")),
                "layout.zero",
                "layout.fsdp",
                "layout.zero_group",
                "layout.reshard_after_forward",
            ),
            (
                Setting(_KIND, "text"),
                *(Setting(name) for name in (_MACHINES, _PROCESSES, _VERSION)),
                *(Setting(name, "whole") for name in (_REPLICATE, _SHARD, _TP, _CP)),
                Setting(_RESHARD, "any"),
                Setting(_STRATEGY, "any"),
                Setting(f"{_F}auto_wrap_policy", "text"),
            ),
            _layout,
            _read_layout,
        ),
        replace(rotation(_ROTATES), write=_context),
        Entry(("layout.precision",), (Setting("mixed_precision", "any"),), _precision, _read_precision),
        Entry(("software.framework", "software.ops"), (), lambda run, say: {}, _dtypes),
        Entry(
            ("layout.recompute.mode",),
            (Setting(_RECOMPUTE, "switch"),),
            _recompute,
            lambda settings, say: {"layout.recompute.mode": "full" if settings.get(_RECOMPUTE) else "none"},
        ),
        Entry(
            ("layout.offload.optimizer", "layout.offload.weights"),
            (Setting(_OFFLOAD, "switch"),),
            _offload,
            _read_offload,
        ),
    ),
    outside={
        "model": "the training script loads it",
        "cluster": "the file says how many processes and machines there are, and not which",
        "network": "no setting says anything of links",
        "batch": "the training script says it",
        "layout.micro_batch_size": "the training script says it",
    },
)


def accelerate_yaml(settings: Mapping[str, Any], comments: Sequence[str]) -> str:
    """The YAML file of `accelerate launch --config_file`."""
    document = {"compute_environment": "LOCAL_MACHINE", "machine_rank": 0, **nested(settings)}
    heading = "".join(f"# {comment}".rstrip() + "\n" for comment in comments)
    return heading + yaml.safe_dump(document, sort_keys=False)


def read_accelerate(text: str) -> tuple[Settings, list[Note]]:
    """The settings that a YAML file states. Raises SpecError."""
    notes: list[Note] = []
    document = parse_yaml(text, "accelerate configuration")
    return known_settings(ACCELERATE, document, ("fsdp_config", "parallelism_config"), notes), notes
