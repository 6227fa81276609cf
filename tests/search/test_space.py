"""The space: what divides what, and how many combinations that makes."""

from typing import Any

import numpy as np
import pytest

from parsim.errors import LayoutError, SpecError
from parsim.search import search
from parsim.search.grid import grid_of
from parsim.search.planner import check_search
from parsim.search.space import meshes, shapes, size_of
from parsim.spec import Search, load_search
from parsim.spec.load import search_from_document
from tests.search.conftest import document, small


def test_calculons_space_has_calculons_size() -> None:
    """11,698,528: counted by Calculon's own enumeration for GPT-3 175B on 1,024 GPUs."""
    assert size_of(load_search("gpt3-175b-a100-calculon")) == 11_698_528


@pytest.mark.parametrize("seed", range(6))
def test_every_shape_divides_what_it_must(seed: int) -> None:
    what = small(seed)
    gpus = what.sizes[0] * what.cluster.node.gpus
    for mesh in meshes(what, what.sizes[0]):
        assert mesh.tp * mesh.cp * mesh.dp * mesh.pp == gpus
        for shape in shapes(what, mesh):
            assert sum(shape.layers) == what.model.layers
            assert shape.microbatches * shape.micro_batch_size * mesh.dp == what.batch.global_batch_size


def test_a_grid_names_every_point_once() -> None:
    what = small(1, zero=[0, 1], recompute=["none", "full"], dp_overlap=[True, False])
    grid = grid_of(what, next(mesh for mesh in meshes(what, what.sizes[0]) if mesh.dp > 1))
    values = [tuple(map(str, grid.at(point).values())) for point in range(grid.size)]
    assert len(set(values)) == grid.size == 8
    assert grid.where("zero", 1).size == 2
    assert np.broadcast_to(grid.where("zero", 1), grid.shape).sum() == 4


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"tp": []}, "an empty list"),
        ({"tp": [4, 4]}, "twice"),
        ({"tp": 0}, "at least 1"),
        ({"tp": {"least": 4, "most": 2}}, "least 4 is more than most 2"),
        ({"tpp": 4}, "no such field"),
        ({"zero": [4]}, "at most 3"),
        ({"zero": [1, 1]}, "twice"),
        ({"recompute": ["some"]}, "did you mean .none."),
        ({"tp_comm": "all-reduce"}, "did you mean 'all_reduce'"),
        ({"schedule": ["zigzag"]}, "no schedule is called"),
        ({"schedule": ["zb-auto"]}, "made for the times of one layout"),
        ({"ep": 4}, "has no experts"),
    ],
)
def test_bad_spaces_are_refused_in_one_line(space: dict[str, Any], says: str) -> None:
    with pytest.raises(Exception, match=says) as caught:
        check_search(search_from_document(document(0) | {"space": space}))
    assert "\n" not in str(caught.value)


def test_a_space_without_a_layout_says_so() -> None:
    with pytest.raises(LayoutError, match="no combination"):
        search(small(0, tp=3))


def test_an_elastic_cluster_wants_a_number_of_nodes() -> None:
    values = document(0) | {"cluster": "dgx-h100"}
    with pytest.raises(SpecError, match="say how many nodes"):
        search_from_document(values)
    assert search_from_document(values | {"nodes": [4, 2]}).sizes == (2, 4)


@pytest.mark.parametrize("name", ["gpt3-175b-a100-calculon", "llama3-405b-h100"])
def test_bundled_searches_read_back(name: str) -> None:
    what = load_search(name)
    check_search(what)
    assert Search.model_validate(what.document()) == what
    assert load_search(name, ("space.tp=8",)).space.tp.values == (8,)


@pytest.mark.parametrize(
    ("software", "says"),
    [
        ({"framework": "zero-bubble-megatron", "post_validation": True}, "software.post_validation"),
        ({"framework": "pytorch", "bucket_bytes": "25 MiB", "first_bucket_bytes": "1 MiB"}, "software.bucket_bytes"),
    ],
)
def test_software_whose_steps_are_not_priced_is_refused_by_name(software: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        search(search_from_document(document(0) | {"software": software}))
