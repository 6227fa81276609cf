"""Splits of layers over parts."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import LayoutError, SpecError
from parsim.spec import Layout
from parsim.spec.split import layers_of_parts


@pytest.mark.parametrize(
    ("split", "layers", "parts", "expected"),
    [
        ("even", 12, 4, (3, 3, 3, 3)),
        ("ends_one_fewer", 126, 16, (7, *(8,) * 14, 7)),
        ("ends_one_fewer", 2, 4, (0, 1, 1, 0)),
        ("balanced", 10, 4, (2, 3, 3, 2)),
        ("balanced", 3, 4, (1, 1, 1, 0)),
        ("balanced", 7, 1, (7,)),
        ((5, 0, 7), 12, 3, (5, 0, 7)),
        ("Et*3|t*4|t*4|t*3L", 14, 4, (3, 4, 4, 3)),
        ("Et*3|(tt|)*29mL", 61, 31, (3, *(2,) * 29, 0)),
        ("E|t|t|L", 2, 4, (0, 1, 1, 0)),
        ("(E, t) * 1|tt L".replace(" * ", "*"), 3, 2, (1, 2)),
    ],
)
def test_known_splits(split: str | tuple[int, ...], layers: int, parts: int, expected: tuple[int, ...]) -> None:
    assert layers_of_parts(Layout.model_validate({"split": split}).split, layers, parts) == expected


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or the message with which it refuses."""
    try:
        return call(), ""
    except SpecError as error:
        return None, str(error)


@given(
    layers=st.integers(1, 300), parts=st.integers(1, 64), split=st.sampled_from(["even", "ends_one_fewer", "balanced"])
)
def test_a_split_places_every_layer_once(layers: int, parts: int, split: str) -> None:
    counts, refusal = outcome(lambda: layers_of_parts(split, layers, parts))
    if counts is None:
        assert split != "balanced"
        assert "would do" in refusal
        return
    assert (len(counts), sum(counts)) == (parts, layers)
    assert min(counts) >= 0
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("split", "layers", "parts", "says"),
    [
        ("even", 126, 16, "ends_one_fewer (8 a part)"),
        ("even", 61, 4, "[15, 16, 15, 15]"),
        ("ends_one_fewer", 61, 4, "[15, 16, 15, 15]"),
        ((3, 3), 6, 4, "names 2 parts, the schedule has 4"),
        ((3, 4), 6, 2, "places 7 layers, the model has 6"),
        ("Et|tL", 3, 2, "places 2 layers, the model has 3"),
    ],
)
def test_a_split_that_does_not_fit_says_what_would(
    split: str | tuple[int, ...], layers: int, parts: int, says: str
) -> None:
    with pytest.raises(LayoutError) as caught:
        layers_of_parts(split, layers, parts)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
