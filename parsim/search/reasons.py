"""Reasons: why layouts are out, family by family, and what is dubious about one that is in.

A family are all layouts of one tensor-, context-, expert- and pipeline-parallel degree on one size of cluster. One of
which nothing is left is explained by the rule that removed most of it, by its least peak where that was memory, and by
the nearest family of which something is left.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from parsim.search.branch import Branches, Entry
from parsim.search.finalists import switches_of
from parsim.search.grid import grid_of
from parsim.search.scope import Scope
from parsim.search.shape import Mesh
from parsim.search.survey import MEMORY, Row, limit_of

__all__ = ["Family", "Rejection", "choices", "families", "family_of", "memory_text", "rejected"]

_GIB = 2.0**30
_TIGHT = 0.97


class Family(NamedTuple):
    """The degrees that name a family."""

    nodes: int
    tp: int
    cp: int
    ep: int
    expert_tp: int
    pp: int

    def __str__(self) -> str:
        named = {"tp": self.tp, "cp": self.cp, "ep": self.ep, "expert_tp": self.expert_tp, "pp": self.pp}
        return ",".join(f"{axis}={degree}" for axis, degree in named.items() if degree > 1 or axis in ("tp", "pp"))


@dataclass(frozen=True)
class Rejection:
    """A family of which nothing is left."""

    family: Family
    layouts: int
    rule: str
    detail: str
    nearest: str | None

    def document(self) -> dict[str, Any]:
        return {
            "family": str(self.family),
            "nodes": self.family.nodes,
            "layouts": self.layouts,
            "rule": self.rule,
            "detail": self.detail,
            "nearest": self.nearest,
        }


def family_of(mesh: Mesh) -> Family:
    return Family(mesh.nodes, mesh.tp, mesh.cp, mesh.ep, mesh.expert_tp, mesh.pp)


def families(sizes: Sequence[Branches]) -> dict[Family, list[tuple[Mesh, Row]]]:
    """The rows of every family, in the order of the space."""
    found: dict[Family, list[tuple[Mesh, Row]]] = {}
    for size in sizes:
        for mesh, row in size.rows:
            found.setdefault(family_of(mesh), []).append((mesh, row))
    return found


def rejected(scope: Scope, sizes: Sequence[Branches]) -> list[Rejection]:
    """Every family of which nothing is left."""
    every = families(sizes)
    legal = [family for family, rows in every.items() if any(row.feasible for _, row in rows)]
    return [
        _rejection(scope, family, rows, legal)
        for family, rows in every.items()
        if not any(row.feasible for _, row in rows)
    ]


def _rejection(scope: Scope, family: Family, rows: list[tuple[Mesh, Row]], legal: list[Family]) -> Rejection:
    removed: Counter[str] = Counter()
    for _, row in rows:
        removed.update(row.removed)
    peaks = [(row.least_peak, mesh, row) for mesh, row in rows if row.least_peak is not None]
    # Where some layouts are legal but for their memory, memory is what stands between the family and the list.
    rule = MEMORY if peaks else max(removed, key=lambda name: (removed[name], name))
    detail = memory_text(scope, rows) if peaks else next(row.says[rule] for _, row in rows if rule in row.says)
    return Rejection(family, sum(row.layouts for _, row in rows), rule, detail, _nearest(family, legal))


def memory_text(scope: Scope, rows: list[tuple[Mesh, Row]]) -> str:
    """The layout that needs least: on which rank, how much, and by how much it is too much."""
    peak, mesh = min(
        ((row.least_peak, mesh) for mesh, row in rows if row.least_peak is not None), key=lambda item: item[0]
    )
    size, rank, point = peak
    switches = grid_of(scope, mesh).at(point)
    limit = limit_of(scope)
    stated = f"zero {switches['zero']}, recompute {switches['recompute'].mode}, dp {mesh.dp}"
    return (
        f"pipeline rank {rank} needs at least {size / _GIB:.1f} GiB ({stated}), the GPU leaves {limit / _GIB:.1f} GiB: "
        f"{(size - limit) / _GIB:.1f} GiB too much"
    )


def _nearest(family: Family, legal: list[Family]) -> str | None:
    """The family with something left that differs in the fewest axes, and in these by the smallest factor."""
    same = [other for other in legal if other.nodes == family.nodes] or legal
    if not same:
        return None

    def distance(other: Family) -> tuple[int, float]:
        factors = [abs(math.log2(a / b)) for a, b in zip(other, family, strict=True)]
        return sum(factor > 0 for factor in factors), sum(factors)

    other = min(same, key=lambda one: (distance(one), one))
    changed = [
        f"{name} {value}" for name, value, own in zip(Family._fields, other, family, strict=True) if value != own
    ]
    return ", ".join(changed)


def choices(scope: Scope, entry: Entry) -> Iterator[str]:
    """What is without effect or dubious in a layout."""
    shape, mesh, switches = entry.shape, entry.shape.mesh, switches_of(scope, entry)
    if entry.found.layouts > 1:
        yield f"{entry.found.layouts} layouts of this shape come to the same times: other switches have no effect here"
    if mesh.tp > scope.cluster.node.nvlink_domain:
        yield f"tp {mesh.tp} leaves the NVLink domain of {scope.cluster.node.nvlink_domain}"
    if mesh.pp > 1 and shape.microbatches < mesh.pp:
        yield f"{shape.microbatches} micro-batches for {mesh.pp} pipeline ranks: most of the step is ramp"
    if entry.found.peak_bytes > _TIGHT * limit_of(scope):
        yield f"memory is within {1 - entry.found.peak_bytes / limit_of(scope):.1%} of the limit"
    if switches["recompute"].mode == "selective" and scope.software.attention not in (None, "unfused"):
        yield "selective recomputation frees little where flash attention keeps no scores"
    if mesh.sequences != scope.batch.global_batch_size:
        yield f"the batch is rounded down to {mesh.sequences} sequences; the time is for all of them"
