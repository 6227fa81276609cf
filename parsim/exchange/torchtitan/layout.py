"""Model, degrees, sharding, batch and recompute in torchtitan's settings, and back."""

from dataclasses import replace
from typing import Any

from parsim.errors import SpecError
from parsim.exchange.pytorch import keeps_gathered, rotation, shard_degree
from parsim.exchange.shapes import bundled_model
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings, same
from parsim.spec import Run

__all__ = ["FLAVORS", "LAYOUT", "flavor_of"]

FLAVORS = {
    "llama3-8b": ("llama3", "8B"),
    "llama3-70b": ("llama3", "70B"),
    "llama3-405b": ("llama3", "405B"),
    "deepseek-v2": ("deepseek_v3", "236B"),
    "deepseek-v3": ("deepseek_v3", "671B"),
    "qwen3-30b-a3b": ("qwen3", "30B-A3B"),
    "qwen3-235b-a22b": ("qwen3", "235B-A22B"),
}
"""The module and flavor of torchtitan that a bundled model is."""
_P = "parallelism."
_TP, _CP, _PP = f"{_P}tensor_parallel_degree", f"{_P}context_parallel_degree", f"{_P}pipeline_parallel_degree"
_REPLICATE, _SHARD = f"{_P}data_parallel_replicate_degree", f"{_P}data_parallel_shard_degree"
_RESHARD, _EP = f"{_P}fsdp_reshard_after_forward", f"{_P}expert_parallel_degree"
_EXPERT_TP = f"{_P}expert_tensor_parallel_degree"
_LOCAL, _GLOBAL = "training.local_batch_size", "training.global_batch_size"
_MICRO, _COUNT = f"{_P}pipeline_parallel_microbatch_size", f"{_P}pipeline_parallel_microbatches"
_AC, _AC_OPTION = "activation_checkpoint.mode", "activation_checkpoint.selective_ac_option"


def flavor_of(run: Run) -> tuple[str, str] | None:
    """The module and flavor of the run's model; None if torchtitan has none of its shape."""
    like = bundled_model(run.model.model_dump(exclude={"name", "evidence"}))
    return None if like is None else FLAVORS.get(like.name)


def _model(run: Run, say: Say) -> Settings:
    found = flavor_of(run)
    if found is None:
        say("model", "torchtitan has no flavor of this shape: the recipe takes the model_spec as an argument")
        return {}
    return dict(zip(("model.module", "model.flavor"), found, strict=True))


def _read_model(settings: Settings, say: Say) -> Fields:
    flavor = settings.get("model.flavor")
    if flavor is None:
        return {}
    module = settings.get("model.module")
    for name, (known_module, known_flavor) in FLAVORS.items():
        if flavor.lower() == known_flavor.lower() and module in (known_module, None):
            return {"model": name}
    say("model", f"no bundled model is {module} {flavor}: name one, or a config.json")
    return {}


def _degrees(run: Run, say: Say) -> Settings:
    mesh, layout = run.layout.mesh, run.layout
    found: dict[str, Any] = {_TP: mesh.tp, _CP: mesh.cp, _PP: mesh.pp, _EP: layout.ep}
    shard = 1
    if layout.zero_stage:
        shard = shard_degree(run, say)
        if layout.zero_stage < 3:
            say("layout.zero", "torchtitan shards parameters too, and may keep what it has gathered")
            say("layout.fsdp", "torchtitan's sharding is FSDP")
            say("layout.reshard_after_forward", "never stands for ZeRO below 3")
        found[_RESHARD] = "never" if keeps_gathered(run) else "always"
    return found | {_REPLICATE: mesh.dp // shard, _SHARD: shard}


def _read_degrees(settings: Settings, say: Say) -> Fields:
    tp, cp, pp, ep = (settings.get(name, 1) for name in (_TP, _CP, _PP, _EP))
    replicate: int = settings.get(_REPLICATE, 1)
    shard: int = settings.get(_SHARD, -1)
    for name, degree in ((_TP, tp), (_CP, cp), (_PP, pp), (_REPLICATE, replicate)):
        if degree < 1:
            raise SpecError(f"{name} {degree}: at least 1")
    if shard == -1:
        world = settings.get("WORLD_SIZE")
        others = tp * cp * pp * replicate
        if world is None:
            say("layout.mesh.dp", f"{_SHARD} -1 is what is left of the GPUs, and nothing tells how many: 1 is assumed")
            shard = 1
        else:
            shard, rest = divmod(world, others)
            if rest:
                raise SpecError(f"{world} GPUs: must be a multiple of {others}, the product of the other degrees")
    if shard < 1:
        raise SpecError(f"{_SHARD} {shard}: at least 1, or -1")
    fields: dict[str, Any] = {
        "layout.mesh.tp": tp,
        "layout.mesh.cp": cp,
        "layout.mesh.dp": replicate * shard,
        "layout.mesh.pp": pp,
    }
    if settings.get("WORLD_SIZE") not in (None, tp * cp * pp * replicate * shard):
        raise SpecError(f"{settings['WORLD_SIZE']} GPUs: the degrees multiply to {tp * cp * pp * replicate * shard}")
    if ep > 1:
        fields["layout.ep"] = ep
    if (expert_tp := settings.get(_EXPERT_TP)) is not None:  # of the releases before 0.3
        if expert_tp not in (1, tp):
            raise SpecError(f"{_EXPERT_TP} {expert_tp}: 1, or tensor_parallel_degree {tp}")
        fields["layout.expert_tp"] = expert_tp
    if shard * cp > 1:
        policy = settings.get(_RESHARD, "default")
        if policy not in ("always", "never", "default"):
            raise SpecError(f"{_RESHARD} {policy}: always, never or default")
        reshards = pp == 1 if policy == "default" else policy == "always"
        fields |= {"layout.zero": 3, "layout.fsdp": True, "layout.reshard_after_forward": reshards}
        if replicate > 1:
            fields["layout.zero_group"] = shard * cp
    return fields


def _batch(run: Run, say: Say) -> Settings:
    micro, pp = run.layout.micro_batch_size, run.layout.mesh.pp
    found = {_LOCAL: micro * (run.microbatches if pp > 1 else 1), _GLOBAL: run.batch.global_batch_size}
    return found | ({_MICRO: micro} if pp > 1 else {})


def _read_batch(settings: Settings, say: Say) -> Fields:
    """A rank's local batch is one pass: without a pipeline a micro-batch, with one all of its micro-batches."""
    local: int = settings[_LOCAL] if _LOCAL in settings else settings.get("training.batch_size", 8)
    whole: int = settings.get(_GLOBAL, -1)
    micro = settings.get(_MICRO, 1) if settings.get(_PP, 1) > 1 else local
    if (count := settings.get(_COUNT, -1)) > 0 and settings.get(_PP, 1) > 1:  # their number, in the first releases
        if _MICRO in settings or local % count:
            raise SpecError(f"{_COUNT} {count}: must divide {_LOCAL} {local}, and stand without {_MICRO}")
        micro = local // count
    if local < 1 or micro < 1 or local % micro:
        raise SpecError(f"{_LOCAL} {local}: must be a multiple of {_MICRO} {micro}")
    dp = _read_degrees(settings, lambda about, text: None)["layout.mesh.dp"]
    if whole == -1:
        whole = local * dp
    if whole % (local * dp):
        raise SpecError(f"{_GLOBAL} {whole}: must be a multiple of {_LOCAL} {local} * dp {dp} = {local * dp}")
    if settings.get(_PP, 1) > 1 and whole != local * dp:
        say("batch.global_batch_size", f"{whole // (local * dp)} pipelines one after the other are read as one")
    return {"layout.micro_batch_size": micro, "batch.global_batch_size": whole}


def _recompute(run: Run, say: Say) -> Settings:
    recompute = run.layout.recompute
    if recompute.mode == "full":
        return {_AC: "full"}
    if recompute.mode == "none":
        return {_AC: "none"}
    if recompute.modules != ("every_second_matmul",):
        say("layout.recompute.modules", "torchtitan's selective recompute keeps matmuls, and picks no modules")
    return {_AC: "selective"}


def _read_recompute(settings: Settings, say: Say) -> Fields:
    usual = "op" if settings.get("release.python") else "2"
    mode, option = settings.get(_AC, "selective"), str(settings.get(_AC_OPTION, usual))
    if mode == "selective":
        if option != "op":
            return _every_nth(option, settings, say)
        return {"layout.recompute.mode": "selective", "layout.recompute.modules": ["every_second_matmul"]}
    if mode == "memory_budget":
        say("layout.recompute", "a memory budget decides in the compiler: none is assumed")
        mode = "none"
    if mode not in ("none", "full"):
        raise SpecError(f"{_AC} {mode}: none, full, selective or memory_budget")
    return {"layout.recompute.mode": mode}


def _every_nth(option: str, settings: Settings, say: Say) -> Fields:
    """Recompute of every n-th layer of a rank, which the releases before 0.3 could do."""
    if not option.isascii() or not option.isdigit() or not (each := int(option[:9])):
        raise SpecError(f"{_AC_OPTION} {option[:40]}: op, or a whole number from 1 on")
    layers = settings.get("model.layers")
    if each == 1 or layers is None:
        if each > 1:
            say("layout.recompute", f"every layer {each} is recomputed, and nothing tells of how many: all is assumed")
        return {"layout.recompute.mode": "full"}
    count = layers // settings.get(_PP, 1) // each
    say("layout.recompute", f"every layer {each} is recomputed: the first {count} of a pipeline rank are read")
    return {"layout.recompute.mode": "full", "layout.recompute.method": "block", "layout.recompute.layers": count}


def _offload(run: Run, say: Say) -> Settings:
    offload = run.layout.offload
    whole = offload is not None and offload.optimizer and offload.weights
    return {"training.enable_cpu_offload": True} if whole else {}


def _read_offload(settings: Settings, say: Say) -> Fields:
    if not settings.get("training.enable_cpu_offload"):
        return {}
    return {"layout.offload.optimizer": True, "layout.offload.weights": True}


def _sequence_parallel(settings: Settings, say: Say) -> Fields:
    on = settings.get(f"{_P}enable_sequence_parallel")
    return {"layout.sequence_parallel": settings.get(_TP, 1) > 1 if on is None else on}


LAYOUT: tuple[Entry, ...] = (
    Entry(("model",), (Setting("model.module", "text"), Setting("model.flavor", "text")), _model, _read_model),
    Entry(
        (
            *(f"layout.mesh.{axis}" for axis in ("tp", "cp", "dp", "pp")),
            "layout.zero",
            "layout.fsdp",
            "layout.zero_group",
            "layout.reshard_after_forward",
            "layout.ep",
            "layout.expert_tp",
        ),
        (
            *(Setting(n, "integer") for n in (_TP, _CP, _PP, _REPLICATE, _SHARD, _EP, _EXPERT_TP)),
            Setting(_RESHARD, "text"),
        ),
        _degrees,
        _read_degrees,
    ),
    same("batch.sequence_length", Setting("training.seq_len"), 2048),
    Entry(
        ("layout.micro_batch_size", "batch.global_batch_size"),
        tuple(Setting(n, "integer") for n in (_LOCAL, _GLOBAL, "training.batch_size", _MICRO, _COUNT)),
        _batch,
        _read_batch,
    ),
    Entry(
        ("layout.sequence_parallel",),
        (Setting(f"{_P}enable_sequence_parallel", "switch"),),
        lambda run, say: {f"{_P}enable_sequence_parallel": run.layout.sequence_parallel},
        _sequence_parallel,
    ),
    replace(rotation(f"{_P}context_parallel_rotate_method"), write=lambda run, say: {}),  # not in release 0.3 any more
    Entry(
        tuple(f"layout.recompute.{part}" for part in ("mode", "modules", "method", "layers")),
        (Setting(_AC, "text"), Setting(_AC_OPTION, "any")),
        _recompute,
        _read_recompute,
    ),
    Entry(
        ("layout.offload.optimizer", "layout.offload.weights"),
        (Setting("training.enable_cpu_offload", "switch"),),
        _offload,
        _read_offload,
    ),
)
