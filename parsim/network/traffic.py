"""Traffic: what the activities of a run take of the links of its cluster, when each is at full speed.

An activity is all that the ranks of a pipeline rank do at once and alike: the collective of all groups of an axis, or
a message of every rank to its peer on another pipeline rank. It is one flow: its rate is the bytes/s that each rank
sends, and on a link it takes that rate times the sum, over the connections that cross the link, of their parts.

    ring in one domain      every rank to the next: part 1
    ring over domains       m channels, m the ranks of a group in a domain: channel c leaves a domain at its rank c for
                            rank c of the next domain, part 1/m; inside, every rank to the next, part (m-1)/m
    exchange                every rank to every other of n: part 1/(n-1); of more than 16 distances 16 stand for all
    message                 every rank to its peer: part 1

Only links on which activities can slow each other are kept: a link that one collective has for itself cannot, and of
links of which others always take a larger share of the capacity, the others are enough. So thousands of links of a
symmetric cluster become a few. All nodes of the run are built and all its routes are taken; nothing is sampled but
the distances of wide exchanges.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from parsim.axes.mesh import expert_groups, groups
from parsim.errors import LayoutError
from parsim.network.build import build
from parsim.network.graph import Network
from parsim.network.routes import Router
from parsim.spec import Run

__all__ = ["Activity", "Traffic", "Use", "traffic_between", "traffic_of"]

_DISTANCES = 16
_MOST_COMPARED = 3000
_Connections = Iterator[tuple[int, int, float]]


class Activity(NamedTuple):
    """What ranks do at once. `ranks` are pipeline ranks: the one that sends and, of a message, the one it goes to; of
    a collective, further ones whose ranks are in the same groups.

    `axis` is tp, cp, dp, ep, expert_tp or expert_dp; pp: a message. `group` is the size of a group; of dp smaller than
    the axis where states are cut inside sets of ranks.
    """

    axis: str
    ranks: tuple[int, ...]
    group: int = 0
    exchange: bool = False
    label: str = ""
    """What else tells apart activities that can run at the same time."""


class Use(NamedTuple):
    """The links that an activity shares with others, and for each the part of its capacity that a byte/s takes.

    `most_bytes_per_s` is the rate at which a link, shared or not, is full.
    """

    links: tuple[int, ...]
    parts: tuple[float, ...]
    most_bytes_per_s: float


@dataclass(frozen=True)
class Traffic:
    """How many links are shared, and what each activity uses of them. Capacities are 1: parts are parts of them."""

    links: int
    uses: Mapping[Activity, Use]


def traffic_of(run: Run, activities: Iterable[Activity], network: Network | None = None) -> Traffic:
    """The traffic of activities on the cluster of a run, or on a network that holds its ranks in order.

    LayoutError where ranks do not reach each other, and where the network has too few GPUs.
    """
    if network is None:
        network = build(run.cluster, -(-run.ranks // run.cluster.node.gpus))
    if len(network.gpus) < run.ranks:
        raise LayoutError(f"the network has {len(network.gpus)} GPUs; the run has {run.ranks} ranks")
    router, known = Router(network), dict[tuple[int, int], tuple[int, ...]]()
    wanted = sorted(set(activities))
    loads = np.zeros((len(wanted), len(network.capacities)))
    for row, activity in zip(loads, wanted, strict=True):
        for source, target, part in _connections(run, network, activity):
            if (source, target) not in known:
                known[source, target] = router.route(source, target)
            row[list(known[source, target])] += part
    return _shared(wanted, loads / network.capacities)


def traffic_between(loads: Mapping[Activity, Mapping[int, float]], capacities: Sequence[float]) -> Traffic:
    """The traffic of activities given by what they take of each link for a byte/s of theirs."""
    wanted = sorted(loads)
    parts = np.zeros((len(wanted), len(capacities)))
    for row, activity in zip(parts, wanted, strict=True):
        for link, load in loads[activity].items():
            row[link] = load / capacities[link]
    return _shared(wanted, parts)


def _shared(wanted: list[Activity], parts: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> Traffic:
    """Keep one of links that are alike, and none that always is less full than another, or serves one alone."""
    most = [1 / row.max() if row.any() else np.inf for row in parts]
    alone = np.array([activity.axis != "pp" for activity in wanted], bool)
    users = parts > 0
    # Messages of one boundary can be several at a time: they share links even with themselves.
    kept = (users.sum(axis=0) > 1) | users[~alone].any(axis=0)
    distinct = {column.tobytes(): column for column in np.ascontiguousarray(parts[:, kept].T)}
    columns = np.array([*distinct.values()]).reshape(len(distinct), len(wanted))
    if len(columns) <= _MOST_COMPARED:
        needed = [np.count_nonzero((columns >= column).all(axis=1)) == 1 for column in columns]
        columns = columns[np.array(needed, bool)]
    uses = {}
    for index, activity in enumerate(wanted):
        links = np.flatnonzero(columns[:, index])
        uses[activity] = Use(tuple(links.tolist()), tuple(columns[links, index].tolist()), float(most[index]))
    return Traffic(len(columns), uses)


def _connections(run: Run, network: Network, activity: Activity) -> _Connections:
    """(source, target, part) of an activity: part times the activity's rate is what the connection carries."""
    width = run.ranks // run.layout.mesh.pp
    sender = activity.ranks[0]
    if activity.axis == "pp":
        for rank in range(width):
            yield sender * width + rank, activity.ranks[1] * width + rank, 1.0
        return
    sends = range(sender * width, (sender + 1) * width)
    for group in _groups(run, activity, width):
        found = _exchange(group) if activity.exchange else _ring(group, network)
        for source, target, part in found:
            if source in sends:
                yield source, target, part


def _groups(run: Run, activity: Activity, width: int) -> Iterable[Sequence[int]]:
    """The groups of an activity's axis, those of further pipeline ranks joined to the first one's."""
    mesh, layout, axis = run.layout.mesh, run.layout, activity.axis
    if axis in ("tp", "cp"):
        every = groups(mesh, axis)
    elif axis == "dp":
        every = groups(mesh, "cp", "dp")
    else:
        every = expert_groups(mesh, layout.ep, layout.expert_tp, axis)
    by_rank: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for group in every:
        by_rank[group[0] // width].append(group)
    joined = [sum(parts, ()) for parts in zip(*(by_rank[rank] for rank in sorted(activity.ranks)), strict=True)]
    size, share = activity.group, layout.zero_group or 0
    if axis != "dp" or not size or not share or size == len(joined[0]):
        return joined
    if size == share:
        return [group[at : at + share] for group in joined for at in range(0, len(group), share)]
    return [group[at::share] for group in joined for at in range(share)]


def _ring(group: Sequence[int], network: Network) -> _Connections:
    if len(group) < 2:
        return
    held = [list(ranks) for _, ranks in groupby(group, key=network.domain_of)]
    channels = min(map(len, held))
    for ranks, following in zip(held, [*held[1:], held[0]], strict=True):
        inside = 1.0 if len(held) == 1 else (len(ranks) - 1) / len(ranks)
        if len(ranks) > 1:
            for source, target in zip(ranks, [*ranks[1:], ranks[0]], strict=True):
                yield source, target, inside
        if len(held) > 1:
            for source, target in zip(ranks[:channels], following[:channels], strict=True):
                yield source, target, 1 / channels


def _exchange(group: Sequence[int]) -> _Connections:
    size = len(group)
    distances = range(1, size)
    if len(distances) > _DISTANCES:
        distances = sorted({round(1 + at * (size - 2) / (_DISTANCES - 1)) for at in range(_DISTANCES)})  # type: ignore[assignment]
    for place, source in enumerate(group):
        for distance in distances:
            yield source, group[(place + distance) % size], 1 / len(distances)
