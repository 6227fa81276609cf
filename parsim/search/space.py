"""The space of a search: every mesh, every shape on it, and which of them are layouts at all.

What divides what defines the space: degrees multiply to the number of GPUs, tp divides heads and hidden, pp and v the
layers as a split has them, dp the batch, the micro-batch what is left; tokens of a micro-batch divide over tp. The
rules that then remove layouts are named in `legality`.
"""

from collections.abc import Iterator
from functools import lru_cache

from parsim.errors import LayoutError
from parsim.schedules import get
from parsim.search.grid import grid_of
from parsim.search.shape import Mesh, Shape
from parsim.spec import Search
from parsim.spec.split import layers_of_parts

__all__ = ["divisors", "meshes", "pipelines", "shape_at", "shapes", "size_of"]


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(sorted({*small, *(number // d for d in small)}))


def meshes(search: Search, nodes: int) -> Iterator[Mesh]:
    """Every mesh of the space on so many nodes."""
    space, model = search.space, search.model
    gpus = nodes * search.cluster.node.gpus
    for tp in divisors(gpus):
        if tp not in space.tp or model.heads % tp or model.hidden % tp:
            continue
        for cp in divisors(gpus // tp):
            if cp not in space.cp:
                continue
            for pp in divisors(gpus // (tp * cp)):
                dp = gpus // (tp * cp * pp)
                sequences = _sequences(search, dp)
                if pp not in space.pp or dp not in space.dp or not sequences or pp > model.layers + 2:
                    continue
                for ep, expert_tp in _experts(search, tp * cp * dp):
                    yield Mesh(nodes, tp, cp, dp, pp, ep, expert_tp, sequences)


def _sequences(search: Search, dp: int) -> int:
    """The sequences of a step on dp replicas; 0 where the batch does not allow so many."""
    batch = search.batch.global_batch_size
    return batch // dp * dp if search.round_batch or batch % dp == 0 else 0


def _experts(search: Search, width: int) -> Iterator[tuple[int, int]]:
    moe, space = search.model.moe, search.space
    if moe is None:
        yield 1, 1
        return
    for expert_tp in divisors(moe.expert_ffn):
        for ep in divisors(moe.experts):
            if ep in space.ep and expert_tp in space.expert_tp and width % (ep * expert_tp) == 0:
                yield ep, expert_tp


def shapes(search: Search, mesh: Mesh) -> Iterator[Shape]:
    """Every shape of the space on a mesh."""
    for size in divisors(mesh.sequences // mesh.dp):
        if size in search.space.micro_batch_size and size * search.batch.sequence_length % mesh.tp == 0:
            for schedule, stages, split, layers in pipelines(search, mesh.pp):
                yield Shape(mesh, size, schedule, stages, split, layers)


@lru_cache(maxsize=4096)
def _shapes(search: Search, mesh: Mesh) -> tuple[Shape, ...]:
    return tuple(shapes(search, mesh))


def shape_at(search: Search, mesh: Mesh, number: int) -> Shape:
    """A shape by its number on its mesh."""
    return _shapes(search, mesh)[number]


@lru_cache(maxsize=4096)
def pipelines(search: Search, pp: int) -> tuple[tuple[str, int, str | tuple[int, ...], tuple[int, ...]], ...]:
    """Schedule, stages per rank, split and its layers, for pp pipeline ranks; splits that come to the same, once."""
    space, layers = search.space, search.model.layers
    if pp == 1:
        return (("1f1b", 1, "even", (layers,)),)
    found = []
    for name in space.schedule:
        legal = get(name).legal_stages
        # One stage a rank is the plain form of an interleaved schedule, which has a name of its own.
        least = legal[0] if len(legal) == 1 else 2
        for stages in range(least, min(legal[-1], (layers + 2) // pp) + 1):
            if stages not in space.stages_per_rank:
                continue
            parts = get(name).placement(pp, stages).parts
            known = set()
            for split in space.split:
                try:
                    counts = layers_of_parts(split, layers, parts)
                except LayoutError:
                    continue
                if counts not in known:
                    known.add(counts)
                    found.append((name, stages, split, counts))
    return tuple(found)


def size_of(search: Search) -> int:
    """Layouts of the space, legal or not."""
    return sum(
        int(grid_of(search, mesh).combinations.sum()) * sum(1 for _ in shapes(search, mesh))
        for nodes in search.sizes
        for mesh in meshes(search, nodes)
    )
