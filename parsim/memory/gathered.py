"""What a rank holds of sharded parameters beyond its shard: gathered weights, and gradients on their way.

FSDP2 gathers unit by unit, in the compute dtype (2 bytes): the root group (embedding, head, final norm) stays whole
from forward to backward; of the layers two are whole at once, the running and the prefetched one, beside one flat
all-gather buffer; the backward adds two reduce-scatter inputs in the reduce dtype. Without reshard after forward all
layers stay whole. In a pipeline nothing is sharded again before the last micro-batch: all parameters stay whole, and
their gradients accumulate whole in the reduce dtype. Found by running FSDP2 of PyTorch 2.13 and counting storages.
"""

from collections.abc import Sequence

from parsim.model.weights import Weight, layer_weights, parameters_of_rank
from parsim.spec import Run

__all__ = ["gathered_bytes"]

_UNITS = 2  # whole layers at once: the running one and the prefetched one


def gathered_bytes(run: Run, weights: Sequence[Weight], layers: int) -> dict[str, float]:
    """Bytes by category for a rank that holds `weights`, of which `layers` whole layers; empty unless the run shards
    its parameters (ZeRO-3, FSDP) over more than one rank.
    """
    layout, tp = run.layout, run.layout.mesh.tp
    if layout.zero_stage < 3 or layout.mesh.dp * layout.mesh.cp == 1:
        return {}
    word, gradient = layout.word_bytes, run.software.gradient_bytes
    whole = sum(parameters_of_rank(weights, tp=tp))
    if layout.mesh.pp > 1:
        return {"communication": word * whole, "gradients": gradient * whole}
    layer = sum(parameters_of_rank(layer_weights(run.model, 0), tp=tp)) if layers else 0.0
    units = min(layers, _UNITS)
    held = units if layout.reshard_after_forward else layers
    root = whole - layers * layer
    return {"communication": word * (root + held * layer + layer) + gradient * units * layer}
