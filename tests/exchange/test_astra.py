"""A cluster as ASTRA-sim's network: read back by the importer of the same format."""

import pytest

from parsim.errors import LayoutError
from parsim.exchange import export
from parsim.network.importers.astra import read_astra
from parsim.spec import load_run


@pytest.mark.parametrize("name", ["llama3-70b-64", "llama3-405b-16k", "gpt3-175b-1024"])
def test_rates_and_counts_are_the_clusters(name: str) -> None:
    run = load_run(name)
    node = run.cluster.node
    inside, across = read_astra(str(export(run, "astra-sim").main))
    assert inside.gpus * across.gpus == run.ranks
    assert inside.gpus == node.nvlink_domain
    assert inside.bytes_per_s == pytest.approx(node.gpu.nvlink_bytes_per_s)
    assert across.bytes_per_s == pytest.approx(node.nics * node.nic_bytes_per_s / node.gpus)
    assert 2 * across.latency_s == pytest.approx(node.nic_latency_s)
    assert 2 * inside.latency_s == pytest.approx(node.nvlink_latency_s)


def test_what_is_one_domain_has_one_dimension() -> None:
    overrides = ["layout.mesh.tp=4", "layout.mesh.dp=1", "layout.mesh.pp=1", "cluster.nodes=1", "layout.schedule=1f1b"]
    run = load_run("llama3-70b-64", [*overrides, "layout.stages_per_rank=1"])
    (only,) = read_astra(str(export(run, "astra-sim").main))
    assert only.gpus == 4


def test_what_the_network_cannot_say_is_said() -> None:
    exported = export(load_run("llama3-405b-16k"), "astra-sim")
    assert {"cluster.fabric.tiers", "cluster.fabric.topology"} <= {note.about for note in exported.notes}
    assert "# cluster.fabric.tiers: oversubscription 7" in str(exported.main)


def test_ranks_that_do_not_fill_their_domains_are_refused() -> None:
    run = load_run("llama3-70b-64", ["network.nvlink_domain=24"])
    with pytest.raises(LayoutError, match="would do"):
        export(run, "astra-sim")
