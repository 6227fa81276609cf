"""Runs for the memory tests: shapes that publications measured, on DGX H100 (nothing here depends on the GPU)."""

from typing import Any

from parsim.spec import Run, run_from_document

__all__ = ["DEEPSEEK_V2", "DEEPSEEK_V3", "LLAMA_70B", "LLAMA_405B", "TINY", "TINY_EXPERTS", "TINY_LATENT", "make"]

LLAMA_70B: dict[str, Any] = {
    "name": "llama-70b-shapes",
    "layers": 12,
    "hidden": 8192,
    "heads": 64,
    "kv_heads": 8,
    "head_dim": 128,
    "ffn": 28672,
    "vocab": 128256,
    "gated_mlp": True,
    "norm": "rms",
    "positions": "rope",
    "max_positions": 131072,
    "tied_embeddings": False,
}
LLAMA_405B = {**LLAMA_70B, "layers": 4, "hidden": 16384, "heads": 128, "kv_heads": 16, "ffn": 53248}
TINY = {**LLAMA_70B, "layers": 16, "hidden": 256, "heads": 8, "kv_heads": 8, "head_dim": 32, "ffn": 512, "vocab": 1024}
_MLA = {"q_rank": 1536, "kv_rank": 512, "nope_dim": 128, "rope_dim": 64, "value_dim": 128}
_LATENT = {key: value for key, value in LLAMA_70B.items() if key not in ("kv_heads", "head_dim")}
DEEPSEEK_V2 = {**_LATENT, "layers": 4, "hidden": 5120, "heads": 128, "ffn": 12288, "vocab": 102400, "mla": _MLA} | {
    "moe": {"experts": 160, "topk": 6, "expert_ffn": 1536, "shared_ffn": 3072, "dense_layers": 1}
}
DEEPSEEK_V3 = {**_LATENT, "layers": 4, "hidden": 7168, "heads": 128, "ffn": 18432, "vocab": 129280, "mla": _MLA} | {
    "moe": {"experts": 256, "topk": 8, "expert_ffn": 2048, "shared_ffn": 2048, "dense_layers": 1}
}
TINY_EXPERTS = {**TINY, "moe": {"experts": 8, "topk": 2, "expert_ffn": 128, "shared_ffn": 64, "dense_layers": 1}}
TINY_LATENT = {key: value for key, value in TINY_EXPERTS.items() if key not in ("kv_heads", "head_dim")} | {
    "mla": {"q_rank": 96, "kv_rank": 64, "nope_dim": 32, "rope_dim": 16, "value_dim": 32}
}


def make(model: dict[str, Any], mesh: dict[str, int], m: int = 8, sequence: int = 4096, **parts: Any) -> Run:
    """A run of `m` micro-batches of one sequence each, by Megatron-core with ZeRO-1 unless `parts` say otherwise."""
    layout = {"mesh": mesh, "zero": 1, "sequence_parallel": mesh.get("tp", 1) > 1, **parts.pop("layout", {})}
    size = mesh.get("tp", 1) * mesh.get("cp", 1) * mesh.get("dp", 1) * mesh.get("pp", 1)
    document = {
        "model": model,
        "cluster": {"name": "dgx-h100", "nodes": -(-size // 8)},
        "layout": layout,
        "batch": {"sequence_length": sequence, "global_batch_size": m * mesh.get("dp", 1)},
        "software": {"attention": "cudnn", "loss": "te_fused", **parts.pop("software", {})},
    }
    return run_from_document(document)
