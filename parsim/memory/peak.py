"""The peak of a rank in words and rows: when it is, in which op, and every byte named."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from parsim.memory.replay import RankMemory
from parsim.plan.op import Kind

__all__ = ["Row", "peak_rows", "peak_text"]

_GIB = 2.0**30


class Row(NamedTuple):
    """Bytes at the peak: what they are, under the category that they count in."""

    category: str
    name: str
    size: float


def peak_text(memory: RankMemory) -> str:
    """The moment in one line: "step 2, in the loss of 3F7: logits 3.9 of 71.2 GiB"."""
    peak = memory.peak
    if peak is None:
        return f"all the time: {memory.peak_bytes / _GIB:.1f} GiB"
    where = "" if peak.updates else f" of {peak.slot}"
    of_all = f"{peak.reach.own / _GIB:.1f} of {memory.peak_bytes / _GIB:.1f} GiB"
    return f"step {memory.peak_step}, in the {peak.reach.op}{where}: {peak.reach.tensor} {of_all}"


def peak_rows(memory: RankMemory) -> tuple[Row, ...]:
    """All that the rank holds at its peak, category by category; they add up to `peak_bytes`."""
    peak = memory.peak
    rows = [
        Row(item.category, item.name, item.size)
        for item in memory.holding.items
        if peak is None or not ((item.lazy and not peak.updated) or (item.passes and peak.updates))
    ]
    if peak is not None:
        rows += [
            Row("parameters", "older versions of weights", peak.versions),
            Row("gradients", "gradients so far", peak.gradients),
            *_activations(memory),
            Row("temporaries", f"{peak.reach.op} while it runs", peak.temporaries),
        ]
    return tuple(row for row in rows if row.size)


def _activations(memory: RankMemory) -> Iterator[Row]:
    """By op of the ledger, over all micro-batches that are live; what waits for weight gradients in one row."""
    whole, kept = _live(memory)
    found: dict[str, float] = defaultdict(float)
    for stage, count in whole.items():
        for name, size in memory.holding.stages[stage].saved_by_op.items():
            found[name] += count * size
    for name, size in sorted(found.items(), key=lambda item: -item[1]):
        yield Row("activations", name, size)
    waiting = sum(count * memory.holding.stages[stage].kept for stage, count in kept.items())
    yield Row("activations", "kept for weight gradients", waiting)


def _live(memory: RankMemory) -> tuple[Counter[int], Counter[int]]:
    """Micro-batches by stage at the peak: whole, and kept for W. Those of the running ops count as they do before a
    backward and after a forward."""
    whole, kept = Counter[int](), Counter[int]()
    peak = memory.peak
    for moment in memory.steps[memory.peak_step - 1]:
        running = moment is peak
        for op in moment.slot.ops:
            if op.kind is Kind.F:
                whole[op.stage] += 1
            elif not running and op.kind in (Kind.B, Kind.I):
                whole[op.stage] -= 1
                kept[op.stage] += op.kind is Kind.I
            elif not running and op.kind is Kind.W:
                kept[op.stage] -= 1
        if running:
            break
    return whole, kept
