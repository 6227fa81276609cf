"""A run's cluster as the network of ASTRA-sim's analytical model: one dimension for NVLink, one for the fabric.

The first dimension joins the GPUs of an NVLink domain, the second one GPU of every domain (as rails do). Both are
switches; a GPU has its NVLink rate in the first and its share of the node's NICs in the second. ASTRA-sim counts the
latency of a link, and a message that crosses a switch has two: half of a hop's is written for each.
"""

from parsim.errors import LayoutError
from parsim.exchange.table import Note
from parsim.network.importers.astra import AstraDimension, astra_text
from parsim.spec import Run

__all__ = ["astra_of_cluster"]


def astra_of_cluster(run: Run) -> tuple[str, list[Note]]:
    """The YAML of the cluster's GPUs that the run has, and what it cannot say. LayoutError where the ranks do not fill
    whole NVLink domains.
    """
    node, fabric, ranks = run.cluster.node, run.cluster.fabric, run.ranks
    inside = min(node.nvlink_domain, ranks)
    if ranks % inside:
        near = ranks // inside * inside
        raise LayoutError(f"{ranks} ranks: they must fill domains of {inside}; {near} or {near + inside} would do")
    nvlink = AstraDimension("Switch", inside, node.gpu.nvlink_bytes_per_s, node.nvlink_latency_s / 2)
    dimensions = [nvlink] if inside > 1 else []
    if ranks > inside or not dimensions:
        rate = node.nic_bytes_per_s_per_gpu
        dimensions.append(AstraDimension("Switch", ranks // inside, rate, node.nic_latency_s / 2))
    return astra_text(dimensions), _unsaid(run, fabric.topology, [tier.oversubscription for tier in fabric.tiers])


def _unsaid(run: Run, topology: str, oversubscription: list[float]) -> list[Note]:
    notes = [
        Note("layout", "a network alone: the step that runs on it is `--to chakra`"),
        Note("cluster.node.gpu", "rates of links are written, not what a collective reaches of them"),
    ]
    if topology not in ("rail_optimised", "single"):
        notes.append(Note("cluster.fabric.topology", f"{topology} is written as one switch that does not block"))
    if any(share > 1 for share in oversubscription):
        notes.append(Note("cluster.fabric.tiers", f"oversubscription {max(oversubscription):g} is not said"))
    return notes
