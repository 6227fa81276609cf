"""Degrees of parallelism, sharding, batch and recompute in Megatron-LM's flags, and back.

Megatron has no flag for dp: it is the launcher's world size over tp * cp * pp. Its default rank order is that of a mesh
(tp, cp, dp, pp, innermost first).
"""

from typing import Any

from parsim.errors import SpecError
from parsim.exchange.comparable import stages_per_rank
from parsim.exchange.megatron.pipeline import stages_of
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings, same, switch, worded
from parsim.spec import Run

__all__ = ["NODES", "PARALLEL", "PER_NODE", "WORLD", "world_size"]

NODES, PER_NODE, WORLD = "--nnodes", "--nproc-per-node", "WORLD_SIZE"
"""What the launcher is told: torchrun's flags, or the variable where neither is stated."""
_TP, _CP, _PP = "--tensor-model-parallel-size", "--context-parallel-size", "--pipeline-model-parallel-size"
_SHARDING = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
_STRATEGY, _INSTANCES = "--data-parallel-sharding-strategy", "--num-distributed-optimizer-instances"
_OPTIMIZER, _MEGATRON_FSDP, _FSDP2 = "--use-distributed-optimizer", "--use-megatron-fsdp", "--use-torch-fsdp2"
_NO_RESHARD = "--torch-fsdp2-no-reshard-after-forward"


def _mesh(run: Run, say: Say) -> Settings:
    mesh, nodes = run.layout.mesh, run.cluster.nodes or 1
    per_node = mesh.size if nodes == 1 else run.cluster.node.gpus
    found: dict[str, Any] = {NODES: nodes, PER_NODE: per_node, _TP: mesh.tp, _PP: mesh.pp}
    return found | ({_CP: mesh.cp} if mesh.cp > 1 else {})


def _read_mesh(settings: Settings, say: Say) -> Fields:
    tp, cp, pp = (settings.get(flag, 1) for flag in (_TP, _CP, _PP))
    if settings.get("--use-tp-pp-dp-mapping"):
        say("layout.mesh", "--use-tp-pp-dp-mapping puts dp outside pp: a mesh of parsim has pp outermost")
    fields = {"layout.mesh.tp": tp, "layout.mesh.cp": cp, "layout.mesh.pp": pp}
    if settings.get(NODES, 1) > 1 and PER_NODE in settings:
        fields["network.gpus_per_node"] = settings[PER_NODE]
    world = world_size(settings)
    if world is None:
        say("layout.mesh.dp", "no launcher tells how many GPUs there are: one replica is assumed")
        return fields | {"layout.mesh.dp": 1}
    if world % (tp * cp * pp):
        raise SpecError(f"{world} GPUs: must be a multiple of tp {tp} * cp {cp} * pp {pp} = {tp * cp * pp}")
    return fields | {"layout.mesh.dp": world // (tp * cp * pp)}


def world_size(settings: Settings) -> int | None:
    """GPUs that the launcher starts; None where nothing says. SpecError where two things say different numbers."""
    product = None
    if (per_node := settings.get(PER_NODE)) is not None:
        product = int(per_node) * int(settings.get(NODES, 1))
    stated: int | None = settings.get(WORLD)
    if product is not None and stated is not None and product != stated:
        raise SpecError(f"{WORLD} {stated}, but {NODES} {settings.get(NODES, 1)} * {PER_NODE} {per_node} is {product}")
    return stated if product is None else product


def _batch(run: Run, say: Say) -> Settings:
    batch = run.batch
    return {
        "--seq-length": batch.sequence_length,
        "--micro-batch-size": run.layout.micro_batch_size,
        "--global-batch-size": batch.global_batch_size,
    }


def _read_batch(settings: Settings, say: Say) -> Fields:
    fields = {}
    if (sequence := settings.get("--seq-length")) is not None:
        fields["batch.sequence_length"] = sequence
    micro, batch = settings.get("--micro-batch-size"), settings.get("--global-batch-size")
    if micro is not None:
        fields["layout.micro_batch_size"] = micro
    if batch is not None:
        fields["batch.global_batch_size"] = batch
    elif micro is not None:
        fields["batch.global_batch_size"] = micro * _read_mesh(settings, lambda about, text: None)["layout.mesh.dp"]
    if "--rampup-batch-size" in settings:
        say("batch.global_batch_size", "the batch that --rampup-batch-size ends at")
    return fields


def _zero(run: Run, say: Say) -> Settings:
    layout, dp = run.layout, run.layout.mesh.dp * run.layout.mesh.cp
    stage, found = layout.zero_stage, dict[str, Any]()
    if stage == 0:
        return found
    if stage == 1:
        found[_OPTIMIZER] = True
    elif layout.fsdp and not layout.reshard_after_forward:
        found |= {_FSDP2: True, _NO_RESHARD: True}
    else:
        strategy = next(name for name, number in _SHARDING.items() if number == stage)
        found |= {_OPTIMIZER: True, _MEGATRON_FSDP: True, _STRATEGY: strategy}
        if stage == 3 and not layout.fsdp:
            say("layout.fsdp", "Megatron shards parameters as FSDP does, unit by unit")
    if layout.zero_group is not None and layout.zero_group != dp:
        found[_INSTANCES] = dp // layout.zero_group
    return found


def _read_zero(settings: Settings, say: Say) -> Fields:
    fields: dict[str, Any] = {"layout.zero": 1 if settings.get(_OPTIMIZER) else 0}
    if settings.get(_FSDP2):
        if settings.get(_MEGATRON_FSDP):
            raise SpecError(f"{_MEGATRON_FSDP} and {_FSDP2}: only one of them may be stated")
        fields = {
            "layout.zero": 3,
            "layout.fsdp": True,
            "layout.reshard_after_forward": not settings.get(_NO_RESHARD),
        }
    elif settings.get(_MEGATRON_FSDP):
        strategy = settings.get(_STRATEGY, "no_shard")
        if strategy not in _SHARDING:
            raise SpecError(f"{_STRATEGY} {strategy}: one of {', '.join(_SHARDING)}")
        fields = {"layout.zero": _SHARDING[strategy]}
        fields |= {"layout.fsdp": True, "layout.reshard_after_forward": True} if fields["layout.zero"] == 3 else {}
    elif settings.get(_STRATEGY, "no_shard") != "no_shard":
        say(_STRATEGY, f"without {_MEGATRON_FSDP} it means nothing")
    if (instances := settings.get(_INSTANCES, 1)) > 1:
        mesh = _read_mesh(settings, lambda about, text: None)
        ranks = mesh["layout.mesh.dp"] * mesh["layout.mesh.cp"]
        if ranks % instances:
            raise SpecError(f"{_INSTANCES} {instances}: must divide dp * cp = {ranks}")
        fields["layout.zero_group"] = ranks // instances
    return fields


def _expert_degrees(run: Run, say: Say) -> Settings:
    if run.model.moe is None:
        return {}
    return {"--expert-model-parallel-size": run.layout.ep, "--expert-tensor-parallel-size": run.layout.expert_tp}


def _read_expert_degrees(settings: Settings, say: Say) -> Fields:
    ep, tp = settings.get("--expert-model-parallel-size"), settings.get("--expert-tensor-parallel-size")
    if settings.get("--num-experts") is None:
        if ep is not None and ep > 1:
            raise SpecError(f"--expert-model-parallel-size {ep} needs --num-experts")
        return {}
    return {"layout.ep": ep or 1, "layout.expert_tp": tp or settings.get(_TP, 1)}


def _recompute(run: Run, say: Say) -> Settings:
    recompute = run.layout.recompute
    if recompute.mode == "none":
        return {}
    if recompute.mode == "full":
        if recompute.layers is None or recompute.method == "uniform":
            method, layers = "uniform", recompute.group_layers
        else:  # Megatron counts the layers of one stage, a run those of a pipeline rank
            stages = stages_per_rank(run) if run.layout.schedule == "interleaved" else 1
            method, layers = "block", -(-recompute.layers // stages)
        return {
            "--recompute-granularity": "full",
            "--recompute-method": method,
            "--recompute-num-layers": layers,
        }
    known = ("core_attn", "layernorm", "moe_act", "mla_up_proj", "mlp", "moe")
    if strange := [module for module in recompute.modules if module not in known]:
        say("layout.recompute.modules", f"Megatron cannot recompute {', '.join(strange)} alone")
    modules = [module for module in recompute.modules if module in known]
    return {"--recompute-granularity": "selective", "--recompute-modules": modules} if modules else {}


def _read_recompute(settings: Settings, say: Say) -> Fields:
    granularity, modules = settings.get("--recompute-granularity"), settings.get("--recompute-modules")
    method, layers = settings.get("--recompute-method"), settings.get("--recompute-num-layers")
    if settings.get("--recompute-activations"):
        granularity = granularity or "selective"
    if granularity is None:
        if method is not None:
            raise SpecError(f"--recompute-method {method} needs --recompute-granularity full")
        return {"layout.recompute.mode": "none"}
    if granularity not in ("full", "selective"):
        raise SpecError(f"--recompute-granularity {granularity}: full or selective")
    fields: dict[str, Any] = {"layout.recompute.mode": granularity}
    if granularity == "selective":
        if method is not None:
            raise SpecError(f"--recompute-method {method} needs --recompute-granularity full")
        taken = [module for module in modules or ["core_attn"] if module != "shared_experts"]
        if modules and len(taken) < len(modules):
            say("layout.recompute.modules", "shared_experts alone is not known to parsim: left out")
        return fields | {"layout.recompute.modules": taken} if taken else {"layout.recompute.mode": "none"}
    if method not in ("uniform", "block", None):
        raise SpecError(f"--recompute-method {method}: uniform or block")
    if method == "block":
        of_stage = 1 if layers is None else layers
        fields |= {"layout.recompute.method": "block", "layout.recompute.layers": of_stage * stages_of(settings)}
    elif layers is not None and layers > 1:
        fields |= {"layout.recompute.method": "uniform", "layout.recompute.layers": layers}
    return fields


def _offload(run: Run, say: Say) -> Settings:
    offload = run.layout.offload
    if offload is None:
        return {}
    found: dict[str, Any] = {"--optimizer-cpu-offload": True} if offload.optimizer else {}
    if offload.modules:
        found |= {"--fine-grained-activation-offloading": True, "--offload-modules": list(offload.modules)}
    elif offload.activation_layers:
        found["--cpu-offloading-num-layers"] = offload.activation_layers
    elif offload.activations:
        say("layout.offload.activations", "Megatron offloads a number of layers: all of a pipeline rank are written")
        say("layout.offload.activation_layers", "stands for layout.offload.activations")
        found["--cpu-offloading-num-layers"] = -(-run.model.layers // run.layout.mesh.pp)
    return found


def _read_offload(settings: Settings, say: Say) -> Fields:
    fields: dict[str, Any] = {"layout.offload.optimizer": True} if settings.get("--optimizer-cpu-offload") else {}
    layers = settings.get("--cpu-offloading-num-layers", 0)
    if settings.get("--fine-grained-activation-offloading"):
        if layers:
            raise SpecError("--cpu-offloading-num-layers contradicts --fine-grained-activation-offloading")
        return fields | {"layout.offload.modules": settings.get("--offload-modules", [])}
    return fields | ({"layout.offload.activation_layers": layers} if layers else {})


PARALLEL: tuple[Entry, ...] = (
    Entry(
        ("layout.mesh.tp", "layout.mesh.cp", "layout.mesh.dp", "layout.mesh.pp"),
        (
            *(Setting(flag) for flag in (NODES, PER_NODE, WORLD, _TP, _CP, _PP)),
            Setting("--use-tp-pp-dp-mapping", "switch"),
        ),
        _mesh,
        _read_mesh,
    ),
    Entry(
        ("batch.sequence_length", "layout.micro_batch_size", "batch.global_batch_size"),
        (
            *(Setting(flag) for flag in ("--seq-length", "--micro-batch-size", "--global-batch-size")),
            Setting("--rampup-batch-size", "words"),
        ),
        _batch,
        _read_batch,
    ),
    switch("layout.sequence_parallel", "--sequence-parallel"),
    worded(
        "layout.cp_comm",
        "--cp-comm-type",
        {"ring": "p2p", "a2a": "a2a", "allgather": "all_gather"},
        "p2p",
        also={"allgather": "allgather"},  # as the help of the flag spells it
    ),
    Entry(
        ("layout.ep", "layout.expert_tp"),
        (Setting("--expert-model-parallel-size"), Setting("--expert-tensor-parallel-size")),
        _expert_degrees,
        _read_expert_degrees,
    ),
    Entry(
        ("layout.zero", "layout.fsdp", "layout.reshard_after_forward", "layout.zero_group"),
        (
            *(Setting(flag, "switch") for flag in (_OPTIMIZER, _MEGATRON_FSDP, _FSDP2, _NO_RESHARD)),
            Setting(_STRATEGY, "text"),
            Setting(_INSTANCES),
        ),
        _zero,
        _read_zero,
    ),
    Entry(
        ("layout.recompute.mode", "layout.recompute.modules", "layout.recompute.layers", "layout.recompute.method"),
        (
            Setting("--recompute-granularity", "text"),
            Setting("--recompute-modules", "words"),
            Setting("--recompute-method", "text"),
            Setting("--recompute-num-layers", "whole"),
            Setting("--recompute-activations", "switch"),
        ),
        _recompute,
        _read_recompute,
    ),
    Entry(
        tuple(f"layout.offload.{part}" for part in ("activations", "activation_layers", "modules", "optimizer")),
        (
            Setting("--optimizer-cpu-offload", "switch"),
            Setting("--cpu-offloading-num-layers", "whole"),
            Setting("--fine-grained-activation-offloading", "switch"),
            Setting("--offload-modules", "words"),
        ),
        _offload,
        _read_offload,
    ),
    same("seed", Setting("--seed", "whole"), 1234),
)
