"""A layer of the ledger: its ops put together, what recomputation takes off them, whose weights they have.

Recomputed modules (Megatron's names): `core_attn`, `mla_up_proj`, `layernorm`, `act`, `moe_act` drop one tensor of one
op, which is there again while its backward runs; `mlp` and `moe` drop all ops behind the second norm but their input;
`every_second_matmul` (torchtitan's selective op) is counted as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from parsim.memory.ledger import experts as moe_ops
from parsim.memory.ledger.attention import (
    attention,
    core_bytes,
    normed_input_bytes,
    projected_bytes,
    statistics_bytes,
    widths,
)
from parsim.memory.ledger.entry import Entry, Unit, dropped
from parsim.memory.ledger.kernels import hidden_mask, norm_bytes
from parsim.memory.ledger.linear import mlp
from parsim.memory.ledger.tokens import Tokens
from parsim.model.layer import LayerKind
from parsim.model.weights import Weight
from parsim.spec import Run

__all__ = ["OP_OF_WEIGHT", "layer_ops", "layer_units", "with_gradients"]

OP_OF_WEIGHT: Mapping[str, str] = {
    "attention_norm": "norm 1",
    **dict.fromkeys(("key", "value", "query_norm", "key_norm"), "qkv"),
    "query": "qkv",  # of an MLA without a query latent: the op of that name
    **dict.fromkeys(("query_down", "kv_down"), "down"),
    **dict.fromkeys(("query_latent_norm", "kv_latent_norm"), "latent norms"),
    **dict.fromkeys(("query_up", "kv_up"), "up"),
    "proj": "proj",
    "mlp_norm": "norm 2",
    **dict.fromkeys(("mlp.gate", "mlp.up"), "fc1"),
    "mlp.down": "fc2",
    "router": "router",
    "shared_expert.gate_of_all": "router",
    **dict.fromkeys(("shared_expert.gate", "shared_expert.up"), "shared fc1"),
    "shared_expert.down": "shared fc2",
    **dict.fromkeys(("experts.gate", "experts.up"), "expert fc1"),
    "experts.down": "expert fc2",
    **dict.fromkeys(("embedding_norm", "state_norm"), "mtp norms"),
    "mtp_projection": "mtp projection",
    "mtp_final_norm": "final norm",
    **dict.fromkeys(("embedding", "positions"), "embedding"),
    "final_norm": "final norm",
    "head": "loss",
}
"""The op that reads a weight, by the weight's name without `.bias`."""


def layer_ops(run: Run, at: Tokens, kind: LayerKind) -> tuple[Entry, ...]:
    """All ops of a layer in forward order, nothing recomputed."""
    return (*attention(run, at, kind.window), *_behind(run, at, kind))


def layer_units(run: Run, at: Tokens, kind: LayerKind) -> tuple[Unit, ...]:
    """A layer's ops as its selective recomputation leaves them; one unit unless a part of it is recomputed whole."""
    modules = run.layout.recompute.modules
    if "every_second_matmul" in modules:
        return (Unit(layer_ops(run, at, kind), _every_second_matmul_bytes(run, at)),)
    first, second = attention(run, at, kind.window), _behind(run, at, kind)
    for op, size in _dropped(run, at, kind):
        first, second = dropped(first, op, size), dropped(second, op, size)
    if ("moe" if kind.experts else "mlp") in modules:
        norm, *rest = second
        normed = 0.0 if "layernorm" in modules else normed_input_bytes(at)
        return Unit((*first, norm)), Unit(tuple(rest), normed)
    return (Unit((*first, *second)),)


def _behind(run: Run, at: Tokens, kind: LayerKind) -> tuple[Entry, ...]:
    """From the second norm on; a parallel residual (GPT-NeoX) feeds both norms from the same input."""
    moe = run.model.moe if kind.experts else None
    saved = norm_bytes(run, at, is_second=run.model.parallel_residual)
    norm = Entry("norm 2", saved=saved, forward=at.stream, backward=at.stream)
    if moe is not None:
        return (norm, *moe_ops.experts(run, moe, at, at.stream))
    *inner, last = mlp(run, at, run.model.ffn / at.tp, saved=normed_input_bytes(at))
    return (norm, *inner, replace(last, saved=last.saved + hidden_mask(run, at)))


def _dropped(run: Run, at: Tokens, kind: LayerKind) -> Sequence[tuple[str, float]]:
    """(op, bytes) that the named modules recompute."""
    modules, found = run.layout.recompute.modules, list[tuple[str, float]]()
    if "core_attn" in modules:
        found.append(("attention", core_bytes(run, at, kind.window)))
    if "mla_up_proj" in modules and run.model.mla is not None:
        found.append(("attention", projected_bytes(run, at)))
    if "layernorm" in modules:
        found += [(op, normed_input_bytes(at)) for op in ("qkv", "down")]
        found.append(("router", at.stream) if kind.experts else ("fc1", normed_input_bytes(at)))
    if "act" in modules and not kind.experts:
        found.append(("fc2", at.kept_input(at.column * run.model.ffn / at.tp)))
    if "moe_act" in modules and kind.experts:
        found.append(("expert fc2", moe_ops.activation_bytes(run, at)))
    return found


def _every_second_matmul_bytes(run: Run, at: Tokens) -> float:
    """What a layer saves under torchtitan's selective op recomputation, which keeps the attention and the result of
    every second matmul: block input, q, v, attention out, log-sum-exp, fc1's first half; eager also fc2's result.
    """
    query, _, values, output = widths(run)
    inputs = 2 if run.software.ops == "eager" else 1
    columns = query + values + output + run.model.ffn / at.tp
    return inputs * at.stream + at.column * columns + statistics_bytes(run, at)


def with_gradients(entries: Sequence[Entry], weights: Sequence[tuple[Weight, float]]) -> tuple[Entry, ...]:
    """The ops with the bytes of their weights' gradients, for each of the weights that they read."""
    names = {entry.name for entry in entries}
    found = dict.fromkeys(names, 0.0)
    for weight, size in weights:
        name = weight.name.removesuffix(".bias")
        op = name if name in ("query", "head") and name in names else OP_OF_WEIGHT[name]
        found[op] = found.get(op, 0.0) + size
    return tuple(replace(entry, gradient=found[entry.name]) for entry in entries)
