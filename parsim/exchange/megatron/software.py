"""Kernels, overlaps and dispatchers in Megatron-LM's flags, and back."""

from typing import Any

from parsim.errors import SpecError
from parsim.exchange.table import Entry, Fields, Say, Setting, Settings, same, switch
from parsim.spec import Run

__all__ = ["SOFTWARE"]

_UNFUSED = (
    "--no-bias-gelu-fusion",
    "--no-bias-swiglu-fusion",
    "--no-bias-dropout-fusion",
    "--no-masked-softmax-fusion",
)


def _ops(run: Run, say: Say) -> Settings:
    if run.software.ops == "compiled":
        say("software.ops", "Megatron does not compile its layers: its fused kernels are asked for")
    return dict.fromkeys(_UNFUSED, True) if run.software.ops == "eager" else {}


def _read_ops(settings: Settings, say: Say) -> Fields:
    activation = "--no-bias-swiglu-fusion" if settings.get("--swiglu") else "--no-bias-gelu-fusion"
    off = [bool(settings.get(flag)) for flag in (activation, "--no-bias-dropout-fusion")]
    if any(off) and not all(off):
        say("software.ops", f"{activation} and --no-bias-dropout-fusion differ: the rest is taken as fused")
    return {"software.ops": "eager" if all(off) else "fused"}


def _attention(run: Run, say: Say) -> Settings:
    kernel = run.software.attention
    if kernel == "flash3":
        say("software.attention", "Megatron takes FlashAttention 3 where it is installed: flash says no more")
    if kernel == "unfused_sinks":
        return {"--attention-backend": "unfused", "--softmax-type": "learnable"}
    return {"--attention-backend": {"cudnn": "fused", "unfused": "unfused"}.get(kernel or "", "flash")}


def _read_attention(settings: Settings, say: Say) -> Fields:
    backend = settings.get("--attention-backend", "flash" if settings.get("--use-flash-attn") else "auto")
    kernels = {"flash": "flash2", "fused": "cudnn", "unfused": "unfused", "local": "unfused", "auto": None}
    if backend not in kernels:
        raise SpecError(f"--attention-backend {backend}: one of {', '.join(kernels)}")
    if settings.get("--softmax-type", "vanilla") == "learnable" and backend in ("unfused", "local"):
        return {"software.attention": "unfused_sinks"}
    return {} if kernels[backend] is None else {"software.attention": kernels[backend]}


def _loss(run: Run, say: Say) -> Settings:
    if run.software.loss == "torch":
        say("software.loss", "Megatron's own cross-entropy is written")
    kernel = {"te_fused": "te", "compiled": "native"}.get(run.software.loss)
    return {"--cross-entropy-loss-fusion": True, "--cross-entropy-fusion-impl": kernel} if kernel else {}


def _read_loss(settings: Settings, say: Say) -> Fields:
    if not settings.get("--cross-entropy-loss-fusion"):
        return {"software.loss": "megatron"}
    kernel = settings.get("--cross-entropy-fusion-impl", "native")
    if kernel not in ("native", "te"):
        raise SpecError(f"--cross-entropy-fusion-impl {kernel}: native or te")
    return {"software.loss": "te_fused" if kernel == "te" else "compiled"}


def _overlap(run: Run, say: Say) -> Settings:
    if not run.software.dp_overlap:
        return {}
    return {"--overlap-grad-reduce": True, **({"--overlap-param-gather": True} if run.layout.zero_stage else {})}


def _read_overlap(settings: Settings, say: Say) -> Fields:
    reduce, gather = (settings.get(flag) for flag in ("--overlap-grad-reduce", "--overlap-param-gather"))
    if gather and not reduce:
        raise SpecError("--overlap-param-gather needs --overlap-grad-reduce")
    if reduce and not gather and settings.get("--use-distributed-optimizer"):
        say(
            "software.dp_overlap", "parsim hides the gather of parameters as well; --overlap-param-gather is not stated"
        )
    return {"software.dp_overlap": bool(reduce)}


def _tensor_overlap(run: Run, say: Say) -> Settings:
    return {"--tp-comm-overlap": True} if run.software.tp_overlap == "te_userbuffers" else {}


def _read_tensor_overlap(settings: Settings, say: Say) -> Fields:
    return {"software.tp_overlap": "te_userbuffers" if settings.get("--tp-comm-overlap") else "none"}


def _dispatcher(run: Run, say: Say) -> Settings:
    dispatcher = run.software.moe_dispatcher
    if run.model.moe is None:
        return {}
    if dispatcher in ("deepep", "hybridep"):
        return {"--moe-token-dispatcher-type": "flex", "--moe-flex-dispatcher-backend": dispatcher}
    return {"--moe-token-dispatcher-type": dispatcher}


def _read_dispatcher(settings: Settings, say: Say) -> Fields:
    if "--num-experts" not in settings:
        return {}
    kind = settings.get("--moe-token-dispatcher-type", "allgather")
    if settings.get("--moe-enable-deepep") and kind != "flex":
        raise SpecError("--moe-enable-deepep needs --moe-token-dispatcher-type flex")
    kinds = {"allgather": "allgather", "alltoall": "alltoall", "alltoall_seq": "alltoall", "flex": None}
    if kind not in kinds:
        raise SpecError(f"--moe-token-dispatcher-type {kind}: one of {', '.join(kinds)}")
    backend = settings.get("--moe-flex-dispatcher-backend", "deepep")
    if backend not in ("deepep", "hybridep"):
        raise SpecError(f"--moe-flex-dispatcher-backend {backend}: deepep or hybridep")
    return {"software.moe_dispatcher": kinds[kind] or backend}


def _routing(run: Run, say: Say) -> Settings:
    software = run.software
    if run.model.moe is None:
        return {}
    if software.routing == "balanced":
        return {"--moe-router-force-load-balancing": True}
    if software.routing == "token_drop":
        found: dict[str, Any] = {"--moe-expert-capacity-factor": software.capacity_factor or 1.0}
        return found | ({"--moe-pad-expert-input-to-capacity": True} if software.pad_to_capacity else {})
    return {}


def _read_routing(settings: Settings, say: Say) -> Fields:
    if "--num-experts" not in settings:
        return {}
    if (factor := settings.get("--moe-expert-capacity-factor")) is not None and factor > 0:
        padded = bool(settings.get("--moe-pad-expert-input-to-capacity"))
        fields = {"software.routing": "token_drop", "software.pad_to_capacity": padded}
        return fields if factor == 1 else {**fields, "software.capacity_factor": factor}
    return {"software.routing": "balanced" if settings.get("--moe-router-force-load-balancing") else "learned"}


def _graphs(run: Run, say: Say) -> Settings:
    graphs = run.software.cuda_graphs
    if graphs == "none":
        return {}
    if graphs == "full_iteration":
        return {"--cuda-graph-impl": "local", "--cuda-graph-scope": ["full_iteration"]}
    scope = [graphs] if isinstance(graphs, str) else list(graphs)
    return {"--cuda-graph-impl": "transformer_engine", "--cuda-graph-scope": scope}


def _read_graphs(settings: Settings, say: Say) -> Fields:
    kind = settings.get("--cuda-graph-impl", "none")
    if kind == "none":  # the flags before --cuda-graph-impl
        kind = "local" if settings.get("--enable-cuda-graph") else kind
        kind = "transformer_engine" if settings.get("--external-cuda-graph") else kind
    if kind not in ("none", "local", "transformer_engine"):
        raise SpecError(f"--cuda-graph-impl {kind}: none, local or transformer_engine")
    scope = settings.get("--cuda-graph-scope") or ["full"]
    if kind == "none":
        return {"software.cuda_graphs": "none"}
    if scope in (["full"], ["full_iteration"]):
        return {"software.cuda_graphs": scope[0]}
    return {"software.cuda_graphs": scope}


def _optimizer(run: Run, say: Say) -> Settings:
    optimizer = run.software.optimizer
    if optimizer in ("sgd", "momentum"):
        return {"--optimizer": "sgd", "--sgd-momentum": 0.9 if optimizer == "momentum" else 0.0}
    if optimizer not in ("adam", "muon"):
        say("software.optimizer", f"Megatron has no {optimizer}: adam is written")
        return {"--optimizer": "adam"}
    return {"--optimizer": optimizer}


def _read_optimizer(settings: Settings, say: Say) -> Fields:
    optimizer = settings.get("--optimizer", "adam")
    if optimizer == "sgd":
        return {"software.optimizer": "momentum" if settings.get("--sgd-momentum", 0.9) else "sgd"}
    if optimizer not in ("adam", "muon", "dist_muon"):
        raise SpecError(f"--optimizer {optimizer}: adam, sgd, muon or dist_muon")
    return {"software.optimizer": optimizer.removeprefix("dist_")}


def _switches(*names: str) -> tuple[Setting, ...]:
    return tuple(Setting(name, "switch") for name in names)


SOFTWARE: tuple[Entry, ...] = (
    same("software.attention_dropout", Setting("--attention-dropout", "number"), 0.1),
    same("software.hidden_dropout", Setting("--hidden-dropout", "number"), 0.1),
    Entry(("software.ops",), _switches(*_UNFUSED), _ops, _read_ops),
    Entry(
        ("software.attention",),
        (
            Setting("--attention-backend", "text"),
            Setting("--softmax-type", "text"),
            Setting("--use-flash-attn", "switch"),
        ),
        _attention,
        _read_attention,
    ),
    switch("software.fused_weight_gradient", "--no-gradient-accumulation-fusion", when=False),
    Entry(
        ("software.loss",),
        (Setting("--cross-entropy-loss-fusion", "switch"), Setting("--cross-entropy-fusion-impl", "text")),
        _loss,
        _read_loss,
    ),
    Entry(("software.tp_overlap",), _switches("--tp-comm-overlap"), _tensor_overlap, _read_tensor_overlap),
    Entry(
        ("software.dp_overlap",), _switches("--overlap-grad-reduce", "--overlap-param-gather"), _overlap, _read_overlap
    ),
    switch("software.ep_overlap", "--overlap-moe-expert-parallel-comm"),
    Entry(
        ("software.moe_dispatcher",),
        (
            Setting("--moe-token-dispatcher-type", "text"),
            Setting("--moe-flex-dispatcher-backend", "text"),
            Setting("--moe-enable-deepep", "switch"),
        ),
        _dispatcher,
        _read_dispatcher,
    ),
    Entry(
        ("software.routing", "software.capacity_factor", "software.pad_to_capacity"),
        (
            Setting("--moe-router-force-load-balancing", "switch"),
            Setting("--moe-expert-capacity-factor", "number"),
            Setting("--moe-pad-expert-input-to-capacity", "switch"),
        ),
        _routing,
        _read_routing,
    ),
    Entry(
        ("software.cuda_graphs",),
        (
            Setting("--cuda-graph-impl", "text"),
            Setting("--cuda-graph-scope", "words"),
            *_switches("--enable-cuda-graph", "--external-cuda-graph"),
        ),
        _graphs,
        _read_graphs,
    ),
    switch("software.deterministic_attention", "--deterministic-mode"),
    Entry(
        ("software.optimizer",),
        (Setting("--optimizer", "text"), Setting("--sgd-momentum", "number")),
        _optimizer,
        _read_optimizer,
    ),
)
