"""Tables of memory: what a change costs is told without the noise of floats."""

from parsim.report.memory_table import remedies_table


def test_a_change_that_costs_nothing_has_no_sign_of_a_gain() -> None:
    change = {"peak_memory_bytes": 2.0**30, "step_time_s": 1.0, "slower": -1e-12, "set": ["layout.zero=1"]}
    _, _, rows, _ = remedies_table({"changes": [change, {**change, "slower": 0.0126}], "note": ""})
    assert [row[2] for row in rows] == ["+0.0%", "+1.3%"]
