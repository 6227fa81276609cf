"""Checks: what a layout asks of the model, the cluster and the software. Each names the rule and what would do."""

from parsim.errors import LayoutError
from parsim.spec.cluster import ClusterSpec
from parsim.spec.layout import Layout
from parsim.spec.model import ModelSpec
from parsim.spec.software import Software

__all__ = ["check_run"]


def check_run(model: ModelSpec, cluster: ClusterSpec, layout: Layout, software: Software, sequence: int) -> None:
    """Raises LayoutError for the first rule that the layout breaks."""
    _check_cluster(cluster, layout)
    _check_tensor(model, layout)
    _check_sequence(model, layout, sequence)
    _check_experts(model, layout)
    _check_routing(model, layout, software)
    _check_sharding(layout, software)
    _check_offload(model, layout)
    if (
        layout.precision != "fp64"
    ):  # no file has its rate: it is there to check results, and only measured costs price it
        cluster.node.gpu.peak_flops_per_s(layout.precision)
    elif software.params_dtype != "fp64":
        raise LayoutError(f"software.params_dtype {software.params_dtype}: weights of an fp64 run are fp64")
    kernels = cluster.node.gpu.efficiency.attention
    if software.attention in ("flash2", "flash3", "cudnn") and software.attention not in kernels:
        raise LayoutError(
            f"software.attention {software.attention}: its speed on {cluster.node.gpu.name} is not known; "
            f"{_either([*kernels, 'unfused'])} would do"
        )


def _check_cluster(cluster: ClusterSpec, layout: Layout) -> None:
    mesh, gpus = layout.mesh, cluster.gpus
    if mesh.size == gpus or (cluster.nodes == 1 and mesh.size < gpus):
        return  # a part of one node is a cluster of its own
    ways = []
    rest = mesh.tp * mesh.cp * mesh.pp
    if gpus % rest == 0:
        ways.append(f"dp {gpus // rest}")
    if mesh.size % cluster.node.gpus == 0:
        ways.append(f"nodes {mesh.size // cluster.node.gpus}")
    if not ways:
        ways.append(f"a mesh of {gpus} ranks")
    raise LayoutError(
        f"layout.mesh: tp {mesh.tp} * cp {mesh.cp} * dp {mesh.dp} * pp {mesh.pp} = {mesh.size} ranks, the cluster has "
        f"{cluster.nodes} nodes * {cluster.node.gpus} = {gpus} GPUs; {_either(ways)} would do"
    )


def _check_tensor(model: ModelSpec, layout: Layout) -> None:
    tp = layout.mesh.tp
    _divides("layout.mesh.tp", tp, "the attention heads", model.heads)
    if model.mla is None and model.kv_heads % tp and tp % model.kv_heads:
        legal = [t for t in _divisors(model.heads) if model.kv_heads % t == 0 or t % model.kv_heads == 0]
        raise LayoutError(
            f"layout.mesh.tp {tp}: {model.kv_heads} kv_heads can neither be cut nor duplicated evenly; "
            f"{_near(legal, tp)} would do"
        )
    if model.moe is None or model.moe.dense_layers:
        _divides("layout.mesh.tp", tp, "ffn", model.ffn)
    if model.moe is not None and model.moe.shared_ffn:
        _divides("layout.mesh.tp", tp, "moe.shared_ffn", model.moe.shared_ffn)


def _check_sequence(model: ModelSpec, layout: Layout, sequence: int) -> None:
    mesh = layout.mesh
    if model.positions == "learned" and model.max_positions is not None and sequence > model.max_positions:
        raise LayoutError(
            f"batch.sequence_length {sequence}: {model.name} has learned positions for {model.max_positions} tokens"
        )
    if mesh.cp > 1 and layout.cp_comm != "a2a" and sequence % (2 * mesh.cp):
        raise LayoutError(
            f"batch.sequence_length {sequence}: balanced causal attention cuts it into 2 * cp = {2 * mesh.cp} pieces; "
            f"{_multiples(sequence, 2 * mesh.cp)} would do"
        )
    if mesh.cp > 1 and layout.cp_comm == "a2a":
        kv_heads = max(model.kv_heads // mesh.tp, 1)
        _divides("layout.mesh.cp", mesh.cp, "the kv_heads of a tp rank (all-to-all moves whole heads)", kv_heads)
    pieces = mesh.cp * (mesh.tp if layout.sequence_parallel else 1)
    if sequence % pieces:
        rule = "cp * tp (sequence_parallel)" if layout.sequence_parallel else "cp"
        raise LayoutError(
            f"batch.sequence_length {sequence}: must be a multiple of {rule} = {pieces}; "
            f"{_multiples(sequence, pieces)} would do"
        )


def _check_experts(model: ModelSpec, layout: Layout) -> None:
    mesh, moe = layout.mesh, model.moe
    if moe is None:
        for name, degree in (("ep", layout.ep), ("expert_tp", layout.expert_tp)):
            if degree > 1:
                raise LayoutError(f"layout.{name} {degree}: {model.name} has no experts; {name} 1 would do")
        return
    _divides("layout.ep", layout.ep, "the experts", moe.experts)
    _divides("layout.expert_tp", layout.expert_tp, "moe.expert_ffn", moe.expert_ffn)
    shared = mesh.dp * mesh.cp * mesh.tp
    if shared % (layout.ep * layout.expert_tp):
        legal = [d for d in _divisors(moe.experts) if shared % (d * layout.expert_tp) == 0]
        ways = f"ep {_near(legal, layout.ep)} would do" if legal else "expert_tp 1 would do"
        raise LayoutError(
            f"layout.ep {layout.ep} * expert_tp {layout.expert_tp}: must divide dp * cp * tp = {shared}; {ways}"
        )


def _check_routing(model: ModelSpec, layout: Layout, software: Software) -> None:
    moe, skew = model.moe, software.router_skew
    if moe is None:
        if skew is not None or software.capacity_factor is not None:
            field = "capacity_factor" if skew is None else "router_skew"
            raise LayoutError(f"software.{field}: {model.name} has no experts to route to; without it the run is fine")
        return
    if skew is not None and skew.max_over_mean is not None and skew.max_over_mean > layout.ep:
        raise LayoutError(
            f"software.router_skew {skew.max_over_mean:g}: of ep {layout.ep} ranks the busiest has at most "
            f"{layout.ep} times the mean; 1 to {layout.ep} would do"
        )


def _check_sharding(layout: Layout, software: Software) -> None:
    if software.bucket_bytes is not None and layout.zero_stage > 1:
        raise LayoutError(
            f"software.bucket_bytes: zero {layout.zero_stage} reduces layer by layer in every micro-batch; no bucket, "
            "or zero 0 or 1 would do"
        )
    if layout.fsdp and layout.zero == 1:
        raise LayoutError("layout.zero 1: fsdp shards gradients and parameters too; zero 3 would do")
    if layout.zero_group is not None:
        _divides("layout.zero_group", layout.zero_group, "dp * cp", layout.mesh.dp * layout.mesh.cp)


def _check_offload(model: ModelSpec, layout: Layout) -> None:
    offload, recompute = layout.offload, layout.recompute
    if offload is None or not offload.moves_activations:
        return
    word = "modules" if offload.modules else "activation_layers" if offload.activation_layers else "activations"
    kept = {"full": "their input", "every_second_matmul": "half of their matmuls' results"}
    for how, what in kept.items():
        if how == recompute.mode or how in recompute.modules:
            raise LayoutError(
                f"layout.offload.{word}: layers recomputed in full or in part ({how}) keep no more than {what}; "
                "recompute none, or selective with modules, would do"
            )
    if offload.activation_layers > model.layers:
        raise LayoutError(
            f"layout.offload.activation_layers {offload.activation_layers}: {model.name} has {model.layers} layers; "
            f"{model.layers} would do"
        )
    for module in offload.modules:
        expert = module in ("expert_fc1", "moe_act")
        if expert and model.moe is None:
            raise LayoutError(f"layout.offload.modules {module}: {model.name} has no experts; core_attn would do")
        if expert and "moe" in recompute.modules:
            raise LayoutError(
                f"layout.offload.modules {module}: it is recomputed with all of moe; recompute moe_act would do"
            )


def _divides(name: str, value: int, what: str, total: int) -> None:
    if total % value:
        raise LayoutError(f"{name} {value}: must divide {what}, {total}; {_near(_divisors(total), value)} would do")


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _near(legal: list[int], value: int) -> str:
    """The legal values next to `value` on both sides."""
    below, above = [v for v in legal if v <= value], [v for v in legal if v > value]
    return _either([str(v) for v in (*below[-1:], *above[:1])])


def _multiples(value: int, unit: int) -> str:
    below = value // unit * unit
    return _either([str(v) for v in (below, below + unit) if v])


def _either(words: list[str]) -> str:
    return " or ".join(dict.fromkeys(words))
