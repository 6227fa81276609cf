"""What a rank holds of sharded parameters beyond its shard: gathered weights, and gradients on their way.

FSDP2 gathers unit by unit, in the compute dtype (2 bytes): the root group (embedding, head, final norm) stays whole
from forward to backward; of the layers two are whole at once, the running and the prefetched one, beside one flat
all-gather buffer; the backward adds two reduce-scatter inputs in the reduce dtype. Without reshard after forward all
layers stay whole. In a pipeline nothing is sharded again before the last micro-batch: all parameters stay whole, and
their gradients accumulate whole in the reduce dtype. Found by running FSDP2 of PyTorch 2.13 and counting storages.

DeepSpeed's ZeRO-3 gathers module by module, and keeps up to a number of parameters alive.
"""

from collections.abc import Sequence

from parsim.memory.presets import habits_of
from parsim.memory.states import Held, shards_of
from parsim.spec import Run

__all__ = ["gathered_bytes"]

_UNITS = 2  # whole layers at once: the running one and the prefetched one


def gathered_bytes(run: Run, held: Held, layers: Sequence[Held]) -> dict[tuple[str, str], float]:
    """Bytes by (category, name) for a rank that holds `held`, of which whole `layers`; empty unless the run shards its
    parameters (ZeRO-3, FSDP) over more than one rank.
    """
    layout, software = run.layout, run.software
    if layout.zero_stage < 3 or max(shards_of(run), shards_of(run, expert=True)) == 1:
        return {}
    word, gradient = layout.word_bytes, software.gradient_bytes
    if layout.mesh.pp > 1:
        return {
            ("communication", "gathered parameters"): word * held.whole,
            ("gradients", "gradients before their reduction"): gradient * held.whole,
        }
    live = habits_of(software).live_elements
    if live is not None and not layout.fsdp:
        return {("communication", "gathered parameters"): word * min(held.whole, live)}
    sizes = [each.whole for each in layers]
    largest, units = max(sizes, default=0.0), min(len(sizes), _UNITS)
    kept = units * largest if layout.reshard_after_forward else sum(sizes)
    return {
        ("communication", "gathered root"): word * (held.whole - sum(sizes)),
        ("communication", "gathered layers"): word * (kept + largest),
        ("communication", "gradients on their way"): gradient * units * largest,
    }
