"""What a rank holds of sharded parameters beyond its shard: gathered weights, and gradients on their way.

FSDP2 gathers unit by unit, in the compute dtype (2 bytes), through a flat buffer as large as the unit. In a layer's
forward the layer is whole; in its backward also the one before it, its gradients lie in the compute dtype, and those of
the layer behind it in the input of their reduction, in the reduce dtype. In the loss no layer is whole, unless layers
are not sharded again after the forward, but after the backward. The root group (embedding, head, final norm) is whole
in the forward and from the head's backward to the end of the backward, between them if it stays; only then are its
gradients reduced, together, the head's being there since the head's backward. Found by running FSDP2 of PyTorch 2.13
and counting storages, where nothing runs at once. On GPUs frees wait for streams, and logs report reserved memory:
there two units, a buffer, and two inputs of reductions count all along (`Habits.by_op`).

In a pipeline nothing is sharded again before the last micro-batch: all parameters stay whole, and their gradients
accumulate whole in the reduce dtype.

DeepSpeed's ZeRO-3 gathers module by module, and keeps up to a number of parameters alive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from parsim.memory.ledger.entry import Entry
from parsim.memory.presets import habits_of
from parsim.memory.states import Held, shards_of
from parsim.spec import Run

__all__ = ["Passing", "gathered_bytes", "gathers_by_layer", "passing"]

_UNITS = 2  # whole layers at once: the running one and the prefetched one


def gathered_bytes(run: Run, held: Held, layers: Sequence[Held]) -> dict[tuple[str, str], float]:
    """Bytes by (category, name) for a rank that holds `held`, of which whole `layers`; empty unless the run shards its
    parameters (ZeRO-3, FSDP) over more than one rank.
    """
    layout, software = run.layout, run.software
    if not _gathers(run):
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
    root = word * (held.whole - sum(sizes))
    if habits_of(software).by_op:
        return {
            ("communication", "gathered root"): root if _root_stays(run) else 0.0,
            ("communication", "gathered layers"): 0.0 if layout.reshard_after_forward else word * sum(sizes),
        }
    largest, units = max(sizes, default=0.0), min(len(sizes), _UNITS)
    kept = units * largest if layout.reshard_after_forward else sum(sizes)
    return {
        ("communication", "gathered root"): root,
        ("communication", "gathered layers"): word * (kept + largest),
        ("communication", "gradients on their way"): gradient * units * largest,
    }


def gathers_by_layer(run: Run) -> bool:
    """Whether only the layers at work are whole on a rank. In a pipeline all of them stay so, once gathered."""
    return _gathers(run) and run.layout.mesh.pp == 1 and run.layout.reshard_after_forward


class Passing(NamedTuple):
    """Bytes that gathering adds to the ops of a unit while they run, forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    def added_to(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """The ops with their share; a loss that is apart from its head has none."""
        alone = any(entry.name == "head" for entry in entries)
        return tuple(
            entry
            if alone and entry.name == "loss"
            else replace(entry, forward=entry.forward + self.forward, backward=entry.backward + self.backward)
            for entry in entries
        )


def passing(run: Run, layer: float, layers: float, root: float, head: float) -> Mapping[str, Passing]:
    """What gathering adds to the ops of a "layer", the "last layer" (behind it nothing is reduced yet), the "head" and
    the "embedding". Parameters on this rank: of one layer, of all, of all else, of the head. Empty where nothing is
    gathered unit by unit.
    """
    layout, software = run.layout, run.software
    if not _gathers(run) or layout.mesh.pp > 1 or not habits_of(software).by_op:
        return {}
    word, gradient = layout.word_bytes, software.gradient_bytes
    again = 0.0 if _root_stays(run) else word * root
    forward = word * 2 * layer if layout.reshard_after_forward else 0.0
    backward = word * 3 * layer if layout.reshard_after_forward else 0.0
    freed = 0.0 if layout.reshard_after_forward else word * layers  # by the end of the backward
    return {
        "last layer": Passing(again + forward, again + backward + word * head),
        "layer": Passing(again + forward, again + backward + word * head + gradient * layer),
        "head": Passing(again, 2 * again),
        "embedding": Passing(again + word * root, again + word * head + gradient * root - freed),
    }


def _root_stays(run: Run) -> bool:
    return run.software.fsdp_root == "stays" or not run.layout.reshard_after_forward


def _gathers(run: Run) -> bool:
    return run.layout.zero_stage >= 3 and max(shards_of(run), shards_of(run, expert=True)) > 1
