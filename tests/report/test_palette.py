"""The colours stay apart for readers with normal and with colour-blind vision, and text on them can be read."""

from itertools import combinations

import numpy as np
import pytest

from parsim.plan import COMPUTE, Kind
from parsim.report.palette import MEANING, colour, ink_on, rank_colour

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(text: str) -> np.ndarray:
    channels = np.array([int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_kinds_and_their_shades_stay_apart(vision: str) -> None:
    looks = {f"{kind}{level}": colour(kind, level, 2) for kind in COMPUTE for level in (0, 1)}
    looks |= {kind.value: colour(kind) for kind in (Kind.REDUCE_GRAD, Kind.STEP)}
    seen = {name: lab(VISION[vision] @ linear(text)) for name, text in looks.items()}
    closest = min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(seen, 2))
    assert closest[0] > 13, closest  # CIE76; 2.3 is the least that can be seen


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_shades_get_lighter_and_their_text_stays_readable(levels: int) -> None:
    for kind in COMPUTE:
        shades = [linear(colour(kind, level, levels)) @ [0.2126, 0.7152, 0.0722] for level in range(levels)]
        assert shades == sorted(shades)
        for level, luminance in enumerate(shades):
            ink = linear(ink_on(colour(kind, level, levels))) @ [0.2126, 0.7152, 0.0722]
            light, dark = max(ink, luminance), min(ink, luminance)
            assert (light + 0.05) / (dark + 0.05) > 4, (kind, level)


def test_every_kind_and_every_rank_has_a_colour() -> None:
    assert set(MEANING) == set(Kind)
    assert "I + W" in MEANING[Kind.B]
    assert len({rank_colour(rank, 64) for rank in range(64)}) == 64
    assert rank_colour(0, 1) == rank_colour(0, 8)
