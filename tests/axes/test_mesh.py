"""The mesh: rank and coordinates are one-to-one, and the groups of an axis partition the ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.axes.mesh import AXES, EXPERT_AXES, Coordinates, coordinates, expert_groups, group_of, groups, rank_at
from parsim.errors import LayoutError
from parsim.spec import Mesh

meshes = st.builds(Mesh, tp=st.integers(1, 4), cp=st.integers(1, 3), dp=st.integers(1, 4), pp=st.integers(1, 4))


@given(meshes)
def test_every_rank_has_its_own_coordinates(mesh: Mesh) -> None:
    places = [coordinates(mesh, rank) for rank in range(mesh.size)]
    assert len(set(places)) == mesh.size
    assert [rank_at(mesh, place) for place in places] == list(range(mesh.size))


@given(meshes, st.sets(st.sampled_from(AXES)))
def test_groups_partition_the_ranks_and_differ_on_their_axes_alone(mesh: Mesh, axes: set[str]) -> None:
    found = groups(mesh, *axes)
    assert sorted(rank for group in found for rank in group) == list(range(mesh.size))
    others = [axis for axis in AXES if axis not in axes]
    for group in found:
        places = [coordinates(mesh, rank) for rank in group]
        assert all(len({getattr(place, axis) for place in places}) == 1 for axis in others)
        assert group_of(mesh, group[-1], *axes) == group == tuple(sorted(group))


def test_three_dimensional_example_of_32_ranks() -> None:
    """tp 4, dp 2, pp 4 (the DeepSpeed 3D picture): 8 tensor, 16 data and 8 pipeline groups; tp is innermost."""
    mesh = Mesh(tp=4, dp=2, pp=4)
    shapes = {axis: (len(groups(mesh, axis)), len(groups(mesh, axis)[0])) for axis in ("tp", "dp", "pp")}
    assert shapes == {"tp": (8, 4), "dp": (16, 2), "pp": (8, 4)}
    assert groups(mesh, "tp")[0] == (0, 1, 2, 3)
    assert groups(mesh, "dp")[0] == (0, 4)
    assert groups(mesh, "pp")[0] == (0, 8, 16, 24)


def test_ranks_and_axes_outside_the_mesh_are_refused() -> None:
    mesh = Mesh(tp=2, dp=2)
    with pytest.raises(LayoutError, match="ranks 0 to 3"):
        coordinates(mesh, 4)
    with pytest.raises(LayoutError, match="dp 2: the axis has indices 0 to 1"):
        rank_at(mesh, Coordinates(dp=2))
    with pytest.raises(LayoutError, match="tp, cp, dp, pp"):
        groups(mesh, "ep")


@pytest.mark.parametrize(("ep", "expert_tp"), [(1, 1), (4, 1), (2, 2), (8, 2), (16, 1)])
def test_experts_see_the_same_ranks_in_another_way(ep: int, expert_tp: int) -> None:
    """Each axis's groups partition the ranks, never over a border of pipeline ranks; ep's are neighbours."""
    mesh = Mesh(tp=2, cp=2, dp=4, pp=2)
    sizes = {"expert_tp": expert_tp, "ep": ep, "expert_dp": 16 // (ep * expert_tp)}
    for axis in EXPERT_AXES:
        found = expert_groups(mesh, ep, expert_tp, axis)
        assert sorted(rank for group in found for rank in group) == list(range(32))
        assert {len(group) for group in found} == {sizes[axis]}
        assert all(group[0] // 16 == group[-1] // 16 for group in found)
    if expert_tp == 1:
        assert expert_groups(mesh, ep, 1, "ep")[0] == tuple(range(ep))


def test_an_impossible_view_is_refused() -> None:
    with pytest.raises(LayoutError, match="must divide dp"):
        expert_groups(Mesh(dp=4), 3, 1, "ep")
    with pytest.raises(LayoutError, match="expert_tp, ep, expert_dp"):
        expert_groups(Mesh(dp=4), 2, 1, "dp")
