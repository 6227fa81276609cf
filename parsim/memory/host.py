"""What stays in the node's memory: activations between forward and backward, optimizer states, layers' weights.

Activations leave layer by layer, as Transformer Engine and Megatron-core move them: on the device are those of the
running layer, and of one more that leaves or comes (double buffering; assumed). The model's last layer stays, for its
backward comes first. Megatron's module names say whose input moves.
"""

from collections.abc import Sequence
from dataclasses import replace

from parsim.memory.ledger.attention import projected_bytes, widths
from parsim.memory.ledger.entry import Entry, Unit
from parsim.memory.ledger.layer import layer_units
from parsim.memory.ledger.tokens import Tokens, tokens_of
from parsim.model.layer import LayerKind
from parsim.plan.placement import Placement
from parsim.spec import Run

__all__ = [
    "moved_by_stage",
    "moved_bytes",
    "moved_layers",
    "moved_units",
    "stages_that_move",
    "states_on_host",
    "weights_on_host",
]

_OPS = {
    "attn_norm": ("norm 1",),
    "qkv_linear": ("qkv", "query", "down", "latent norms", "up"),
    "mlp_norm": ("norm 2",),
    "expert_fc1": ("expert fc1",),
    "moe_act": ("expert activation",),
}
"""Ops of the ledger whose saved inputs a module's are."""


def moved_layers(run: Run, layers: Sequence[int], parts: Sequence[int]) -> tuple[int, ...]:
    """How many layers (the first ones) of each stage of a pipeline rank move their activations; `parts` are those of
    its stages, of which each has `layers[part]`.
    """
    offload = run.layout.offload
    if offload is None or not offload.moves_activations:
        return (0,) * len(parts)
    found = offload.layers_of([layers[part] for part in parts])
    last = len(layers) - 1
    return tuple(
        min(count, layers[part] - 1) if part == last and layers[part] else count
        for part, count in zip(parts, found, strict=True)
    )


def moved_by_stage(run: Run, placement: Placement) -> dict[int, int]:
    """The same of every stage of a placement."""
    layers, found = run.layers_of_parts(placement.parts), dict[int, int]()
    for stages in placement.by_rank:
        counts = moved_layers(run, layers, [placement.part_of[stage] for stage in stages])
        found.update(zip(stages, counts, strict=True))
    return found


def stages_that_move(run: Run, placement: Placement) -> frozenset[int]:
    """Stages of which at least one layer moves its activations."""
    return frozenset(stage for stage, count in moved_by_stage(run, placement).items() if count)


def moved_bytes(run: Run, kind: LayerKind) -> float:
    """Bytes of a layer's activations that leave for the host in one micro-batch, and come back."""
    at = tokens_of(run)
    return sum(unit.moved for unit in moved_units(run, at, layer_units(run, at, kind)))


def moved_units(run: Run, at: Tokens, units: Sequence[Unit]) -> tuple[Unit, ...]:
    """A layer's units with what moves named."""
    return tuple(
        replace(unit, entries=tuple(_with_moved(run, at, entry) for entry in unit.entries), moves_input=_whole(run))
        for unit in units
    )


def states_on_host(run: Run) -> bool:
    """Whether the optimizer's states are on the host, and updated there."""
    return run.layout.offload is not None and run.layout.offload.optimizer


def weights_on_host(run: Run) -> bool:
    """Whether the layers' weights are fetched from the host for each pass."""
    return run.layout.offload is not None and run.layout.offload.weights


def _whole(run: Run) -> bool:
    return run.layout.offload is not None and not run.layout.offload.modules


def _with_moved(run: Run, at: Tokens, entry: Entry) -> Entry:
    if _whole(run):
        return replace(entry, moved=entry.saved)
    modules = run.layout.offload.modules if run.layout.offload is not None else ()
    if any(entry.name in _OPS.get(module, ()) for module in modules):
        return replace(entry, moved=entry.saved)
    if entry.name == "attention" and "core_attn" in modules:
        output = at.column * widths(run)[3]  # saved with the core, the input of the projection
        again = "mla_up_proj" in run.layout.recompute.modules
        inputs = 0.0 if again else projected_bytes(run, at)
        return replace(entry, moved=min(entry.saved, inputs + output * ("attn_proj" in modules)))
    if entry.name == "proj" and "attn_proj" in modules:
        return replace(entry, moved=entry.saved)
    return entry
