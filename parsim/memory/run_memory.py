"""The memory of a run: every pipeline rank's states and activations under its plan."""

from collections.abc import Mapping, Sequence
from functools import cache

from parsim.memory.buffers import framework_buffers
from parsim.memory.gathered import gathered_bytes, gathers_by_layer
from parsim.memory.host import moved_layers, states_on_host, weights_on_host
from parsim.memory.ledger.ends import lost_bytes
from parsim.memory.ledger.entry import total
from parsim.memory.ledger.layer import layer_ops
from parsim.memory.ledger.tokens import tokens_of
from parsim.memory.parts import Parts
from parsim.memory.presets import habits_of
from parsim.memory.replay import Holding, Item, RankMemory, replay
from parsim.memory.stage import StageActivations
from parsim.memory.states import Held, quantised_copy_bytes, state_bytes, update_bytes
from parsim.model.layer import layer_kind
from parsim.plan.placement import Placement
from parsim.plan.plan import Plan
from parsim.spec import Run

__all__ = ["holding_of", "holdings_of", "memory_of", "weight_share"]

_LAYERS_AT_ONCE = 2  # of weights that live on the host: the running one's and the next one's


def memory_of(run: Run, plan: Plan) -> tuple[RankMemory, ...]:
    """What each pipeline rank of `run` holds while it plays `plan`.

    Raises LayoutError where the run's split does not fit the plan's parts.
    """
    return tuple(map(replay, holdings_of(run, plan.placement), plan.orders))


def holdings_of(run: Run, placement: Placement) -> tuple[Holding, ...]:
    """What lies on each pipeline rank, and its stages' bytes for a micro-batch, whatever the order of ops."""
    parts = Parts(run, run.layers_of_parts(placement.parts))
    activations = cache(parts.activations)
    found = []
    for rank in range(placement.ranks):
        stages = placement.stages_of(rank)
        own = [placement.part_of[stage] for stage in stages]
        recomputed = run.layout.recompute.layers_of([parts.layers[part] for part in own])
        moved = moved_layers(run, parts.layers, own)
        by_stage: dict[int, StageActivations] = {
            stage: activations(*which) for stage, *which in zip(stages, own, recomputed, moved, strict=True)
        }
        found.append(holding_of(parts, rank, own, by_stage))
    return tuple(found)


def holding_of(parts: Parts, rank: int, own: Sequence[int], by_stage: Mapping[int, StageActivations]) -> Holding:
    """What lies on a pipeline rank that holds the parts `own`, one for each of its stages."""
    run, layers = parts.run, parts.layers_held(own)
    ends = parts.ends_held(own)
    held, largest = sum(layers, ends), max(layers, key=lambda each: each.whole, default=Held())
    updated, fetched = states_on_host(run), weights_on_host(run)
    at_once = largest.times(min(_LAYERS_AT_ONCE, len(layers)))
    resident = ends + at_once if fetched else held
    # Copies in low precision are made of whole weights: they last as long as these.
    copied = at_once if gathers_by_layer(run) else resident
    copies = 2 * max((stage.window for stage in by_stage.values()), default=0.0)  # one leaves, one comes
    items = (
        *_items(parts, own, held, layers, resident, copied),
        Item("communication", "activations on their way", copies),
    )
    states = state_bytes(run, held)["optimizer"] if updated else 0.0
    weights = state_bytes(run, sum(layers, Held()))["parameters"] if fetched else 0.0
    return Holding(
        rank,
        tuple(item for item in items if item.size),
        by_stage,
        0.0 if updated else update_bytes(run, held, largest),
        habits_of(run.software).gradients,
        lost_bytes(run, parts.at, parts.model.vocab) if parts.last in own else 0.0,
        {name: size for name, size in (("optimizer states", states), ("weights of layers", weights)) if size},
    )


def _items(
    parts: Parts, own: Sequence[int], held: Held, layers: Sequence[Held], resident: Held, copied: Held
) -> Sequence[Item]:
    """What a rank that holds the parts `own` (a part twice if two of its stages share the rank) has all the time; of
    its weights those of `resident` on the device, those of `copied` in low precision too.
    """
    run = parts.run
    habits = habits_of(run.software)
    states = state_bytes(run, held)
    receives = sum((part > 0) + (part < parts.last) for part in own)
    kinds = [kind for part in own for kind in parts.kinds(part)]
    predicts = bool(run.model.mtp_layers) and parts.last in own
    buffers, gathered = framework_buffers(run, held, kinds, receives, predicts), gathered_bytes(run, held, layers)
    return [
        Item("parameters", "parameters", state_bytes(run, resident)["parameters"]),
        Item("parameters", "low-precision copies", quantised_copy_bytes(run, copied)),
        Item("gradients", "gradients", states["gradients"] if habits.gradients == "buffer" else 0.0),
        Item("optimizer", "optimizer states", 0.0 if states_on_host(run) else states["optimizer"], habits.lazy_states),
        *(Item(category, name, size) for (category, name), size in buffers.items()),
        *(Item(category, name, size, passes=True) for (category, name), size in gathered.items()),
    ]


def weight_share(run: Run) -> float:
    """What the weight gradient still needs of a layer's activations, once the input gradient is there: 32h of the
    34h + 5as of a dense layer with an unfused attention (arXiv:2401.10241, 2.3). 1, the safe side, where activations
    are recomputed.
    """
    model, recompute = run.model, run.layout.recompute
    if recompute.mode == "full" or "every_second_matmul" in recompute.modules:
        return 1.0
    layer = layer_ops(run, tokens_of(run), layer_kind(model, model.layers - 1))
    return min(sum(entry.kept for entry in layer) / total(layer), 1.0)
