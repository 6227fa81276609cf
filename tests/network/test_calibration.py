"""Calibration: what a log teaches comes back, and sizes that it leaves out are near."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.errors import LayoutError, SpecError
from parsim.network.calibration import Calibration, Calibrations, Measurement
from parsim.network.estimate import KINDS, estimate
from parsim.network.reach import Reach, reach_of_size
from parsim.spec import load_cluster

MIB = 2**20
SIZES = tuple(2**power for power in range(10, 34))
NODE, MANY = reach_of_size(load_cluster("dgx-h100"), 1), reach_of_size(load_cluster("dgx-h100"), 8)
RACK = reach_of_size(load_cluster("gb200-nvl72"), 18)
POLARIS = reach_of_size(load_cluster("alcf-polaris"), 16)


def log_of(reach: Reach, factor: float = 1.0, kind: str = "all_reduce") -> list[Measurement]:
    """What the model itself says, times a factor."""
    return [
        Measurement(kind, size, estimate(kind, size, reach).seconds * factor, reach.ranks, reach.domains)
        for size in SIZES
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reach", [NODE, MANY, RACK, POLARIS], ids=lambda reach: f"{reach.kind}-{reach.ranks}")
def test_a_log_of_the_model_itself_times_a_factor_gives_the_factor_back(kind: str, reach: Reach) -> None:
    calibration = Calibration.of(log_of(reach, 1.3, kind), reach)
    for size in (*SIZES, 1, 3 * 2**40):
        plain, corrected = estimate(kind, size, reach), estimate(kind, size, reach, correction=calibration)
        assert corrected.seconds == pytest.approx(1.3 * plain.seconds, rel=1e-9)
        assert (plain.evidence, corrected.evidence) == ("fitted", "calibrated")
        assert (corrected.algorithm, corrected.protocol) == (plain.algorithm, plain.protocol)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "all_to_all"])
def test_sizes_held_out_are_near(kind: str) -> None:
    """The truth is off by a factor that drifts from 0.7 to 1.6 with the size; every second size is in the log."""

    def truth(size: float, reach: Reach) -> float:
        drift = 0.7 + 0.9 * (math.log2(size) - 10) / 23
        return estimate(kind, size, reach).seconds * drift

    for reach in (NODE, MANY):
        rows = [Measurement(kind, size, truth(size, reach), reach.ranks, reach.domains) for size in SIZES]
        calibration = Calibration.of(rows[::2], reach)
        errors = [
            abs(estimate(kind, row.size_bytes, reach, correction=calibration).seconds / row.seconds - 1)
            for row in rows[1:-1:2]
        ]
        assert sum(errors) / len(errors) < 0.08
        plain = [abs(estimate(kind, row.size_bytes, reach).seconds / row.seconds - 1) for row in rows[1:-1:2]]
        assert sum(errors) < sum(plain)


def test_other_groups_of_the_class_take_the_nearest_error() -> None:
    calibration = Calibration.of([*log_of(MANY, 1.5), *log_of(MANY, 2.0, "all_gather")], MANY)
    other = reach_of_size(load_cluster("dgx-h100"), 16)
    for kind, factor in (("all_reduce", 1.5), ("all_gather", 2.0)):
        plain = estimate(kind, MIB, other).seconds
        assert estimate(kind, MIB, other, correction=calibration).seconds == pytest.approx(factor * plain)


def test_another_class_of_links_is_left_alone() -> None:
    calibration = Calibration.of(log_of(MANY, 1.5), MANY)
    assert estimate("all_reduce", MIB, NODE, correction=calibration) == estimate("all_reduce", MIB, NODE)
    assert calibration.corrected("all_reduce", MIB, POLARIS, 1.0) is None


def test_beyond_the_log_the_error_stays_level() -> None:
    rows = [row._replace(seconds=row.seconds * (1.1 if row.size_bytes < MIB else 1.4)) for row in log_of(NODE)]
    calibration = Calibration.of(rows, NODE)
    for size, factor in ((8, 1.1), (2**38, 1.4)):
        plain = estimate("all_reduce", size, NODE).seconds
        assert estimate("all_reduce", size, NODE, correction=calibration).seconds == pytest.approx(factor * plain)


def test_a_size_measured_twice_is_the_geometric_mean() -> None:
    rows = [*log_of(NODE, 1.0), *log_of(NODE, 4.0)]
    plain = estimate("all_reduce", MIB, NODE).seconds
    corrected = estimate("all_reduce", MIB, NODE, correction=Calibration.of(rows, NODE)).seconds
    assert corrected == pytest.approx(2 * plain)


def test_a_log_of_several_classes_corrects_each_by_its_own() -> None:
    rows = [*((row, NODE) for row in log_of(NODE, 1.2)), *((row, MANY) for row in log_of(MANY, 0.8))]
    calibrations = Calibrations.of(rows)
    assert [one.fabric for one in calibrations.parts] == ["nvlink4", "ib"]
    for reach, factor in ((NODE, 1.2), (MANY, 0.8)):
        plain = estimate("all_reduce", 8 * MIB, reach).seconds
        assert estimate("all_reduce", 8 * MIB, reach, correction=calibrations).seconds == pytest.approx(factor * plain)
    assert estimate("all_reduce", MIB, POLARIS, correction=calibrations) == estimate("all_reduce", MIB, POLARIS)


def test_rows_that_say_nothing_are_passed_over() -> None:
    good = log_of(NODE, 1.3)
    bad = [
        Measurement("all_reduce", MIB, 1.0, 1, 1),
        *(Measurement("all_reduce", MIB, seconds, 8, 1) for seconds in (0.0, -1.0, math.nan, math.inf)),
        *(Measurement("all_reduce", size, 1.0, 8, 1) for size in (0, -1, math.nan, math.inf)),
    ]
    assert Calibration.of([*bad, *good], NODE) == Calibration.of(good, NODE)
    for nothing in ([], bad):
        with pytest.raises(SpecError, match="nothing to calibrate with"):
            Calibration.of(nothing, NODE)
        with pytest.raises(SpecError, match="nothing to calibrate with"):
            Calibrations.of((row, NODE) for row in nothing)


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(LayoutError, match="collective 'gather'"):
        Calibration.of([Measurement("gather", MIB, 1.0, 8, 1)], NODE)
    with pytest.raises(SpecError, match="4 ranks on 5 nodes"):
        Calibration.of([Measurement("all_reduce", MIB, 1.0, 4, 5)], MANY)


def test_a_forced_setting_is_compared_with_itself() -> None:
    rows = [
        Measurement("all_reduce", s, estimate("all_reduce", s, NODE, algorithm="ring").seconds * 1.3, 8, 1)
        for s in SIZES
    ]
    calibration = Calibration.of(rows, NODE, algorithm="ring")
    for size in SIZES:
        plain = estimate("all_reduce", size, NODE, algorithm="ring").seconds
        found = estimate("all_reduce", size, NODE, algorithm="ring", correction=calibration).seconds
        assert found == pytest.approx(1.3 * plain)


@settings(deadline=None, max_examples=60)
@given(
    factors=st.lists(st.floats(0.01, 100), min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 2**40), min_size=12, max_size=12, unique=True),
    asked=st.floats(1, 2.0**45),
)
def test_between_measured_points_the_correction_is_between_theirs(
    factors: list[float], sizes: list[int], asked: float
) -> None:
    rows = [
        Measurement("all_gather", size, estimate("all_gather", size, MANY).seconds * factor, MANY.ranks, MANY.domains)
        for factor, size in zip(factors, sizes, strict=False)
    ]
    calibration = Calibration.of(rows, MANY)
    for row, factor in itertools.islice(zip(rows, factors, strict=True), 3):
        found = estimate("all_gather", row.size_bytes, MANY, correction=calibration).seconds
        assert found == pytest.approx(row.seconds, rel=1e-6), factor
    found = estimate("all_gather", asked, MANY, correction=calibration).seconds
    seconds = [row.seconds for row in rows]
    plain = estimate("all_gather", asked, MANY).seconds
    least = min(min(seconds), plain * min(factors))
    most = max(max(seconds), plain * max(factors))
    assert least * (1 - 1e-9) <= found <= most * (1 + 1e-9)
