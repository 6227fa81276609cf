"""Fabrics as specifications: dragonfly and torus say what they need, tiers nest, and old files mean what they meant."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from parsim.errors import SpecError
from parsim.spec import Run, load_cluster, run_from_document
from parsim.spec.cluster import ClusterSpec, Dragonfly, FabricSpec, Tier, Torus

DRAGONFLY = {"nodes_per_router": 8, "routers_per_group": 10, "global_links_per_router": 6, "link_bytes_per_s": 25e9}
TORUS = {"dimensions": [4, 4], "link_bytes_per_s": "100 GB/s"}


def fabric(**about: Any) -> FabricSpec:
    return FabricSpec.model_validate({"kind": "ib", "rails": 1, **about})


def test_what_was_there_needs_nothing_new() -> None:
    plain = fabric(topology="rail_optimised")
    assert (plain.dragonfly, plain.torus, plain.switch_latency_s, plain.tiers) == (None, None, None, ())
    assert plain.most_nodes is None


@pytest.mark.parametrize("kind", ["slingshot", "tcpx", "ib", "roce", "efa", "nvlink", "tcp", "loopback"])
def test_kinds_of_fabric(kind: str) -> None:
    assert fabric(topology="fat_tree", kind=kind).kind == kind


def test_quantities_have_units() -> None:
    torus = fabric(topology="torus", torus=TORUS, switch_latency_s="350 ns").torus
    assert torus == Torus(dimensions=(4, 4), link_bytes_per_s=100e9)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"topology": "dragonfly"}, "needs `dragonfly"),
        ({"topology": "torus"}, "needs `torus"),
        ({"topology": "fat_tree", "torus": TORUS}, "fat_tree has no `torus"),
        ({"topology": "torus", "torus": TORUS, "dragonfly": DRAGONFLY}, "torus has no `dragonfly"),
        ({"topology": "torus", "torus": TORUS, "tiers": [{"name": "a", "nodes": 4}]}, "has no tiers"),
        ({"topology": "torus", "torus": {**TORUS, "dimensions": []}}, "dimensions"),
        ({"topology": "torus", "torus": {**TORUS, "dimensions": [4, 0]}}, "dimensions"),
        ({"topology": "torus", "torus": {**TORUS, "link_bytes_per_s": 0}}, "link_bytes_per_s"),
        ({"topology": "dragonfly", "dragonfly": {**DRAGONFLY, "global_links_per_router": 0}}, "global_links"),
        ({"topology": "dragonfly", "dragonfly": {**DRAGONFLY, "routers": 3}}, "routers"),
        ({"topology": "ring"}, "topology"),
        ({"topology": "fat_tree", "switch_latency_s": -1e-6}, "switch_latency_s"),
    ],
)
def test_fabrics_that_contradict_themselves(about: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        fabric(**about)


def test_tiers_nest() -> None:
    with pytest.raises(ValidationError, match="pod of 7 nodes is no multiple of tier rack of 2; 8 would do"):
        fabric(topology="fat_tree", tiers=[Tier(name="rack", nodes=2), Tier(name="pod", nodes=7)])


def test_a_dragonfly_knows_how_far_it_reaches() -> None:
    spec = Dragonfly.model_validate(DRAGONFLY)
    assert spec.most_nodes == (10 * 6 + 1) * 10 * 8
    assert load_cluster("alcf-polaris").fabric.most_nodes == spec.most_nodes
    held = load_cluster("alcf-polaris").model_dump()
    with pytest.raises(ValidationError, match="4880 would do"):
        ClusterSpec.model_validate({**held, "nodes": 4881})


def test_polaris_is_what_argonne_says() -> None:
    cluster = load_cluster("alcf-polaris")
    assert (cluster.nodes, cluster.gpus, cluster.node.gpu.name) == (560, 2240, "a100-40g-sxm")
    assert cluster.node.nics * cluster.node.nic_bytes_per_s == 50e9
    assert cluster.fabric.kind == "slingshot"


def test_a_run_reads_new_fabrics_and_refuses_them_in_one_line(
    small: dict[str, Any], refusal: Callable[..., str]
) -> None:
    small["cluster"] = {"name": "h100-torus", "nodes": 2}
    run = run_from_document(small)
    assert isinstance(run, Run)
    assert run.cluster.fabric.torus is not None
    assert run.cluster.fabric.torus.dimensions == (4, 4, 4)
    again = Run.model_validate(run.model_dump())
    assert again.cluster == run.cluster
    assert "needs `torus" in refusal(lambda: run_from_document(small, overrides=["cluster.fabric.torus=null"]))
    small["cluster"] = {"name": "alcf-polaris", "nodes": 5000}
    assert "4880 would do" in refusal(lambda: run_from_document(small), SpecError)
