"""`--set` overrides: a dotted path and a YAML value, put in before anything is checked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parsim.spec import Run, load_run


def test_overrides_reach_every_level_in_order(small_file: Path) -> None:
    run = load_run(
        small_file,
        (
            "layout.mesh.tp=4",
            "layout.mesh.dp=1",
            "layout.recompute.mode=full",
            "layout.recompute.layers=1",
            "layout.split=[2, 3, 2, 1]",
            "batch={sequence_length: 256, global_batch_size: 8}",
            "batch.global_batch_size=4",
            "software.loss=te_fused",
            "name=other",
        ),
    )
    assert (run.layout.mesh.tp, run.layout.recompute.mode, run.layout.recompute.layers) == (4, "full", 1)
    assert run.layers_of_parts(4) == (2, 3, 2, 1)
    assert (run.batch.sequence_length, run.batch.global_batch_size) == (256, 4)
    assert (run.software.loss, run.name) == ("te_fused", "other")


def test_overrides_count_as_stated(small_file: Path) -> None:
    assert "layout.zero" in load_run(small_file).assumed
    assert "layout.zero" not in load_run(small_file, ["layout.zero=0"]).assumed


def test_a_name_becomes_the_base_of_what_follows() -> None:
    run = load_run("llama3-70b-64", ["model.layers=40", "cluster.nodes=32", "layout.mesh.dp=8"])
    assert (run.model.name, run.model.layers, run.model.hidden) == ("llama3-70b", 40, 8192)
    assert run.cluster.nodes == 32
    run = load_run("llama3-70b-64", ["cluster.node.gpu.memory_bytes=40 GiB"])
    assert run.cluster.node.gpu.memory_bytes == 40 * 2**30
    assert run.cluster.node.name == "dgx-h100"


def test_a_word_of_recompute_becomes_its_mode() -> None:
    run = load_run("llama3-70b-64", ["layout.recompute=selective", "layout.recompute.modules=[mlp]"])
    assert (run.layout.recompute.mode, run.layout.recompute.modules) == ("selective", ("mlp",))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("", "write a dotted path and a value"),
        ("layout.mesh.tp", "write a dotted path and a value"),
        ("=4", "write a dotted path and a value"),
        ("layout..tp=4", "write a dotted path and a value"),
        ("layout.mesh.tp.x=4", "layout.mesh.tp is a plain value"),
        ("layout.micro_batch_size.x=4", "must be a whole number"),
        ("layout.mesh.tq=4", "did you mean 'tp'"),
        ("lay.mesh.tp=4", "lay: no such field"),
        ("layout.mesh={tp: 4", "not YAML"),
        ("layout.mesh=!!python/name:os.system", "tag"),
        ("layout.mesh=&a 3", "anchor"),
        ("name.x=3", "name"),
        ("x" * 10_000, "write a dotted path"),
        (".".join("a" * 2000) + "=1", "a: no such field"),
    ],
)
def test_bad_override_is_refused(override: str, says: str, small_file: Path, refusal: Callable[..., str]) -> None:
    assert says in refusal(lambda: load_run(small_file, [override]))


def test_the_file_itself_is_left_alone(small_file: Path, make: Callable[..., Run]) -> None:
    before = small_file.read_text()
    load_run(small_file, ["layout.zero=2"])
    assert small_file.read_text() == before
    assert load_run(small_file).layout.zero == make().layout.zero == 0
