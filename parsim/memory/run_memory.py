"""The memory of a run: every pipeline rank's states and activations under its plan."""

from functools import cache

from parsim.errors import LayoutError
from parsim.memory.gathered import gathered_bytes
from parsim.memory.ledger import (
    Entry,
    embedding_ledger,
    every_second_matmul_bytes,
    head_ledger,
    layer_ledger,
    tokens_of,
    total,
)
from parsim.memory.replay import RankMemory, replay
from parsim.memory.stage import StageActivations, scan
from parsim.memory.states import framework_buffers, state_bytes
from parsim.model.dims import padded_vocab
from parsim.model.weights import Weight, embedding_weights, final_norm_weights, head_weights, layer_weights
from parsim.plan.plan import Plan
from parsim.spec import ModelSpec, Run

__all__ = ["memory_of", "weight_share"]


def memory_of(run: Run, plan: Plan) -> tuple[RankMemory, ...]:
    """What each pipeline rank of `run` holds while it plays `plan`.

    Raises LayoutError for what the ledger does not know yet (experts, latent attention, context parallelism,
    offload): no number is better than a wrong one.
    """
    _refuse_unknown(run)
    layers = run.layers_of_parts(plan.placement.parts)

    @cache
    def activations(part: int, recomputed: int) -> StageActivations:
        return _stage(run, layers, part, recomputed)

    result = []
    for rank, order in enumerate(plan.orders):
        stages = plan.placement.stages_of(rank)
        parts = [plan.placement.part_of[stage] for stage in stages]
        recomputed = run.layout.recompute.layers_of([layers[part] for part in parts])
        by_stage = {
            stage: activations(part, count) for stage, part, count in zip(stages, parts, recomputed, strict=True)
        }
        result.append(replay(rank, order, by_stage, _persistent(run, layers, parts)))
    return tuple(result)


def weight_share(run: Run) -> float:
    """What the weight gradient still needs of a layer's activations, once the input gradient is there: 32h of the
    34h + 5as of a dense layer with an unfused attention (arXiv:2401.10241, 2.3). 1, the safe side, where activations
    are recomputed or the ledger does not know the layer.
    """
    model, recompute = run.model, run.layout.recompute
    if model.moe or model.mla or recompute.mode == "full" or "every_second_matmul" in recompute.modules:
        return 1.0
    layer = layer_ledger(run)
    return min(sum(entry.kept for entry in layer) / total(layer), 1.0)


def _vocab(run: Run) -> int:
    return padded_vocab(run.model.vocab, run.software.vocab_pad_multiple, run.layout.mesh.tp)


def _refuse_unknown(run: Run) -> None:
    layout, model = run.layout, run.model
    unknown = {
        "model.moe: experts are": model.moe is not None,
        "model.mla: latent attention is": model.mla is not None,
        f"model.mtp_layers {model.mtp_layers}: extra prediction layers are": model.mtp_layers > 0,
        f"layout.mesh.cp {layout.mesh.cp}: context parallelism is": layout.mesh.cp > 1,
        "layout.offload: activations on the host are": layout.offload is not None,
    }
    for what, present in unknown.items():
        if present:
            raise LayoutError(f"{what} not in the memory ledger yet; a dense model without it would do")


def _stage(run: Run, layers: tuple[int, ...], part: int, recomputed: int) -> StageActivations:
    """One part's units in forward order: embedding, layers, head; recomputed layers keep their input alone."""
    recompute, at = run.layout.recompute, tokens_of(run)
    layer, count = layer_ledger(run), layers[part]
    layer_input = at.column * run.model.hidden / at.sp
    units: list[tuple[Entry, ...]] = [layer] * count
    inputs: list[float | None] = [layer_input] * recomputed + [None] * (count - recomputed)
    if "every_second_matmul" in recompute.modules:
        inputs = [every_second_matmul_bytes(run)] * count
    if part == 0:
        units, inputs = [embedding_ledger(run), *units], [None, *inputs]
    if part == len(layers) - 1:
        units, inputs = [*units, head_ledger(run, _vocab(run))], [*inputs, None]
    return scan(units, inputs)


def _persistent(run: Run, layers: tuple[int, ...], parts: list[int]) -> dict[str, float]:
    """States and buffers of a rank that holds `parts` (a part twice if two of its stages share the rank)."""
    model = run.model.model_copy(update={"vocab": _vocab(run)})
    weights = [weight for part in parts for weight in _part_weights(model, layers, part)]
    if model.tied_embeddings and 0 not in parts and len(layers) - 1 in parts:
        weights += embedding_weights(model)[:1]  # the head's own copy of the tied token embedding
    held = state_bytes(run, weights)
    count = sum(layers[part] for part in parts)
    receives = sum((part > 0) + (part < len(layers) - 1) for part in parts)
    buffers = framework_buffers(run, _linear_shapes(run.model, run.layout.mesh.tp), count, receives)
    for more in (buffers, gathered_bytes(run, weights, count)):
        for category, size in more.items():
            held[category] = held.get(category, 0.0) + size
    return held


def _part_weights(model: ModelSpec, layers: tuple[int, ...], part: int) -> list[Weight]:
    first = sum(layers[:part])
    weights = [weight for layer in range(first, first + layers[part]) for weight in layer_weights(model, layer)]
    if part == 0:
        weights += embedding_weights(model)
    if part == len(layers) - 1:
        weights += final_norm_weights(model)
        if not model.tied_embeddings:
            weights += head_weights(model)
    return weights


def _linear_shapes(model: ModelSpec, tp: int) -> list[tuple[float, float]]:
    """(out, in) of a dense layer's four matmuls on one rank; QKV and gate with up are one matmul each."""
    query = model.heads * model.head_dim / tp
    both = query + 2 * max(model.kv_heads / tp, 1) * model.head_dim
    ffn, gates = model.ffn / tp, 2 if model.gated_mlp else 1
    return [(both, model.hidden), (model.hidden, query), (gates * ffn, model.hidden), (model.hidden, ffn)]
