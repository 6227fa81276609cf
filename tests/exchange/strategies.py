"""Runs of every kind that the tables of names speak of, for hypothesis: small enough to be checked, legal by making."""

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from parsim.errors import ParsimError
from parsim.exchange.comparable import stages_per_rank
from parsim.spec import Run, run_from_document

MODULES = ["core_attn", "layernorm", "moe_act", "mla_up_proj", "mlp", "moe", "act", "every_second_matmul"]
PRECISIONS = ["fp32", "bf16", "fp16", "fp8-delayed-scaling", "fp8-tensorwise", "fp8-current-scaling", "fp8-rowwise"]
OFFLOADS: list[dict[str, Any] | None] = [
    None,
    None,
    {"activations": True},
    {"activation_layers": 3},
    {"modules": ["core_attn"], "optimizer": True},
    {"optimizer": True, "weights": True},
]
SCHEDULES = [
    ("1f1b", None),
    ("1f1b", 1),
    ("gpipe", None),
    ("interleaved", 2),
    ("interleaved", 4),
    ("looped-bfs", 2),
    ("interleaved-zb", 2),
    ("zb-h1", None),
    ("zb-h2", None),
    ("zb-auto", None),
    ("zb-v", None),
    ("dualpipe-v", None),
    ("dualpipe", None),
]


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([8, 16]))
    model: dict[str, Any] = {
        "name": "drawn",
        "layers": draw(st.sampled_from([32, 30])),
        "hidden": heads * 64,
        "heads": heads,
        "kv_heads": draw(st.sampled_from([heads, heads // 2, 8])),
        "ffn": draw(st.sampled_from([4096, 2048])),
        "vocab": draw(st.sampled_from([32000, 50257])),
        "gated_mlp": draw(st.booleans()),
        "norm": draw(st.sampled_from(["rms", "layer"])),
        "attention_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "qk_norm": draw(st.sampled_from(["none", "per_head"])),
        "positions": draw(st.sampled_from(["rope", "learned"])),
        "max_positions": draw(st.sampled_from([4096, 8192])),
        "tied_embeddings": draw(st.booleans()),
        "parallel_residual": draw(st.booleans()),
        "mtp_layers": draw(st.sampled_from([0, 0, 1])),
    }
    if draw(st.booleans()):
        model["head_dim"] = 96
    if draw(st.booleans()):
        model |= {"sliding_window": 128, "sliding_window_every": draw(st.integers(1, 4))}
    if draw(st.booleans()):
        model["moe"] = {
            "experts": 16,
            "topk": draw(st.integers(1, 8)),
            "expert_ffn": 1024,
            "shared_ffn": draw(st.sampled_from([0, 2048])),
            "dense_layers": draw(st.integers(0, 3)),
            "router_bias": draw(st.booleans()),
            "groups": draw(st.sampled_from([1, 4])),
        }
        model["moe"]["shared_gate"] = bool(model["moe"]["shared_ffn"]) and draw(st.booleans())
        model["moe"]["topk_groups"] = draw(st.integers(1, model["moe"]["groups"]))
    if draw(st.booleans()):
        model["mla"] = {"kv_rank": 512, "nope_dim": 64, "rope_dim": 32, "value_dim": 64}
        model["mla"] |= {"q_rank": 1536} if draw(st.booleans()) else {}
        model["kv_heads"] = heads
        model.pop("head_dim", None)
    return model


@st.composite
def layouts(draw: st.DrawFn, experts: bool) -> dict[str, Any]:
    schedule, stages = draw(st.sampled_from(SCHEDULES))
    fsdp = draw(st.booleans())
    layout: dict[str, Any] = {
        "mesh": {axis: draw(st.sampled_from([1, 2, 4])) for axis in ("tp", "cp", "dp", "pp")},
        "schedule": schedule,
        "micro_batch_size": draw(st.integers(1, 4)),
        "fsdp": fsdp,
        "zero": draw(st.sampled_from([0, 2, 3] if fsdp else [0, 1, 2, 3])),
        "reshard_after_forward": draw(st.booleans()),
        "sequence_parallel": draw(st.booleans()),
        "precision": draw(st.sampled_from(PRECISIONS)),
        "cp_comm": draw(st.sampled_from(["ring", "a2a", "allgather"])),
    }
    if stages is not None:
        layout["stages_per_rank"] = stages
    if schedule == "interleaved" and draw(st.booleans()):
        layout["group_size"] = layout["mesh"]["pp"]
    if schedule == "zb-auto" and draw(st.booleans()):
        layout["activation_limit_stages"] = draw(st.sampled_from([2, 4.0, 5.5]))
    if draw(st.booleans()):
        ranks = layout["mesh"]["cp"] * layout["mesh"]["dp"]
        layout["zero_group"] = draw(st.sampled_from([size for size in (1, 2, 4) if ranks % size == 0]))
    shared = layout["mesh"]["tp"] * layout["mesh"]["cp"] * layout["mesh"]["dp"]
    if experts:
        layout["ep"] = draw(st.sampled_from([degree for degree in (1, 2, 4) if shared % degree == 0]))
        layout["expert_tp"] = draw(
            st.sampled_from([degree for degree in (1, 2) if shared // layout["ep"] % degree == 0])
        )
    recompute = draw(st.sampled_from(["none", "full", "selective", "block", "uniform"]))
    if recompute == "selective":
        layout["recompute"] = {
            "mode": recompute,
            "modules": draw(st.lists(st.sampled_from(MODULES), min_size=1, max_size=3, unique=True)),
        }
    elif recompute in ("block", "uniform"):
        layout["recompute"] = {"mode": "full", "method": recompute, "layers": draw(st.integers(1, 5))}
    else:
        layout["recompute"] = recompute
    offload = draw(st.sampled_from(OFFLOADS))
    if offload is not None and recompute in ("full", "block", "uniform"):
        offload = {"optimizer": True}  # recomputed layers keep too little to move
    return layout if offload is None else {**layout, "offload": offload}


@st.composite
def softwares(draw: st.DrawFn, experts: bool) -> dict[str, Any]:
    software: dict[str, Any] = {
        "framework": draw(st.sampled_from(["megatron-core", "torchtitan", "deepspeed", "zero-bubble-megatron"])),
        "attention": draw(st.sampled_from(["flash2", "flash3", "cudnn", "unfused", "unfused_sinks"])),
        "attention_dropout": draw(st.sampled_from([0.0, 0.1])),
        "hidden_dropout": draw(st.sampled_from([0.0, 0.1])),
        "ops": draw(st.sampled_from(["eager", "fused", "compiled"])),
        "gradient_dtype": draw(st.sampled_from(["fp32", "bf16"])),
        "fused_weight_gradient": draw(st.booleans()),
        "loss": draw(st.sampled_from(["megatron", "te_fused", "torch", "compiled"])),
        "vocab_pad_multiple": draw(st.sampled_from([128, 64, None])),
        "tp_overlap": draw(st.sampled_from(["none", "te_userbuffers", "async_tp"])),
        "dp_overlap": draw(st.booleans()),
        "cuda_graphs": draw(st.sampled_from(["none", "full", "full_iteration", ["attn", "mlp"]])),
        "deterministic_attention": draw(st.booleans()),
        "post_validation": draw(st.booleans()),
        "optimizer": draw(st.sampled_from(["adam", "lamb", "muon", "sgd", "momentum"])),
        "throttled": draw(st.booleans()),
    }
    if draw(st.booleans()):
        software |= {"params_dtype": "fp32", "master_weights": None}
    if experts:
        software |= {
            "ep_overlap": draw(st.booleans()),
            "moe_dispatcher": draw(st.sampled_from(["alltoall", "allgather", "deepep", "hybridep"])),
            "routing": draw(st.sampled_from(["balanced", "learned", "token_drop", "unknown"])),
            "fused_moe_activation": draw(st.booleans()),
        }
    return software


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run whose layout fits its model, its batch and as many H100 as its mesh has."""
    model = draw(models())
    layout = draw(layouts("moe" in model))
    layout["split"] = draw(st.sampled_from(["even" if model["layers"] == 32 else "ends_one_fewer", "balanced"]))
    if layout["split"] == "ends_one_fewer" and layout["mesh"]["pp"] == 1:
        layout["split"] = "even"
    unit = layout["micro_batch_size"] * layout["mesh"]["dp"]
    document = {
        "name": "drawn",
        "model": model,
        "cluster": {"name": "dgx-h100"},
        "layout": layout,
        "batch": {
            "sequence_length": draw(st.sampled_from([1024, 4096])),
            "global_batch_size": unit * draw(st.sampled_from([4, 8, 16])),
        },
        "software": draw(softwares("moe" in model)),
        "seed": draw(st.integers(0, 99)),
    }
    gpus = 1
    for degree in layout["mesh"].values():
        gpus *= degree
    document["cluster"]["nodes"] = -(-gpus // 8)
    try:
        run = run_from_document(document)
        run.layers_of_parts(run.layout.mesh.pp * stages_per_rank(run))
    except ParsimError:
        assume(False)
        raise
    return run
