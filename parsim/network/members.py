"""Members: which ranks of a network a collective's endpoints are, and the routes between them.

Endpoint e below the group's ranks is members[e]; endpoint ranks + d is the NVSwitch of the group's domain d, which must
join all members of that domain. Where a domain has several NVSwitches, the flow says which.
"""

from collections.abc import Sequence

from parsim.errors import LayoutError
from parsim.network.collectives.rounds import Group
from parsim.network.routes import Router
from parsim.network.wires import Routes

__all__ = ["member_routes"]


def member_routes(router: Router, group: Group, members: Sequence[int] | None = None) -> Routes:
    """Routes for `play_chunked`, by default of the network's first ranks. LayoutError for members that do not fit."""
    network = router.network
    ranks = list(range(group.ranks)) if members is None else list(members)
    if len(ranks) != group.ranks or len(set(ranks)) != len(ranks):
        raise LayoutError(
            f"{len(set(ranks))} different members for a group of {group.ranks} ranks: one for each is needed"
        )
    wrong = next((rank for rank in ranks if not 0 <= rank < len(network.gpus)), None)
    if wrong is not None:
        raise LayoutError(f"member {wrong}: network {network.name} has ranks 0 to {len(network.gpus) - 1}")
    switches: dict[tuple[int, int], str] = {}

    def switch_of(domain: int, flow: int) -> str:
        if (domain, flow) not in switches:
            first = ranks[domain * group.domain]
            near = network.graph.adj[network.gpu(first)]
            found = [name for name in near if network.graph.nodes[name]["kind"] == "nvswitch"]
            if not found:
                raise LayoutError(f"rank {first} of network {network.name} reaches no NVSwitch: nothing to reduce in")
            switches[domain, flow] = found[flow % len(found)]
        return switches[domain, flow]

    def link(source: str, target: str) -> tuple[int, ...]:
        edge = network.graph.adj[source].get(target)
        if edge is None:
            raise LayoutError(
                f"network {network.name} has no link {source} -> {target}, of a domain that reduces there"
            )
        return (int(edge["index"]),)

    def routes(source: int, target: int, flow: int) -> tuple[int, ...]:
        if source >= group.ranks:
            return link(switch_of(source - group.ranks, flow), network.gpu(ranks[target]))
        if target >= group.ranks:
            return link(network.gpu(ranks[source]), switch_of(target - group.ranks, flow))
        return router.route(ranks[source], ranks[target], flow)

    return routes
