"""Finalists: the best few once more, each by `simulate`, and by SimPy where what meets on shared links slows down.

The longest path has every flow alone at its full rate, and sharing only delays: the contended time is never less. So
layouts are played with contention in the order of their longest path, until that passes the best contended time: a
certificate under contention too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parsim.errors import ParsimError
from parsim.search.branch import Entry
from parsim.search.grid import grid_of
from parsim.search.layouts import run_of
from parsim.search.networks import data_paths, message_links, tensor_path
from parsim.search.scope import Scope
from parsim.search.shape import Mesh
from parsim.simulation import simulate
from parsim.spec import Run

__all__ = ["Contended", "contended", "run_of_entry", "switches_of", "unsaid"]


@dataclass(frozen=True)
class Contended:
    """Times with contention of the first of the list, in its order; `certified` where no other layout can be faster."""

    step_s: tuple[float | None, ...]
    best: int | None
    certified: bool
    why: str


def switches_of(scope: Scope, entry: Entry) -> dict[str, Any]:
    """The values of a layout's switches."""
    return grid_of(scope, entry.shape.mesh).at(entry.found.point)


def run_of_entry(scope: Scope, entry: Entry) -> tuple[Run, tuple[str, ...]]:
    """A layout as a run, and the switches that no run can say."""
    switches = switches_of(scope, entry)
    return run_of(scope, entry.shape, switches), unsaid(scope, entry.shape.mesh, switches)


def unsaid(scope: Scope, mesh: Mesh, switches: Mapping[str, Any]) -> tuple[str, ...]:
    """The switches of a layout that no run can say, since the search prices them by terms of its own. Networks that the
    usual order of ranks gives anyway are not among them.
    """
    comm = ("tp_comm",) if switches["tp_comm"] in ("scatter_gather", "sequence_parallel_kept") and mesh.tp > 1 else ()
    tensor, data, pipeline = (switches[f"{axis}_network"] for axis in ("tp", "dp", "pp"))
    other = {
        "tp_network": mesh.tp > 1 and tensor_path(scope, mesh, tensor) != tensor_path(scope, mesh, "usual"),
        "dp_network": mesh.holders > 1
        and data_paths(scope, mesh, (tensor, data, pipeline)) != data_paths(scope, mesh, ("usual",) * 3),
        "pp_network": mesh.pp > 1 and message_links(scope, mesh, pipeline) is not message_links(scope, mesh, "usual"),
    }
    return (*comm, *(name for name, is_other in other.items() if is_other))


def contended(scope: Scope, top: list[Entry], complete: bool, bound_s: float, most: int) -> Contended:
    """Play the list with contention, `most` of it at the most. `bound_s`: what no layout beyond the list beats."""
    found: list[float | None] = []
    best, number, why = float("inf"), None, ""
    for at, entry in enumerate(top):
        if entry.step_s >= best or at == most:
            break
        run, more = run_of_entry(scope, entry)
        if more:
            why = f"a run cannot say {', '.join(more)}: not played with contention"
            found.append(None)
            continue
        scale = scope.batch.global_batch_size / entry.shape.mesh.sequences
        try:
            seconds = simulate(run, contention=True).step_time_s * scale
        except ParsimError as error:
            why = str(error)
            found.append(None)
            continue
        found.append(seconds)
        if seconds < best:
            best, number = seconds, at
    left = top[len(found)].step_s if len(found) < len(top) else bound_s
    certified = number is not None and None not in found and complete and left >= best
    return Contended(tuple(found), number, certified, why)
