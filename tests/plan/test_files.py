"""Plans as CSV and JSON: strict reading, both ways, and the two chains that a CSV does not spell."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parsim.errors import DeadlockError, ScheduleError
from parsim.plan import (
    add_gradient_reduction,
    add_optimizer_step,
    add_p2p,
    check,
    mirrored,
    parse_csv,
    plan_document,
    plan_from_document,
    vee,
    write_csv,
)
from parsim.schedules import build

TWO_RANKS = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


def test_csv_both_ways() -> None:
    plan = parse_csv(TWO_RANKS)
    assert plan.orders == build("1f1b", 2, 2).orders
    assert write_csv(plan) == TWO_RANKS


@pytest.mark.parametrize(
    "text",
    [
        TWO_RANKS.replace("\n", "\r\n"),
        TWO_RANKS.rstrip("\n"),
        TWO_RANKS + "\n\n" + ",,\n",
        "0F0,0F1,,,0B0,,0B1\n,1F0,1B0,1F1,1B1\n",
        " 0F0 , 0F1,\t0B0,0B1\n1F0,1B0,1F1,1B1,,\n",
    ],
)
def test_idle_cells_and_line_ends_do_not_matter(text: str) -> None:
    assert parse_csv(text) == parse_csv(TWO_RANKS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the plan is empty"),
        ("\n\n , \n", "the plan is empty"),
        ("0F0,0B0\n\n1F0,1B0\n", "row 2 is empty"),
        ("0F0,0B0\n1F0,1B0x\n", r"row 2, cell 2: '1B0x' is not an op"),
        ("0F0,0F-1\n", r"row 1, cell 2: '0F-1' is not an op"),
        ("0F0,hello\n", r"row 1, cell 2: 'hello' is not an op"),
        ("0F0;0B0\n", "row 1, cell 1"),
        ('"0F0","0B0"\n', "row 1, cell 1"),
        ("0F0\u20280B0\n", "row 1, cell 1"),
        ("0F0\x0c0B0\n", "row 1, cell 1"),
        ("0F0,2B0\n1F0\n", r"rank 0 never plays 0B0|stages go up to 2"),
        ("0F0,0B0,2F0,2B0\n", "stages go up to 2, but no rank plays stage 1"),
        ("0F0,0B0\n0F1,0B1\n", "0F1 is on rank 1, but stage 0 stands on rank 0"),
        ("0F0,0B0,0F999999999\n", "rank 0 never plays 0F1"),
        ("999999999F0\n", "stages go up to 999999999"),
        ("0REDUCE_GRAD\n", "rank 0 never plays 0F0"),
        ("rank,op\n0,0F0\n", "row 1, cell 1"),
        ("PK\x03\x04\x00", "row 1, cell 1"),
    ],
)
def test_csv_that_is_not_a_plan(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message) as refused:
        parse_csv(text)
    assert len(str(refused.value).splitlines()) == 1


def test_csv_that_deadlocks() -> None:
    with pytest.raises(DeadlockError, match="rank 0 waits at 0B0 for 1B0"):
        parse_csv("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n")


def test_a_hundred_thousand_blank_lines_take_no_time() -> None:
    assert parse_csv(TWO_RANKS + "\n" * 100_000) == parse_csv(TWO_RANKS)


def test_what_pytorchs_grammar_lacks_is_not_written() -> None:
    with pytest.raises(ScheduleError, match="rank 0 plays 0STEP: PyTorch's CSV has no STEP"):
        write_csv(add_optimizer_step(build("1f1b", 2, 2)))


def test_the_same_rows_are_a_vee_or_two_chains() -> None:
    """DualPipe and DualPipeV put the same stages on the same ranks; only the chains differ, and a CSV has none."""
    for pp in (2, 4, 6, 8):
        assert vee(pp).rank_of == mirrored(pp).rank_of
        assert parse_csv(write_csv(build("dualpipe", pp, 2 * pp))).placement == mirrored(pp)
        assert parse_csv(write_csv(build("dualpipe-v", pp, 2 * pp))).placement == vee(pp)
        assert parse_csv(write_csv(build("zb-v", pp, 2 * pp))).placement == vee(pp)
    lowered = add_p2p(add_gradient_reduction(build("dualpipe", 4, 8)))
    assert parse_csv(write_csv(lowered), "dualpipe") == lowered


def test_two_chains_that_deadlock_are_reported_as_one() -> None:
    rows = write_csv(build("dualpipe", 2, 4)).splitlines()
    cells = rows[0].split(",")
    with pytest.raises(DeadlockError):
        parse_csv("\n".join([",".join(reversed(cells)), *rows[1:]]))


@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zb-v", "dualpipe", "dualpipe-v"])
def test_json_both_ways(name: str) -> None:
    plan = add_p2p(add_optimizer_step(add_gradient_reduction(build(name, 4, 8))))
    assert plan_from_document(json.loads(json.dumps(plan_document(plan)))) == plan


def test_a_document_without_placement_is_read_as_a_csv() -> None:
    document = plan_document(build("dualpipe", 4, 8))
    del document["placement"]
    assert plan_from_document(document) == build("dualpipe", 4, 8)
    assert plan_from_document({"orders": [["0F0", "0B0"]]}).name == "custom"
    assert plan_from_document({"orders": [["0F0", "0B0"]], "schedule": "mine"}).name == "mine"


GOOD = plan_document(build("1f1b", 2, 2))
NESTED: object = "0F0"
for _ in range(10_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": None}, "'orders' must be a list of lists"),
        ({"orders": "0F0"}, "'orders' must be a list of lists"),
        ({"orders": [["0F0", 3]]}, "'orders' must be a list of lists"),
        ({"orders": [["0F0", None]]}, "'orders' must be a list of lists"),
        ({"orders": [{"0F0": 1}]}, "'orders' must be a list of lists"),
        ({"orders": NESTED}, "'orders' must be a list of lists"),
        ({"orders": []}, "the plan is empty"),
        ({"orders": [["0F0", "0B0"], []]}, "1 orders for 2 pipeline ranks|row 2 is empty"),
        ({"orders": [["0F0"], ["1F0x"]]}, "row 2, cell 1: '1F0x' is not an op"),
        ({"schema_version": "2.0"}, r"schema_version '2\.0': this parsim reads 1\.x"),
        ({"schema_version": "10.0"}, "this parsim reads 1"),
        ({"schema_version": 1.0}, "schema_version 1.0"),
        ({"schema_version": None}, "schema_version None"),
        ({"microbatches": None}, "microbatches None"),
        ({"microbatches": "2"}, "microbatches '2'"),
        ({"microbatches": True}, "microbatches True"),
        ({"microbatches": 2.0}, "microbatches 2.0"),
        ({"microbatches": 0}, "micro-batches 0"),
        ({"microbatches": -(10**30)}, "at least 1"),
        ({"microbatches": 10**30}, "rank 0 never plays 0F2"),
        ({"microbatches": 1}, "micro-batches go from 0 to 0"),
        ({"name": NESTED}, "'name' must be text"),
        ({"name": 7}, "'name' must be text"),
        ({"placement": None}, "placement: needs exactly the keys"),
        ({"placement": {}}, "placement: needs exactly the keys"),
        ({"placement": {**GOOD["placement"], "extra": 1}}, "placement: needs exactly the keys"),
        ({"placement": {**GOOD["placement"], "chains": 3}}, "placement: needs exactly the keys"),
        ({"placement": {**GOOD["placement"], "chains": [3]}}, "lists of whole numbers"),
        ({"placement": {**GOOD["placement"], "chains": [[0, True]]}}, "lists of whole numbers"),
        ({"placement": {**GOOD["placement"], "rank_of": [0, -1]}}, "lists of whole numbers"),
        ({"placement": {**GOOD["placement"], "rank_of": [0, 1.5]}}, "lists of whole numbers"),
        ({"placement": {**GOOD["placement"], "rank_of": [0, 10**30]}}, "without a gap"),
        ({"placement": {**GOOD["placement"], "part_of": [0, 10**30]}}, "must run through every part"),
        ({"placement": {"chains": [], "rank_of": [], "part_of": []}}, "at least one stage"),
        ({"placement": {"chains": [[0, 1], []], "rank_of": [0, 1], "part_of": [0, 1]}}, "must run through"),
        ({"placement": {"chains": [[1, 0]], "rank_of": [0, 1], "part_of": [0, 1]}}, "must run through"),
    ],
)
def test_json_that_is_not_a_plan(change: dict[str, object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        plan_from_document({**GOOD, **change})


@pytest.mark.parametrize("document", [None, 3, "0F0", [["0F0", "0B0"]], True, {}])
def test_json_of_another_kind(document: object) -> None:
    with pytest.raises(ScheduleError, match="not a plan"):
        plan_from_document(document)


def test_a_document_without_placement_may_not_contradict_its_orders() -> None:
    with pytest.raises(ScheduleError, match="microbatches 8: the orders play 2"):
        plan_from_document({"orders": [["0F0", "0F1", "0B0", "0B1"]], "microbatches": 8})


cells = st.text(alphabet="0123456789FBIWSENDRCV_(;)OVERLAP,\n \r\x00٣", max_size=60)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["0F0", "0B0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, "chains"]), inner, max_size=4),
    max_leaves=12,
)


@given(cells)
def test_any_text_is_a_plan_or_refused(text: str) -> None:
    with suppress(ScheduleError):
        check(parse_csv(text))


@given(st.dictionaries(st.sampled_from([*GOOD]), values, max_size=5), st.booleans())
def test_any_document_is_a_plan_or_refused(change: dict[str, object], over_a_good_one: bool) -> None:
    with suppress(ScheduleError):
        check(plan_from_document({**GOOD, **change} if over_a_good_one else change))
